"""The table of experts: attempts are functions of their initial state, counted and given intervals."""

from pathlib import Path

import pytest

from colaworld.envs.libero import LiberoEnv
from colaworld.experiments.expert_table import attempt, expert_table, table


def test_an_attempt_repeats_and_says_what_it_tried(goal_env: LiberoEnv) -> None:
    first, again = attempt(goal_env, "lift", 7), attempt(goal_env, "lift", 7)
    assert first == again and first["success"] and first["goal"] and 5 < first["steps"] <= 60
    assert (first["row"], first["suite"], first["task_id"], first["seed"]) == ("lift", "libero_goal", 0, 7)
    closed = attempt(goal_env, "close_drawer", 7)
    assert not closed["goal"] and not closed["success"], "nothing is open there"


def test_the_table_counts_goals_that_were_offered() -> None:
    record = {"row": "lift", "suite": "libero_goal", "task_id": 0, "goal": True, "success": True, "steps": 9}
    lines = table([record, {**record, "success": False}, {**record, "goal": False, "success": False}])
    assert "1/2" in lines[-1] and "50 %" in lines[-1] and "[9, 91] %" in lines[-1]


def test_impossible_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="states must be 1 to 50 .* got 51 and 2"):
        expert_table(tmp_path / "out", states=51)
    assert not (tmp_path / "out").exists()
