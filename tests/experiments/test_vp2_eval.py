"""The whole evaluation on toy tasks: rows, log, resuming, tables, pictures, and one sentence for everything a user
can get wrong.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from colaworld.experiments import vp2_eval
from colaworld.experiments.goal_objectives import make_objective
from colaworld.experiments.goal_settings import EvalConfig, LiberoPrior, make_planner
from colaworld.experiments.goal_tasks import choose
from colaworld.experiments.planning_world import LoadedWorld
from colaworld.experiments.report import format_results, paired_tests, success_table
from colaworld.experiments.goal_search import make_mpc
from colaworld.experiments.vp2_eval import evaluate
from colaworld.planning.cem import CEM
from colaworld.planning.mppi import MPPI

QUICK = EvalConfig(samples=32, iterations=2, horizon=4, pictures=False)


def loader(world, checkpoint: str = "weights", profile: str | None = "lite"):
    return lambda: LoadedWorld(world=world, checkpoint=checkpoint, render_profile=profile)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]


def entry(summary: dict, category: str, row: str) -> dict:
    return next(item for item in summary["table"] if (item["category"], item["row"]) == (category, row))


@pytest.mark.parametrize("planner", ["cem", "mppi", "random_shooting"])
@pytest.mark.parametrize("objective", ["latent", "pixel", "sum"])
def test_a_planner_with_the_true_world_reaches_its_goals(planner, objective, spot_tasks, spot_world, tmp_path) -> None:
    config = replace(QUICK, planner=planner, objective=objective, samples=64)
    path = evaluate(config, spot_tasks(), loader(spot_world()), tmp_path)
    summary = json.loads(path.read_text())
    assert entry(summary, "all", "planner")["successes"] >= 5
    assert entry(summary, "all", "expert")["successes"] == 6
    assert entry(summary, "all", "random")["successes"] < 5


def test_what_the_flags_say_reaches_the_search(spot_world) -> None:
    class Differentiable(spot_world):
        def with_gradients(self):
            return self

        def refined(self, steps):
            finer = Differentiable()
            finer.steps = steps
            return finer

    world = Differentiable()
    signed = make_mpc(EvalConfig(gripper="sign", final_steps=3, budget_seconds=2.0), world)
    drawn = signed.prior.distribution(4).sample(9, torch.Generator().manual_seed(0))
    assert set(drawn[..., 6].unique().tolist()) == {-1, 1}
    assert signed.final_world.steps == 3 and signed.config.budget_seconds == 2.0
    assert make_mpc(EvalConfig(planner="icem", noise_exponent=1.5), world).prior.exponent == 1.5
    assert make_mpc(EvalConfig(planner="gradient"), world).planner.gradients
    assert make_mpc(EvalConfig(), world).final_world is None
    for flags, message in (
        ({"planner": "codes"}, "--planner codes needs a trained system as the world; Differentiable has no system"),
        ({"planner": "gradient"}, "--planner gradient needs a trained system as the world; SpotWorld has no"),
        ({"final_steps": 2}, "--final-steps needs a trained system as the world; SpotWorld has no refined"),
    ):
        with pytest.raises(ValueError, match=message):
            make_mpc(EvalConfig(**flags), world if flags.get("planner") == "codes" else spot_world())


def test_the_summary_follows_from_the_lines(spot_tasks, spot_world, tmp_path, capsys) -> None:
    config = replace(QUICK, seeds=(0, 1))
    path = evaluate(config, spot_tasks(), loader(spot_world()), tmp_path)
    records, summary = lines(tmp_path), json.loads(path.read_text())
    assert len(records) == 6 * (2 + 2 + 1)
    reaches = [record for record in records if (record["row"], record["category"]) == ("planner", "reach")]
    table = entry(summary, "reach", "planner")
    assert table["episodes"] == len(reaches) == 8
    assert table["successes"] == sum(record["success"] for record in reaches)
    assert table["wilson_low"] <= table["rate"] <= table["wilson_high"]
    assert table["seconds_per_plan"] > 0 and entry(summary, "reach", "random")["seconds_per_plan"] is None
    test = next(test for test in summary["mcnemar"] if test["category"] == "all")
    assert test["both"] + test["only_first"] + test["only_second"] + test["neither"] == 12
    assert summary["settings"]["planner"]["manifest"] == "abc"
    assert summary["settings"]["planner"]["checkpoint"] == "weights"
    assert summary["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    printed = capsys.readouterr().out
    assert "planner (cem)" in printed and "sign flips of instances p" in printed and str(path) in printed


def test_seeds_of_one_goal_count_as_one() -> None:
    """Three seeds that agree tell no more of the goals than one of them."""
    reached = {"planner": [number % 3 == 0 for number in range(60)], "random": [number % 12 == 1 for number in range(60)]}
    once, thrice = (
        [
            {"row": row, "instance": number, "seed": seed, "category": "reach", "success": success}
            | {"plan_seconds": [], "start_distance": 1.0, "best_distance": 0.5}
            for row, all_reached in reached.items()
            for number, success in enumerate(all_reached)
            for seed in range(seeds)
        ]
        for seeds in (1, 3)
    )
    one, three = (success_table(records)[0] for records in (once, thrice))
    assert (one["successes"], one["episodes"], three["successes"], three["episodes"]) == (20, 60, 60, 180)
    assert [one[name] for name in ("rate", "wilson_low", "wilson_high")] == [
        three[name] for name in ("rate", "wilson_low", "wilson_high")
    ]
    ((alone,), (several,)) = (paired_tests(records, "planner", "random") for records in (once, thrice))
    assert alone["test"] == "exact McNemar" and several["test"] == "sign flips of instances"
    assert several["p_value"] == pytest.approx(alone["p_value"], abs=2e-3) and alone["p_value"] > 1e-4
    assert "exact McNemar p" in format_results([one], [alone], "cem")


def test_a_line_says_what_happened(spot_tasks, spot_world, tmp_path) -> None:
    evaluate(replace(QUICK, rows=("planner",), instances=(2,)), spot_tasks(), loader(spot_world()), tmp_path)
    (record,) = lines(tmp_path)
    assert (record["row"], record["planner"], record["instance"], record["category"]) == ("planner", "cem", 2, "reach")
    assert record["steps"] == len(record["actions"]) <= 15
    assert len(record["plan_seconds"]) == record["steps"] - 1, "the first action is zero and needs no plan"
    assert record["actions"][0] == [0.0] * 7
    assert record["best_distance"] <= record["final_distance"] and record["best_distance"] < record["start_distance"]
    assert all(action[3:6] == [0.0] * 3 for action in record["actions"]), "rotations are held at zero"


def test_chance_belongs_to_the_episode_and_not_to_the_order(spot_tasks, spot_world, tmp_path) -> None:
    whole, alone = tmp_path / "whole", tmp_path / "alone"
    evaluate(QUICK, spot_tasks(), loader(spot_world()), whole)
    evaluate(replace(QUICK, instances=(3,)), spot_tasks(), loader(spot_world()), alone)
    kept = [record["actions"] for record in lines(whole) if record["instance"] == 3]
    assert kept == [record["actions"] for record in lines(alone)]


def test_a_killed_run_goes_on_where_it_stopped(spot_tasks, spot_world, tmp_path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    evaluate(QUICK, spot_tasks(), loader(spot_world()), unbroken)

    class Dies(spot_tasks):
        def open(self, instance):
            if len(self.opened) == 7:
                raise KeyboardInterrupt
            return super().open(instance)

    with pytest.raises(KeyboardInterrupt):
        evaluate(QUICK, Dies(), loader(spot_world()), broken)
    finished = len(lines(broken))
    assert 0 < finished < 18 and not (broken / "summary.json").exists()
    with (broken / "episodes.jsonl").open("a") as file:
        file.write('{"row": "planner", "inst')  # a line cut off in the middle
    again = spot_tasks()
    evaluate(QUICK, again, loader(spot_world()), broken)
    assert len(again.opened) < 18 + 6, "finished episodes are not played again"
    strip = ("seconds", "plan_seconds")
    first, second = (
        [{name: value for name, value in record.items() if name not in strip} for record in lines(out)]
        for out in (unbroken, broken)
    )
    assert first == second
    tables = [json.loads((out / "summary.json").read_text())["table"] for out in (unbroken, broken)]
    assert [row["successes"] for row in tables[0]] == [row["successes"] for row in tables[1]]


def test_a_folder_grows_but_does_not_mix(spot_tasks, spot_world, tmp_path) -> None:
    evaluate(replace(QUICK, episodes=2), spot_tasks(), loader(spot_world()), tmp_path)
    evaluate(replace(QUICK, seeds=(0, 1)), spot_tasks(), loader(spot_world()), tmp_path)
    count = len(lines(tmp_path))
    assert count == 30
    for change, tasks, checkpoint, name in (
        ({"horizon": 5}, spot_tasks(), "weights", "mpc"),
        ({"max_steps": 9}, spot_tasks(), "weights", "max_steps"),
        ({}, spot_tasks({"manifest": "xyz", "render_profile": "lite"}), "weights", "manifest = 'abc'.*'xyz'"),
        ({}, spot_tasks(), "other weights", "checkpoint = 'weights'.*'other weights'"),
    ):
        with pytest.raises(ValueError, match=f"{name}.*name another --out"):
            evaluate(replace(QUICK, **change), tasks, loader(spot_world(), checkpoint), tmp_path)
    assert len(lines(tmp_path)) == count


def test_the_summary_names_every_simulator_that_played(spot_tasks, tmp_path) -> None:
    """A run that goes on elsewhere shows both machines; toy tasks have no simulator to name."""

    class On(spot_tasks):
        def __init__(self, renderer: str) -> None:
            super().__init__()
            self.renderer = renderer

        def simulator(self, instance):
            return {"gl_renderer": self.renderer, "psnr_db": 100.0}

    def simulators(tasks, out: Path, **change) -> list[dict]:
        config = replace(QUICK, rows=("random",), **change)
        return json.loads(evaluate(config, tasks, loader(None), out).read_text())["simulators"]

    assert simulators(On("here"), tmp_path / "a", episodes=2) == [{"gl_renderer": "here", "psnr_db": 100.0}]
    both = simulators(On("there"), tmp_path / "a")
    assert [each["gl_renderer"] for each in both] == ["here", "there"]
    assert simulators(On("elsewhere"), tmp_path / "a") == both, "a finished run keeps those that played it"
    assert simulators(spot_tasks(), tmp_path / "b", episodes=2) == []


def test_damage_before_the_last_line_is_an_error(spot_tasks, spot_world, tmp_path) -> None:
    evaluate(replace(QUICK, rows=("random",)), spot_tasks(), loader(spot_world()), tmp_path)
    path = tmp_path / "episodes.jsonl"
    text = path.read_text().splitlines()
    path.write_text("\n".join([text[0], text[1][:20], *text[2:]]) + "\n")
    with pytest.raises(ValueError, match="line 2, is damaged"):
        evaluate(replace(QUICK, rows=("random",)), spot_tasks(), loader(spot_world()), tmp_path)


def test_nan_in_a_plan_stops_and_keeps_what_is_done(spot_tasks, spot_world, tmp_path) -> None:
    class Spoilt(spot_world):
        def imagine(self, state, actions, generator):
            return torch.full((*actions.shape[:2], 2), math.nan)

    with pytest.raises(FloatingPointError, match="all 32 candidates"):
        evaluate(replace(QUICK, rows=("random", "planner")), spot_tasks(), loader(Spoilt()), tmp_path)
    assert len(lines(tmp_path)) == 1


def test_weights_are_not_asked_for_without_a_planner(spot_tasks, tmp_path) -> None:
    def never() -> LoadedWorld:
        raise AssertionError("the weights were loaded")

    summary = json.loads(evaluate(replace(QUICK, rows=("expert",)), spot_tasks(), never, tmp_path).read_text())
    assert entry(summary, "all", "expert")["successes"] == 6 and summary["mcnemar"] == []


def test_render_profiles_do_not_mix(spot_tasks, spot_world, tmp_path) -> None:
    with pytest.raises(ValueError, match="render_profile 'full'.*'lite'"):
        evaluate(QUICK, spot_tasks(), loader(spot_world(), profile="full"), tmp_path / "out")
    with pytest.raises(ValueError, match="height 64.*16"):
        tasks = spot_tasks({"manifest": "abc", "height": 16})
        evaluate(QUICK, tasks, lambda: LoadedWorld(world=spot_world(), checkpoint="x", height=64), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_instances_are_taken_from_categories_in_turn_and_grouped_by_scene(spot_tasks) -> None:
    tasks = spot_tasks()
    four = choose(tasks, (), (), 4)
    assert sorted((item.category, item.index) for item in four) == [
        ("push", 4),
        ("push", 5),
        ("reach", 0),
        ("reach", 1),
    ]
    assert [item.scene for item in four] == sorted(item.scene for item in four)
    assert [item.index for item in choose(tasks, ("reach",), (3, 1, 4), None)] == [1, 3]
    assert len(choose(tasks, (), (), 99)) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": ("stack",)}, "unknown category 'stack'; the manifest has reach, push"),
        ({"instances": (0, 99)}, "unknown instance 99; the manifest has 0 to 5"),
        ({"instances": (0,), "categories": ("push",)}, "no instance"),
    ],
)
def test_instances_that_are_not_there_are_named(change, message, spot_tasks, spot_world, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(replace(QUICK, **change), spot_tasks(), loader(spot_world()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples.*0"),
        ({"iterations": 0}, "iterations.*0"),
        ({"horizon": 0}, "horizon.*0"),
        ({"episodes": 0}, "episodes.*0"),
        ({"max_steps": -1}, "max-steps.*-1"),
        ({"rows": ()}, "rows"),
        ({"seeds": (1, 1)}, r"seeds.*\[1, 1\]"),
        ({"seeds": (-1,)}, "seeds.*-1"),
        ({"elite_fraction": 0.0}, "elite_fraction.*0"),
        ({"last": 0}, "last.*0"),
        ({"prior": LiberoPrior(std_position=-1)}, "std.*-1"),
    ],
)
def test_flags_that_cannot_be_are_named(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **change)


def test_flags_become_planner_and_objective() -> None:
    assert make_planner(EvalConfig()) == CEM(samples=18, iterations=2, elite_fraction=0.25)
    vp2 = EvalConfig(planner="mppi", samples=200, iterations=1, gamma=0.05, normalise=False)
    assert make_planner(vp2) == MPPI()
    both = make_objective(EvalConfig(objective="sum", pixel_weight=0.5, latent_weight=2.0, last=3))
    assert both.weights == (0.5, 2.0) and [term.last for term in both.terms] == [3, 3]


def test_pictures_show_goal_imagined_and_executed(spot_tasks, spot_world, tmp_path) -> None:
    config = replace(QUICK, rows=("planner",), instances=(0,), pictures=True)
    evaluate(config, spot_tasks(), loader(spot_world()), tmp_path)
    (record,) = lines(tmp_path)
    strip = imageio.imread(tmp_path / "pictures" / record["pictures"]["strip"])
    columns = record["steps"] + 1
    assert strip.shape[0] > 4 * 32 and strip.shape[1] >= columns * 32
    with imageio.get_reader(tmp_path / "pictures" / record["pictures"]["film"]) as film:
        frames = [np.asarray(frame, float)[-48:] for frame in film]
        assert film.get_meta_data()["fps"] == 4
    assert len(frames) == columns
    goal, imagined, executed = np.split(frames[-1], 3, axis=1)
    first = np.split(frames[0], 3, axis=1)[2]
    assert np.abs(imagined - executed).mean() < 12, "the true world imagines what happens"
    assert np.abs(goal - executed).mean() < np.abs(goal - first).mean()


def test_the_script_runs_from_anywhere_and_explains_every_flag(tmp_path) -> None:
    script = Path(vp2_eval.__file__)
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    for flag in (
        "--planner",
        "--run",
        "--manifest",
        "--instances",
        "--episodes",
        "--objective",
        "--out",
        "--max-steps",
    ):
        assert flag in done.stdout
    assert list(tmp_path.iterdir()) == []
