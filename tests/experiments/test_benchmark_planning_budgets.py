"""Success against seconds per plan, on toy tasks: every budget plays the same episodes, goes on where it stopped, and
is a point with its interval.
"""

from dataclasses import replace

import imageio.v3 as iio
import pytest

from colaworld.experiments.benchmark_planning_budgets import PLOT, measure_budgets
from colaworld.experiments.benchmark_planning_settings import BenchmarkConfig, budget
from colaworld.experiments.benchmark_planning_tables import budgets_table
from colaworld.experiments.intervals import wilson
from colaworld.experiments.planning_world import LoadedWorld


@pytest.fixture
def config(tmp_path) -> BenchmarkConfig:
    return BenchmarkConfig(
        preset="nano", parts=("budgets",), budgets=("2x1", "48x2", "0.01s"), samples=16, out=tmp_path / "budgets"
    )


def world_from(world):
    return lambda settings: LoadedWorld(world=world, checkpoint="weights", render_profile="lite")


def test_more_seconds_reach_more_goals_and_every_rate_has_its_interval(config, spot_tasks, spot_world, capsys) -> None:
    found = measure_budgets(config, spot_tasks(), world_from(spot_world()))
    rows = {row["budget"]: row for row in found["budgets"]}
    assert list(rows) == ["2x1", "48x2", "0.01s"] and all(row["episodes"] == 6 for row in rows.values())
    assert rows["48x2"]["successes"] > rows["2x1"]["successes"]
    rate = wilson(rows["48x2"]["successes"], 6)
    assert rows["48x2"]["rate"] == {"estimate": rate.estimate, "low": rate.low, "high": rate.high}
    for row in rows.values():
        seconds = row["seconds_per_plan"]
        assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"] and row["plans"] > 0
    assert [floor["row"] for floor in found["floors"]] == ["random"] and found["floors"][0]["episodes"] == 6
    assert found["tasks"]["manifest"] == "abc"
    assert iio.imread(config.out / PLOT).shape[:2] > (300, 500)
    said = "\n".join(budgets_table(found))
    assert "48x2" in said and "random" in said and "Wilson" in said


def test_the_same_command_goes_on_where_it_stopped(config, spot_tasks, spot_world) -> None:
    tasks, calls = spot_tasks(), []

    class Stops(spot_world):
        def imagine(self, state, actions, generator):
            calls.append(len(actions))
            if len(calls) > 40:
                raise KeyboardInterrupt
            return super().imagine(state, actions, generator)

    with pytest.raises(KeyboardInterrupt):
        measure_budgets(config, tasks, world_from(Stops()))
    kept = {path: path.read_text() for path in config.out.rglob("episodes.jsonl")}
    assert kept and sum(text.count("\n") for text in kept.values()) > 6  # the floor and more
    found = measure_budgets(config, tasks, world_from(spot_world()))
    assert all(path.read_text().startswith(text) for path, text in kept.items())
    assert all(row["episodes"] == 6 for row in found["budgets"])
    tasks.opened.clear()
    again = measure_budgets(config, tasks, world_from(spot_world()))
    assert tasks.opened == [] and again["budgets"] == found["budgets"]


def test_other_settings_in_the_same_folder_are_refused(config, spot_tasks, spot_world) -> None:
    one = replace(config, budgets=("2x1",), episodes=2)
    measure_budgets(one, spot_tasks(), world_from(spot_world()))
    with pytest.raises(ValueError, match="name another --out"):
        measure_budgets(replace(one, horizon=2), spot_tasks(), world_from(spot_world()))


def test_a_budget_is_counts_or_seconds() -> None:
    assert budget("64x2")[1:] == (64, 2, None) and budget("0.5s")[1:] == (None, None, 0.5) and budget("2s")[3] == 2
    for text in ("64", "x2", "0x2", "64x2s", "s", "-1s", "0.0s"):
        with pytest.raises(ValueError, match="--budgets"):
            budget(text)
