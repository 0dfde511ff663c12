"""What the goal distance is taught on: recorded frames and what a world imagines, each under the right position."""

from dataclasses import replace

import pytest
import torch

from colaworld.adapters.system import ColaSystem, staged
from colaworld.adapters.world import ColaWorld
from colaworld.envs.demos import ClipDataset
from colaworld.experiments.goal_distance_fit import distance_measures, draw_distances, imagine_frames, spread_of, truths
from colaworld.experiments.goal_pairs import GoalFrames, Pairs, progress_pairs, tabulate_goals
from colaworld.experiments.presets import PRESETS, build
from colaworld.models.goal_distance import GoalDistance

SIZES = {"latent_channels": 4, "latent_height": 2, "latent_width": 2, "width": 2, "hidden": 4}


@pytest.fixture
def system() -> ColaSystem:
    torch.manual_seed(0)
    made = build(PRESETS["nano"], height=16, width=16, frame_skip=5, action_dim=7, render_profile="lite")
    for part in (made.video, made.conditioner):  # what is untrained answers with nothing
        for parameter in part.parameters():
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
    return staged(made, "adapter")


@pytest.fixture
def clips(tmp_path, fake_recording) -> ClipDataset:
    fake_recording(tmp_path / "data.hdf5", (0, 1, 2, 7), frames=20)
    return ClipDataset([tmp_path / "data.hdf5"], length=2, split="train")


@pytest.fixture
def table(system: ColaSystem, clips: ClipDataset) -> GoalFrames:
    return tabulate_goals(system.codec, clips.episodes)


def test_an_imagined_frame_is_what_the_planner_would_see_in_its_place(system, clips, table) -> None:
    """Off by one step, or with other actions, it would stand for another frame."""
    found, world = imagine_frames(system, table, seed=0), ColaWorld(system)
    assert found.there.sum() >= 12 * len(table.length) and found.steps.max() == 6
    assert found.there[table.first + table.length - 1].all()
    assert not found.there[table.first].any() and not found.there[table.first + 1].any()  # nothing comes before these
    number = int((found.steps == 3).nonzero()[0, 0])
    trajectory = int(table.trajectory[number])
    start = number - 4  # two frames of context, then the third imagined one
    episode = clips.episodes[trajectory]
    frames = torch.from_numpy(episode.frames[:])[start - int(table.first[trajectory]) :][:2]
    state = world.start(frames, table.actions[start : start + 1])
    imagined = world.imagine(state, table.actions[start + 1 : start + 7][None])[0]
    torch.testing.assert_close(found.latents[number - 2 : number + 4], imagined, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(imagined[2], imagined[3], atol=1e-3)  # or nothing would be told apart here


def test_windows_avoid_what_has_no_actions_and_nothing_is_imagined_without_any(system, table) -> None:
    actions = table.actions.clone()
    actions[table.trajectory == 1] = torch.nan
    found = imagine_frames(system, replace(table, actions=actions), seed=0)
    assert found.there.any() and not found.there[table.trajectory == 1].any()
    assert imagine_frames(system, replace(table, actions=torch.full_like(actions, torch.nan)), seed=0) is None
    assert imagine_frames(staged(system, "joint"), table, seed=0) is None


def test_of_trajectories_too_short_to_imagine_nothing_is(system, tmp_path, fake_recording) -> None:
    fake_recording(tmp_path / "short.hdf5", (0, 1), frames=5)
    short = tabulate_goals(system.codec, ClipDataset([tmp_path / "short.hdf5"], length=2, split="train").episodes)
    assert imagine_frames(system, short, seed=0) is None
    measures = distance_measures(GoalDistance(**SIZES), short, None, torch.zeros(len(short), 3, 16, 16))
    assert set(measures["gripper_off_cm"]) == {"recorded"} and "order_imagined" not in measures


def test_measures_of_a_reader_that_is_right_and_of_one_that_is_off(system, table) -> None:
    """The planted reader knows each frame by its latent: it answers 2 cm off, and by pairs with the true distance."""
    imagined = imagine_frames(system, table, seed=0)

    class Planted(GoalDistance):
        def gripper(self, frames):
            places = [self._place(frame) for frame in frames]
            return torch.stack(places) + torch.tensor([0.02, 0.0, 0.0]), torch.zeros(len(frames), 3)

        def _place(self, frame):
            for latents in (table.latents, imagined.latents):
                same = (latents == frame).flatten(1).all(dim=1)
                if same.any():
                    return table.ee_pos[int(same.nonzero()[0, 0])]
            raise AssertionError("a frame that is neither recorded nor imagined")

    measures = distance_measures(Planted(**SIZES), table, imagined, torch.zeros(len(table), 3, 16, 16))
    assert measures["gripper_off_cm"]["recorded"] == pytest.approx(2.0, abs=1e-3)
    assert measures["gripper_off_cm"]["imagined 6 ahead"] == pytest.approx(2.0, abs=1e-3)
    assert measures["order"]["distance"] > 0.99 > abs(measures["order"]["pixel"])
    assert measures["order_imagined"]["distance"] > 0.99


def test_a_draw_has_imagined_frames_in_its_share_under_the_true_positions(system, table) -> None:
    imagined = imagine_frames(system, table, seed=0)
    own = imagined.latents[imagined.there]

    def is_imagined(latent: torch.Tensor) -> bool:
        return bool((latent == own).flatten(1).all(dim=1).any())

    for share in (0.0, 1.0):
        draw = draw_distances(table, imagined, 64, 5, 0.3, share)
        now, goal, truth = draw(torch.Generator().manual_seed(1))
        shown = sum(map(is_imagined, now))
        pairs = progress_pairs(table, 64, 5, 0.3, torch.Generator().manual_seed(1))
        assert shown == share * imagined.there[pairs.now].sum()
        assert not any(map(is_imagined, goal))
        assert truth.shape == (64, 7) and torch.isfinite(truth).all()


def test_truths_are_both_grippers_and_the_farthest_object(table) -> None:
    pairs = Pairs(torch.tensor([1, 3]), torch.tensor([4, 3]), torch.tensor([3, 0]))
    truth = truths(table, pairs)
    assert torch.equal(truth[:, :3], table.ee_pos[[1, 3]]) and torch.equal(truth[:, 3:6], table.ee_pos[[4, 3]])
    torch.testing.assert_close(truth[:, 6], table.object_gap(pairs.now, pairs.goal))
    assert truth[1, 6] == 0.0
    centre, spread = spread_of(table)
    assert centre == pytest.approx(table.ee_pos.mean(dim=0).tolist()) and spread > 0


def test_positions_are_what_it_is_taught_by(table) -> None:
    with pytest.raises(ValueError, match="taught by positions of gripper and objects; the data have none"):
        draw_distances(replace(table, ee_pos=torch.full_like(table.ee_pos, torch.nan)), None, 8, 5, 0.3, 0.0)
