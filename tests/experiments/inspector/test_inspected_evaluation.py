"""An evaluation leaves the inspector's page behind: every episode, its plans as they were made, also after a kill, and
the same results with a reader or without.
"""

import json
import re
import urllib.request
from dataclasses import replace

import pytest

from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.inspector_episode import load
from colaworld.experiments.planning_world import LoadedWorld
from colaworld.experiments.vp2_eval import evaluate

QUICK = EvalConfig(samples=16, iterations=2, horizon=4, pictures=False, rows=("planner", "random"), instances=(0, 1))


def loader(world):
    return lambda: LoadedWorld(world=world, checkpoint="weights", render_profile="lite")


def results(out) -> list[dict]:
    timed = ("seconds", "plan_seconds")
    records = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in timed} for record in records]


def test_every_episode_is_on_the_page_with_its_plans(spot_tasks, spot_world, tmp_path, capsys) -> None:
    evaluate(QUICK, spot_tasks(), loader(spot_world()), tmp_path)
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    shown = re.findall('json" data-episode="([^"]*)"', (tmp_path / "report.html").read_text())
    assert sorted(shown) == [f"{row}_00{instance}_seed0" for row in ("planner", "random") for instance in (0, 1)]
    detail, record = load(tmp_path, "planner_000_seed0").detail, results(tmp_path)[0]
    assert [plan["cost"] for plan in detail["plans"]] == pytest.approx(record["plan_costs"], rel=1e-4)
    executed = [pytest.approx(action, abs=1e-4) for action in record["actions"][1:]]
    assert [plan["actions"][0] for plan in detail["plans"]] == executed
    assert all(len(plan["iterations"]) == 2 and len(plan["imagined"]) == 4 for plan in detail["plans"])
    assert detail["distances"][-1] == pytest.approx(record["final_distance"], rel=1e-5)
    assert load(tmp_path, "random_000_seed0").detail["plans"] == []


def test_a_killed_run_ends_with_a_whole_page(spot_tasks, spot_world, tmp_path) -> None:
    class Dies(spot_tasks):
        def open(self, instance):
            if len(self.opened) == 3:
                raise KeyboardInterrupt
            return super().open(instance)

    with pytest.raises(KeyboardInterrupt):
        evaluate(QUICK, Dies(), loader(spot_world()), tmp_path)
    assert not (tmp_path / "report.html").exists()
    evaluate(QUICK, spot_tasks(), loader(spot_world()), tmp_path)
    assert (tmp_path / "report.html").read_text().count('json" data-episode="') == 4


def test_a_reader_changes_nothing(spot_tasks, spot_world, tmp_path, capsys) -> None:
    seen: list[dict] = []

    class Read(spot_tasks):
        def open(self, instance):
            url = re.search("http://127.0.0.1:[0-9]+/", self.printed()).group()
            with urllib.request.urlopen(f"{url}index.json", timeout=10) as answer:
                seen.append(json.load(answer))
            return super().open(instance)

        def printed(self) -> str:
            self.text = getattr(self, "text", "") + capsys.readouterr().out
            return self.text

    evaluate(QUICK, spot_tasks(), loader(spot_world()), tmp_path / "alone")
    capsys.readouterr()
    evaluate(replace(QUICK, live=True), Read(), loader(spot_world()), tmp_path / "read")
    assert results(tmp_path / "alone") == results(tmp_path / "read")
    assert [len(index["episodes"]) for index in seen] == [0, 1, 2, 3] and seen[-1]["total"] == 4


def test_without_it_nothing_is_kept_and_flags_that_cannot_be_are_named(spot_tasks, spot_world, tmp_path) -> None:
    evaluate(replace(QUICK, inspect=False), spot_tasks(), loader(spot_world()), tmp_path)
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "episodes").exists()
    for wrong, message in (
        ({"report_megabytes": 0}, "--report-megabytes must be positive, got 0"),
        ({"live_port": 70000}, "--live-port must lie in 0..65535, got 70000"),
        ({"live": True, "inspect": False}, "--live serves what --inspect keeps"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(QUICK, **wrong)
