"""What is drawn is what it says: hindsight pairs, pairs in which objects moved, far pairs with the arm in its place."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from colaworld.envs.demos import Episode
from colaworld.experiments.goal_pairs import (
    CANDIDATES,
    FAR,
    MOVED,
    PLACED,
    GoalFrames,
    Pairs,
    across,
    across_with_the_arm,
    along,
    along_with_objects,
    chunks_towards,
    progress_pairs,
    success_labels,
    tabulate_goals,
)


class Codec(torch.nn.Linear):
    """Latents are the mean brightness of a frame."""

    def __init__(self) -> None:
        super().__init__(1, 1)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.float().mean(dim=(1, 2, 3))[:, None, None, None]


def episode(seed: int, *, scene: str, frames: int = 12, objects: int = 2) -> Episode:
    """The gripper walks on a line; in odd trajectories the first object goes with it in the second half."""
    draw = np.random.default_rng(seed)
    line = draw.uniform(0, 0.2, 3) + 0.02 * np.arange(frames)[:, None] * (1.0, 0.0, 0.0)
    things = np.repeat(draw.uniform(0, 0.3, (1, objects, 3)), frames, axis=0)
    if seed % 2:
        things[frames // 2 :, 0] += line[frames // 2 :] - line[frames // 2]
    return Episode(
        frames=np.full((frames, 3, 2, 2), seed, np.uint8),
        actions=np.broadcast_to(np.arange(frames - 1)[:, None, None] / 100 + seed, (frames - 1, 5, 2)).astype("f4"),
        ee_pos=line.astype(np.float32),
        object_pos=things.astype(np.float32),
        object_names=("a", "b", "c")[:objects],
        seed=seed,
        kind="play",
        split="train",
        scene=scene,
        demo=f"demo_{seed}",
    )


@pytest.fixture(scope="module")
def table() -> GoalFrames:
    made = [
        episode(seed, scene="xy"[seed % 3 == 0], frames=12 + seed % 2, objects=2 + (seed % 3 == 0))
        for seed in range(9)
    ]
    return tabulate_goals(Codec(), [*made, episode(20, scene="alone", frames=9)])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_table_holds_every_frame(table) -> None:
    assert len(table) == sum(12 + seed % 2 for seed in range(9)) + 9 and table.privileged
    assert table.latents[table.first, 0, 0, 0].tolist() == [*range(9), 20]
    assert table.actions[table.first + 3, 0].tolist() == pytest.approx([seed + 0.03 for seed in [*range(9), 20]])
    ends = table.first + table.length - 1
    assert table.actions[ends].isnan().all() and int(table.actions.isnan().any(1).sum()) == 10
    assert table.object_pos[table.first[1], 2].isnan().all() and table.object_pos[table.first[0], 2].isfinite().all()
    with pytest.raises(ValueError, match="2 frames or more"):
        tabulate_goals(Codec(), [episode(0, scene="x", frames=1)])


def test_pairs_of_one_trajectory_are_as_far_as_they_say(table) -> None:
    pairs = along(table, 4000, 8, generator(), shortest=1)
    assert torch.equal(pairs.goal - pairs.now, pairs.steps)
    assert torch.equal(table.trajectory[pairs.goal], table.trajectory[pairs.now])
    counts = pairs.steps.bincount(minlength=9)
    assert counts[0] == 0 and len(counts) == 9 and counts[1:].min() > 0.8 * 4000 / 8
    assert along(table, 500, 8, generator()).steps.min() == 0
    assert along(table, 2000, 99, generator()).steps.max() == 12, "the longest trajectory's"
    assert len(table.trajectory[pairs.now].unique()) == 10


def test_where_it_is_asked_an_object_moved(table) -> None:
    plain, moved = along(table, 2000, 8, generator()), along_with_objects(table, 2000, 8, generator())
    share = [(table.object_gap(pairs.now, pairs.goal) > MOVED).float().mean() for pairs in (plain, moved)]
    assert share[0] < 0.3 and share[1] > 0.8
    assert torch.equal(moved.goal - moved.now, moved.steps)


def test_far_pairs_are_of_two_trajectories_and_one_scene_if_it_has_two(table) -> None:
    pairs = across(table, 3000, generator())
    one, other = table.trajectory[pairs.now], table.trajectory[pairs.goal]
    assert (one != other).all() and (pairs.steps == FAR).all()
    same = table.scene[one] == table.scene[other]
    alone = one == 9
    assert same[~alone].all() and not same[alone].any() and alone.any()
    seen = {(int(a), int(b)) for a, b in zip(one, other, strict=True)}
    assert len(seen) == 6 * 5 + 3 * 2 + 9, "every ordered pair of a scene, and the lonely one's with all"


def test_the_arm_is_put_where_it_is_and_an_object_is_not(table) -> None:
    plain, matched = across(table, 1000, generator()), across_with_the_arm(table, 1000, generator())
    assert (table.object_gap(matched.now, matched.goal) > PLACED).float().mean() > 0.99
    gaps = [table.gripper_gap(pairs.now, pairs.goal).median() for pairs in (plain, matched)]
    assert gaps[1] < 0.6 * gaps[0]
    assert (table.trajectory[matched.now] != table.trajectory[matched.goal]).all()
    assert CANDIDATES >= 16


def test_the_mixture_has_its_shares_and_follows_its_generator(table) -> None:
    pairs = progress_pairs(table, 200, 8, 0.3, generator())
    assert len(pairs.now) == 200 and int((pairs.steps == FAR).sum()) == 60
    again = progress_pairs(table, 200, 8, 0.3, generator())
    assert all(torch.equal(a, b) for a, b in zip(pairs, again, strict=True))
    blind = replace(table, object_pos=torch.full_like(table.object_pos, torch.nan))
    assert not blind.privileged
    assert int((progress_pairs(blind, 200, 8, 0.3, generator()).steps == FAR).sum()) == 60
    single = tabulate_goals(Codec(), [episode(1, scene="x")])
    assert (progress_pairs(single, 50, 8, 0.3, generator()).steps < FAR).all(), "one trajectory has nothing far"


def test_labels_are_the_goals_radii(table) -> None:
    place = torch.zeros(4, 3)
    place[1, 0], place[2, 0], place[3, 0] = 0.029, 0.031, 0.3
    things = torch.zeros(4, 2, 3)
    things[1, 1, 2], things[2, 0, 1] = 0.051, 0.049
    toy = replace(table, ee_pos=place, object_pos=things)
    pairs = Pairs(torch.arange(4), torch.zeros(4, dtype=torch.int64), torch.arange(4))
    assert success_labels(toy, pairs).tolist() == [[1, 1], [1, 0], [0, 1], [0, 1]]


def test_chunks_end_at_the_goal(table) -> None:
    pairs = along(table, 500, 6, generator(), shortest=1)
    chunks = chunks_towards(table, pairs, 4)
    known = chunks.isfinite().all(-1)
    assert torch.equal(known, torch.arange(4) < pairs.steps[:, None])
    offset = pairs.now - table.first[table.trajectory[pairs.now]]
    seeds = table.latents[pairs.now, 0, 0, 0]
    torch.testing.assert_close(chunks[:, 0, 0], seeds + offset / 100)
