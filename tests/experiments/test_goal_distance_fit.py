"""What the goal distance is taught on: recorded frames and what a world imagines, each under the right position."""

from dataclasses import replace

import pytest
import torch

from colaworld.adapters.system import ColaSystem, staged
from colaworld.adapters.world import ColaWorld
from colaworld.envs.demos import ClipDataset
from colaworld.experiments.goal_distance_fit import draw_distances, imagine_frames, spread_of, truths
from colaworld.experiments.goal_pairs import GoalFrames, Pairs, tabulate_goals
from colaworld.experiments.presets import PRESETS, build


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
    assert found.there.sum() >= 6 * len(table.length) and found.steps.max() == 6
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


def test_a_draw_has_imagined_frames_in_its_share_under_the_true_positions(system, table) -> None:
    imagined = imagine_frames(system, table, seed=0)
    own = imagined.latents[imagined.there]

    def is_imagined(latent: torch.Tensor) -> bool:
        return bool((latent == own).flatten(1).all(dim=1).any())

    for share in (0.0, 1.0):
        draw = draw_distances(table, imagined, 64, 5, 0.3, share)
        now, goal, truth = draw(torch.Generator().manual_seed(1))
        shown = sum(map(is_imagined, now))
        assert shown == 0 if share == 0.0 else shown > 32
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
