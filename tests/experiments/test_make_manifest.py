"""The manifest maker's promises to a user who already has a frozen manifest; what it makes is tested in tests/envs."""

from pathlib import Path

import numpy as np
import pytest

from colaworld.envs.goals import LiberoGoalReachingEnv
from colaworld.envs.manifest import FIRST_SEED, load_manifest
from colaworld.experiments.benchmark_env import benchmark
from colaworld.experiments.make_manifest import (
    Cell,
    Row,
    _cells,
    _interleaved,
    _manifest,
    _part,
    _read_part,
    _search_scene,
    _write,
    make_manifest,
)
from colaworld.experiments.simulator_world import YARDSTICK


def test_a_frozen_manifest_is_never_overwritten(tmp_path: Path) -> None:
    existing = "goals.json"
    (tmp_path / existing).write_text("frozen")
    with pytest.raises(ValueError, match="a manifest is frozen once it is made"):
        make_manifest("goals", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [existing]


def test_seeds_of_training_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1000000 .* got 999999"):
        make_manifest("goals", tmp_path, first_seed=999_999)
    with pytest.raises(ValueError, match="per_category and workers must be at least 1, got 0"):
        make_manifest("goals", tmp_path, per_category=0)
    with pytest.raises(ValueError, match="categories must be some of reach, .* got \\['turn_on_stove'\\]"):
        make_manifest("goals", tmp_path, categories=("turn_on_stove",))


def test_what_could_only_fail_at_the_end_is_refused_at_once(tmp_path: Path) -> None:
    for sheet in (tmp_path / "nowhere" / "goals.png", tmp_path / "goals.xyz"):
        with pytest.raises(ValueError, match="must be a .png file in a folder that exists"):
            make_manifest("goals", tmp_path, sheet=sheet)
    with pytest.raises(ValueError, match="--long is a list of place only, got --categories push"):
        make_manifest("goals", tmp_path, long=True, categories=("push",))
    assert not list(tmp_path.iterdir())


def test_scenes_can_be_chosen(tmp_path: Path) -> None:
    assert _cells(("reach", "push"), 3, ("libero_goal_0", "libero_spatial_0")) == [
        Cell("reach", "libero_goal", 0, 2),
        Cell("reach", "libero_spatial", 0, 1),
        Cell("push", "libero_goal", 0, 2),
        Cell("push", "libero_spatial", 0, 1),
    ]
    with pytest.raises(ValueError, match="--scenes libero_goal_0: close_drawer has none of them"):
        make_manifest("goals", tmp_path, categories=("reach", "close_drawer"), scenes=("libero_goal_0",))
    assert not list(tmp_path.iterdir())


def row(category: str, task_id: int, number: int) -> Row:
    return Row(Cell(category, "libero_goal", task_id, 2), FIRST_SEED + number, None, {})


def test_the_first_instances_hold_some_of_every_category_and_scene() -> None:
    rows = [row(category, task, k) for category in ("reach", "place") for task in (1, 2) for k in range(2)]
    order = [(each.cell.category, each.cell.task_id) for each in _interleaved(rows)]
    assert order[:4] == [("reach", 1), ("place", 1), ("reach", 2), ("place", 2)] and order[4:] == order[:4]


def test_instances_are_found_checked_and_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two goals of one real scene: what the maker promises of every instance."""
    cell = Cell("lift", "libero_goal", 0, 2)
    assert _search_scene([cell], tmp_path, FIRST_SEED, long=False) == 2
    monkeypatch.setattr("colaworld.experiments.make_manifest._next", None)
    assert _search_scene([cell], tmp_path, FIRST_SEED, long=False) == 2, "what waits is not searched for again"
    rows = [_read_part(_part(tmp_path, cell, number), cell) for number in range(2)]
    assert FIRST_SEED <= rows[0].seed < rows[1].seed
    manifest = _manifest("tried", rows, long=False)
    _write(manifest, tmp_path / "tried.json")
    read = load_manifest(tmp_path / "tried.json")
    assert read.sha256 == manifest.sha256 and read.yardstick == YARDSTICK
    assert read.fingerprint["libero_goal_0"]["mujoco"] == "3.3.2"
    env = LiberoGoalReachingEnv(0, read)
    try:
        for number in range(2):
            _, info = env.reset(options={"instance": number})
            assert not info["success"] and info["distance"] > 0.05
            expert, steps = env.expert(), 0
            while not info["success"]:
                info = env.step(expert(info))[-1]
                steps += 1
            assert steps == read.instances[number].expert_steps <= 12
            seen = env.libero.restore_state(read.goals[number])[0]["agentview"]
            np.testing.assert_array_equal(seen, read.goal_frames[number])
    finally:
        env.close()


def test_a_benchmark_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        benchmark(steps=0)
