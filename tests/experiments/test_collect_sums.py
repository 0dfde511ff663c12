"""Checksums of recordings: over content and not containers, exact or within tolerance, and lists that are not right."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from colaworld.experiments.collect import PLAN_FILE, collect, verify_folder
from colaworld.experiments.collect_sums import (
    GRIPPER_TOLERANCE,
    OBJECT_TOLERANCE,
    SUMS,
    EpisodeSum,
    compare,
    content_hash,
    folder_sums,
    read_sums,
    sums_text,
)

Write = Callable[..., list]


def test_the_hash_is_over_content_and_not_over_the_container(fake_recording: Write, tmp_path: Path) -> None:
    fake_recording(tmp_path / "a" / "x.hdf5", [1, 2])
    fake_recording(tmp_path / "b" / "y.hdf5", [1])
    fake_recording(tmp_path / "b" / "z.hdf5", [2])
    with h5py.File(tmp_path / "b" / "y.hdf5", "a") as file:  # the same frames, stored otherwise
        frames = file["data/demo_0/obs/agentview_rgb"][()]
        del file["data/demo_0/obs/agentview_rgb"]
        file["data/demo_0/obs/agentview_rgb"] = frames
    one, other = folder_sums(tmp_path / "a"), folder_sums(tmp_path / "b")
    assert content_hash(one) == content_hash(other)
    assert set(one) == {"libero_goal_0/1", "libero_goal_0/2"}
    assert compare(one, other).exact == ("libero_goal_0/1", "libero_goal_0/2")


@pytest.mark.parametrize("field", ["states", "actions", "obs/agentview_rgb"])
def test_one_changed_number_changes_the_hash(fake_recording: Write, tmp_path: Path, field: str) -> None:
    fake_recording(tmp_path / "x.hdf5", [1])
    before = content_hash(folder_sums(tmp_path))
    with h5py.File(tmp_path / "x.hdf5", "a") as file:
        array = file[f"data/demo_0/{field}"]
        values = array[()]
        values.flat[0] = values.flat[0] + 1
        array[...] = values
    assert content_hash(folder_sums(tmp_path)) != before


def test_the_list_reads_back(fake_recording: Write, tmp_path: Path) -> None:
    episode = fake_recording(tmp_path / "x.hdf5", [1, 12])[1]
    (tmp_path / SUMS).write_text(sums_text(folder_sums(tmp_path)))
    listed = read_sums(tmp_path / SUMS)
    assert content_hash(listed) == content_hash(folder_sums(tmp_path))
    assert compare(listed, folder_sums(tmp_path)).exact == ("libero_goal_0/1", "libero_goal_0/12")
    places = np.concatenate([episode.ee_pos[-1:], episode.object_pos[-1]])
    np.testing.assert_allclose(listed["libero_goal_0/12"].places / 1000, places, atol=0.0006)
    assert listed["libero_goal_0/12"].brightness == pytest.approx(episode.agentview.mean(), abs=0.06)


def test_episodes_are_sorted_by_how_well_they_agree() -> None:
    here = EpisodeSum(sha256="a" * 64, brightness=100.0, places=np.array([[0, 0, 1000], [50, 50, 900]]))
    elsewhere = replace(here, sha256="b" * 64)

    def moved(thing: int, metres: float) -> EpisodeSum:
        places = here.places.copy()
        places[thing, 0] += round(1000 * metres)
        return replace(elsewhere, places=places)

    listed = {name: here for name in ("same", "gripper", "object", "far", "pushed", "dark", "fewer", "gone")}
    found = {
        "same": here,
        "gripper": moved(0, GRIPPER_TOLERANCE),
        "object": moved(1, OBJECT_TOLERANCE),
        "far": moved(0, GRIPPER_TOLERANCE + 0.001),
        "pushed": moved(1, OBJECT_TOLERANCE + 0.001),
        "dark": replace(elsewhere, brightness=98.0),
        "fewer": replace(elsewhere, places=here.places[:1]),
        "new": here,
    }
    result = compare(listed, found)
    assert result.exact == ("same",) and result.within_tolerance == ("gripper", "object")
    assert result.off == ("far", "pushed", "dark", "fewer")
    assert result.missing == ("gone",) and result.extra == ("new",)


def test_verify_reports_and_refuses(
    fake_recording: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, listed = tmp_path / "data", tmp_path / "list"
    fake_recording(folder / "x.hdf5", [1, 2])
    listed.write_text(sums_text(folder_sums(folder)))
    verify_folder(folder, listed)
    assert "2 exact, 0 within tolerance, 0 off, 0 missing, 0 not in the list" in capsys.readouterr().out
    fake_recording(folder / "y.hdf5", [3])
    with pytest.raises(ValueError, match="not in the list: libero_goal_0/3"):
        verify_folder(folder, listed)
    (folder / "x.hdf5").unlink()
    with pytest.raises(ValueError, match="missing: libero_goal_0/1, libero_goal_0/2"):
        verify_folder(folder, listed)
    with pytest.raises(FileNotFoundError, match="plan.json is missing"):
        verify_folder(folder)
    (folder / PLAN_FILE).write_text("{}")
    with pytest.raises(ValueError, match="plan.json is not the plan of a recording"):
        verify_folder(folder)


def test_what_cannot_be_compared_is_named(fake_recording: Write, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder of recordings at .*nowhere"):
        folder_sums(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no recording"):
        folder_sums(tmp_path)
    with pytest.raises(FileNotFoundError, match="no list of checksums at"):
        read_sums(tmp_path / "none")
    for line in ("abc  scene/1  3.0 1 2 3", f"{'a' * 64}  scene/1  3.0 1 2", f"{'a' * 64}  scene/1"):
        (tmp_path / "list").write_text(line + "\n")
        with pytest.raises(ValueError, match="list, line 1: not"):
            read_sums(tmp_path / "list")
    fake_recording(tmp_path / "x.hdf5", [1])
    with h5py.File(tmp_path / "x.hdf5", "a") as file:
        states = file["data/demo_0/states"][:-1]
        del file["data/demo_0/states"]
        file["data/demo_0/states"] = states
    with pytest.raises(ValueError, match="demo_0: field 'states' has 5 entries for 6 frames, not 6"):
        folder_sums(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"verify": Path("a"), "out": Path("b")}, "leave out --out and --plan"),
        ({"sums": Path("a"), "out": Path("b")}, "--sums goes with --verify alone"),
        ({}, "--out is missing"),
        ({"plan": "play-v1", "out": Path("b"), "render_profile": "lite"}, "leave out --render-profile"),
        ({"plan": "play-v1", "out": Path("b"), "steps": 31}, "leave out --steps"),
    ],
)
def test_flags_that_contradict_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        collect(**arguments)
