"""How many of a manifest's goals recorded data covers: some recorded position of the same thing in the same scene."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from colaworld.envs.manifest import load_manifest
from colaworld.experiments.goal_coverage import GRIPPER, Goal, coverage, covered, goal_of, recorded_places

Write = Callable[..., list]


def goal(place: tuple[float, float, float], thing: str = GRIPPER, scene: str = "s") -> Goal:
    return Goal(scene=scene, thing=thing, place=np.array(place))


def test_a_goal_is_covered_by_the_same_thing_in_the_same_scene() -> None:
    places = {"s": {GRIPPER: np.zeros((3, 3)), "bowl": np.ones((2, 3))}, "t": {GRIPPER: np.ones((1, 3))}}
    assert covered(places, [goal((0, 0, 0.019))]).covered == (1, 1)
    assert covered(places, [goal((0, 0.03, 0))]).covered == (0, 1)
    assert covered(places, [goal((0.06, 0, 0))]).covered == (0, 0)
    assert covered(places, [goal((1, 1, 1))]).covered == (0, 0)  # the bowl was there, the gripper was not
    assert covered(places, [goal((1, 1, 1), "bowl"), goal((1, 1, 1), GRIPPER, "t")]).covered == (2, 2)
    assert covered(places, [goal((0, 0, 0), "plate"), goal((0, 0, 0), scene="u")]).covered == (0, 0)
    share = covered(places, [goal((0, 0.03, 0)), goal((0, 0, 0))])
    assert share.text() == "1/2 (50 %) within 2 cm, 2/2 (100 %) within 5 cm"
    assert covered(places, []).text() == "no goals"


def test_goals_of_the_manifest_that_ships_and_goals_without_a_position() -> None:
    instances = load_manifest("libero_goals_v0").instances
    for instance in instances:
        found = goal_of(instance)
        assert found is not None and found.scene == instance.scene
        assert (found.thing == GRIPPER) == (instance.category == "reach")
        np.testing.assert_array_equal(found.place, instance.predicate.target)
    for instance in load_manifest("libero_goals_v1").instances:
        assert (goal_of(instance) is None) == (instance.category in ("open_drawer", "close_drawer"))


def test_the_figure_and_the_printed_shares(
    fake_recording: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trajectories = fake_recording(tmp_path / "data" / "a.hdf5", [1, 2])
    places = recorded_places([tmp_path / "data"])["libero_goal_0"]
    assert list(places) == [GRIPPER, "bowl", "plate"]
    np.testing.assert_allclose(places[GRIPPER], np.concatenate([each.ee_pos for each in trajectories]), atol=1e-6)
    np.testing.assert_allclose(places["bowl"][:6], trajectories[0].object_pos[:, 0], atol=1e-6)
    coverage((tmp_path / "data",), out=tmp_path / "new" / "c.png")
    said = capsys.readouterr().out
    assert "libero_goal_0, gripper goals: " in said and "not recorded: " in said
    assert (tmp_path / "new" / "c.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="--out should end in .png"):
        coverage((tmp_path / "data",), out=tmp_path / "c.txt")
    with pytest.raises(FileNotFoundError, match="no goal manifest 'nothing'"):
        coverage((tmp_path / "data",), manifest="nothing", out=tmp_path / "c.png")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        coverage((tmp_path / "nowhere",), out=tmp_path / "c.png")
