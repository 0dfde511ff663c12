"""Episodes with the grid's systems: played with every finished cell, kept, gone on with, never on evaluation goals."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from colaworld.experiments.planning_world import LoadedWorld
from colaworld.experiments.reproduce import GridConfig, run_grid
from colaworld.experiments.reproduce_play import USUAL, Episodes, first_of_each
from colaworld.experiments.reproduce_store import StoredCell

QUICK = replace(USUAL, samples=32, horizon=4)


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``grid(episodes, **flags)`` runs the cells of the linear probe with the stand-in trainer."""
    for plot in ("codebook_curves", "by_horizon", "adapter_cost"):
        monkeypatch.setattr(f"colaworld.experiments.reproduce_report.{plot}", lambda *_: None)
    (tmp_path / "start").mkdir()
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.json").write_text("{}")
    trainer = (sys.executable, str(Path(__file__).with_name("reproduce_trainer.py")), str(tmp_path / "plan"))

    def run(episodes: Episodes | None, **flags) -> list[str]:
        start = tmp_path / "start"
        folders = {"data": (start,), "init": start, "results": tmp_path / "results", "runs": tmp_path / "runs"}
        config = GridConfig(**{"preset": "tiny", "groups": ("probe",), "seeds": (0,), "workers": 1, **folders, **flags})
        return run_grid(config, trainer, episodes)

    return run


@pytest.fixture
def episodes(spot_tasks, spot_world) -> Callable[..., Episodes]:
    """``episodes(tasks=None, world=None, per_category=1)`` on toy tasks."""

    def made(tasks=None, world=None, per_category: int | None = 1) -> Episodes:
        loaded = LoadedWorld(world=world or spot_world(), checkpoint="weights", render_profile="lite")
        return Episodes(tasks or spot_tasks(), per_category, config=QUICK, load=lambda config: loaded)

    return made


def cell(tmp_path: Path, name: str) -> StoredCell:
    content = json.loads((tmp_path / "results" / "tiny" / "cells" / f"{name}.json").read_text())
    content.pop("format")
    return StoredCell(**content)


def test_every_finished_cell_is_played_and_keeps_its_numbers(
    grid, episodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grid(episodes()) == []
    said = capsys.readouterr().out
    for name in ("cola-s0", "two_stage-s0"):
        found = cell(tmp_path, name).evaluation
        played = found["episodes"]
        assert played["instance"] == [0, 4] and played["category"] == ["reach", "push"]
        assert played["success"] == [1, 1], "the world is the true one"
        assert all(closest < 0.015 < start for closest, start in zip(played["closest"], played["start"], strict=True))
        assert played["checkpoint"] == "weights" and played["settings"]["manifest"] == "abc"
        assert played["settings"]["planner"]["samples"] == 32 and "checkpoint" not in played["settings"]
        assert found["idm"] is not None and f"{name} played: 2 of 2 goals reached" in said
    assert (tmp_path / "runs" / "tiny" / "cola-s0" / "episodes").is_dir()


def test_a_killed_grid_goes_on_with_the_episodes(grid, episodes, spot_tasks, tmp_path: Path) -> None:
    class Dies(spot_tasks):
        def open(self, instance):
            if len(self.opened) == 3:
                raise KeyboardInterrupt
            return super().open(instance)

        def close(self) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        grid(episodes(Dies(), per_category=2))
    assert cell(tmp_path, "cola-s0").finished and "episodes" not in cell(tmp_path, "cola-s0").evaluation

    class Kept(spot_tasks):
        def close(self) -> None:
            pass

    again = Kept()
    assert grid(episodes(again, per_category=2)) == []
    assert len(again.opened) == 1 + 4, "one episode was left of the first cell, all of the second"
    assert len(cell(tmp_path, "cola-s0").evaluation["episodes"]["success"]) == 4
    third = Kept()
    grid(episodes(third, per_category=2))
    assert third.opened == [], "cells that have these episodes are left alone"
    grid(episodes(third, per_category=None))
    assert sorted(third.opened) == [2, 2, 3, 3], "more of them: only the new ones are played"
    first, more = (episodes(per_category=count).basis for count in (2, None))
    assert first != more == cell(tmp_path, "cola-s0").evaluation["episodes"]["basis"]


def test_what_numbers_depend_on_is_their_basis(episodes, spot_tasks) -> None:
    basis = episodes().basis
    assert episodes().basis == basis
    assert episodes(spot_tasks({"manifest": "abc", "manifest_sha256": "other"})).basis != basis
    assert Episodes(spot_tasks(), 1, config=replace(QUICK, iterations=3)).basis != basis
    assert [each.index for each in first_of_each(spot_tasks().instances, 2)] == [0, 1, 4, 5]


def test_without_its_run_folder_a_cell_stays_as_it_is(
    grid, episodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid(None)
    (tmp_path / "runs" / "tiny" / "cola-s0" / "system" / "system.json").unlink()
    before = cell(tmp_path, "cola-s0")
    assert grid(episodes()) == [], "an old cell is no failure"
    assert cell(tmp_path, "cola-s0") == before
    assert "cola-s0 not played: there are no weights in" in capsys.readouterr().out
    assert "episodes" in cell(tmp_path, "two_stage-s0").evaluation


def test_cells_are_played_without_training_any(grid, episodes, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("colaworld.experiments.reproduce_again.reevaluate", lambda *_, **__: None)
    grid(None, variants=("cola",))
    grid(episodes(), reevaluate=True)
    assert "episodes" in cell(tmp_path, "cola-s0").evaluation
    assert not (tmp_path / "results" / "tiny" / "cells" / "two_stage-s0.json").exists()
    stored = cell(tmp_path, "cola-s0")
    grid(episodes(per_category=2), report_only=True)
    assert cell(tmp_path, "cola-s0") == stored, "the report alone plays nothing"


def test_what_cannot_be_played_fails_and_stops_nothing_else(
    grid, episodes, spot_world, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Spoilt(spot_world):
        def imagine(self, state, actions, generator):
            return torch.full((*actions.shape[:2], 2), math.nan)

    assert grid(episodes(world=Spoilt())) == ["cola-s0", "two_stage-s0"]
    assert cell(tmp_path, "cola-s0").finished and cell(tmp_path, "two_stage-s0").finished
    assert "cola-s0 not played: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["libero_goals_v0", "libero_goals_v1"])
def test_the_evaluation_manifests_are_refused_before_anything_runs(grid, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"shipped {name}, .*: never tune on the evaluation manifest"):
        grid(None, plan_manifest=name)
    assert not (tmp_path / "plan" / "calls.jsonl").exists()


def test_the_flags_are_part_of_the_command_and_checked() -> None:
    config = GridConfig(plan_manifest="libero_goals_dev_v1", plan_episodes=4)
    assert config.command().endswith("--plan-manifest libero_goals_dev_v1 --plan-episodes 4")
    for flags in ({"plan_episodes": 4}, {"plan_manifest": "libero_goals_dev_v1", "plan_episodes": 0}):
        with pytest.raises(ValueError, match="--plan-episodes is of --plan-manifest and 1 or more, got"):
            GridConfig(**flags)
