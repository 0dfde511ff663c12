"""Which trajectories keep their labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from colaworld.envs.demos import Episode
from colaworld.experiments.labels import labelled, labelled_steps, withhold_labels


def episodes(scenes: dict[str, int]) -> list[Episode]:
    return [
        Episode(
            frames=np.zeros((4, 3, 2, 2), np.uint8),
            actions=np.full((3, 5, 7), number, np.float32),
            ee_pos=np.zeros((4, 3), np.float32),
            object_pos=np.zeros((4, 0, 3), np.float32),
            object_names=(),
            seed=number,
            kind="play",
            split="train",
            scene=scene,
            demo=f"demo_{number}",
        )
        for scene, count in scenes.items()
        for number in range(count)
    ]


def names(chosen: list[Episode]) -> set[tuple[str, str]]:
    return {(each.scene, each.demo) for each in labelled(chosen)}


def test_a_share_of_whole_trajectories_of_every_scene_keeps_its_labels():
    played = episodes({"kitchen": 200, "table": 100, "floor": 3})
    kept = withhold_labels(played, 0.1, seed=0)
    assert [each.demo for each in kept] == [each.demo for each in played]
    counts = [sum(scene == name for scene, _ in names(kept)) for name in ("kitchen", "table", "floor")]
    assert counts == [20, 10, 1]
    for before, after in zip(played, kept, strict=True):
        assert after.frames is before.frames
        assert np.isnan(after.actions).all() or np.array_equal(after.actions, before.actions)
    assert not any(np.isnan(each.actions).any() for each in played)


def test_smaller_shares_lie_within_larger_ones():
    played = episodes({"kitchen": 150, "table": 40})
    shares = [names(withhold_labels(played, fraction, seed=3)) for fraction in (0.01, 0.1, 0.5, 1.0)]
    assert shares[0] < shares[1] < shares[2] < shares[3] == names(played)


def test_the_choice_follows_the_seed_and_not_the_order_of_the_data():
    played = episodes({"kitchen": 50, "table": 50})
    chosen = names(withhold_labels(played, 0.1, seed=0))
    assert names(withhold_labels(played[::-1], 0.1, seed=0)) == chosen
    assert names(withhold_labels(played, 0.1, seed=1)) != chosen


def test_the_share_is_of_what_has_labels():
    played = episodes({"kitchen": 20})
    unknown = [replace(each, actions=np.full((3, 5, 7), np.nan, np.float32), scene="video") for each in played]
    kept = withhold_labels(unknown + played, 0.5, seed=0)
    assert len(names(kept)) == 10 and {scene for scene, _ in names(kept)} == {"kitchen"}
    assert labelled(unknown) == []


def test_a_step_without_any_number_is_unknown():
    actions = torch.zeros(4, 5, 7)
    actions[1], actions[2, 0, 0] = float("nan"), float("nan")
    assert labelled_steps(actions).tolist() == [True, False, True, True]


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_shares_that_cannot_be_are_named(fraction):
    with pytest.raises(ValueError, match=rf"lie in \(0, 1\], got {fraction}"):
        withhold_labels(episodes({"kitchen": 2}), fraction, seed=0)
