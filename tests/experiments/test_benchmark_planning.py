"""The benchmark's parts on the smallest preset: every rung imagines the same and plans the same, every number has its
place in the JSON, and a bad flag is one sentence. No time is asserted.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from colaworld.adapters.system import save_system
from colaworld.experiments import benchmark_planning as entry
from colaworld.experiments import benchmark_planning_engine as engine
from colaworld.experiments.benchmark_planning import benchmark_planning
from colaworld.experiments.benchmark_planning_breakdown import PARTS, operations
from colaworld.experiments.benchmark_planning_engine import Uncached, checked, ladder, measure_engine
from colaworld.experiments.benchmark_planning_settings import BenchmarkConfig
from colaworld.experiments.benchmark_planning_steps import fewer_steps
from colaworld.experiments.benchmark_planning_tables import engine_table
from colaworld.experiments.benchmark_planning_targets import targets
from colaworld.experiments.benchmark_planning_timing import in_turns, mean_of, ratio
from colaworld.experiments.benchmark_planning_world import planned, planner_in, random_system, scene

NANO = BenchmarkConfig(
    preset="nano", samples=4, iterations=2, horizon=3, repetitions=2, flow_steps=2, compile=False, parts=("engine",)
)


@pytest.fixture
def place():
    return scene(NANO)


@pytest.fixture
def trained(tmp_path) -> Path:
    """A nano system in a folder, as if it had been trained."""
    torch.manual_seed(0)
    save_system(random_system(NANO), tmp_path / "run" / "system")
    return tmp_path / "run"


def test_with_and_without_each_part_of_the_engine_the_plan_is_the_same(place) -> None:
    plans = {name: planned(planner_in(NANO, world), place) for name, world in ladder(NANO, place).items()}
    naive = plans["naive"]
    assert naive.evaluations == 8 and naive.actions.shape == (3, 7)
    for name, plan in plans.items():
        if "bfloat16" not in name:
            torch.testing.assert_close(plan.actions, naive.actions, rtol=0, atol=0)
            torch.testing.assert_close(plan.imagined, naive.imagined, rtol=1e-4, atol=1e-4)


def test_naive_begins_with_the_frames_for_every_candidate_and_the_engine_once(place, monkeypatch) -> None:
    codec, encoded = type(place.system.codec), []
    true_encode = codec.encode
    monkeypatch.setattr(codec, "encode", lambda self, frames: encoded.append(len(frames)) or true_encode(self, frames))
    rungs = ladder(NANO, place)
    planned(planner_in(NANO, rungs["naive"]), place)
    assert encoded.count(2) == 2 * 4 + 1  # all candidates of two iterations, and the chosen plan again
    encoded.clear()
    planned(planner_in(NANO, rungs["one pass"]), place)
    assert encoded.count(2) == 1


def test_each_rung_of_the_ladder_asks_less_arithmetic(place) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    asked = {}
    for name in ("naive", "context", "context cache", "frame cache"):
        with FlopCounterMode(display=False) as counter:
            engine.latents(replace(NANO, samples=2), place, ladder(NANO, place)[name])
        asked[name] = counter.get_total_flops()
    assert list(asked.values()) == sorted(asked.values(), reverse=True)
    assert asked["frame cache"] < 0.5 * asked["naive"]


def test_the_engine_part_tells_every_rung_and_what_fewer_steps_are_worth(place) -> None:
    found = measure_engine(replace(NANO, samples=2, horizon=2), place)
    assert [row["rung"] for row in found["rungs"]] == [
        "naive", "context", "context cache", "frame cache", "batch", "one pass", "bfloat16", "batch, no cache",
    ]  # fmt: skip
    for row in found["rungs"]:
        assert len(row["all_seconds"]) == 2 and row["over_naive"]["low"] <= row["over_naive"]["estimate"]
    assert found["rungs"][0]["over_naive"]["estimate"] == 1
    assert [row["steps"] for row in found["fewer_steps"]["rows"]] == [1, 2]
    assert all(row["error_over_copying"] is None for row in found["fewer_steps"]["rows"])  # nothing was learned
    lines = "\n".join(engine_table(found))
    assert "times as fast as naive" in lines and "batch, no cache" in lines


def test_compiled_code_is_a_rung_unless_it_is_not_wanted(place) -> None:
    assert {"compile", "compile, bfloat16"} == ladder(replace(NANO, compile=None), place).keys() - ladder(NANO, place)


def test_a_rung_that_imagines_something_else_ends_the_benchmark(place, monkeypatch) -> None:
    class Wrong(Uncached):
        def roll_out(self, *arguments, **others):
            return super().roll_out(*arguments, **others) + 1.0

    monkeypatch.setattr(engine, "FrameCached", Wrong)
    with pytest.raises(FloatingPointError, match="frame cache imagines something else than naive"):
        measure_engine(NANO, place)
    with pytest.raises(FloatingPointError):
        checked("batch", torch.ones(2), torch.tensor([1.0, float("nan")]))


def test_the_error_of_fewer_steps_is_measured_on_held_out_clips(trained, tmp_path, fake_recording) -> None:
    fake_recording(tmp_path / "data.hdf5", (0, 1, 2, 7, 17), frames=14, size=64)
    config = replace(NANO, run=trained, data=(tmp_path / "data.hdf5",), clips=2, samples=2, iterations=1, horizon=1)
    place = scene(config)
    found = fewer_steps(config, place, "one pass", ladder(config, place)["one pass"])
    errors = [row["error_over_copying"]["estimate"] for row in found["rows"]]
    assert found["clips"] == 2 and min(errors) > 0 and errors[0] != errors[1]


def test_one_command_writes_all_numbers_with_what_they_depend_on(trained, tmp_path, capsys) -> None:
    path = tmp_path / "numbers.json"
    config = replace(NANO, run=trained, parts=("breakdown", "overhead"), json=path, plans=2, flow_steps=1)
    benchmark_planning(config)
    found = json.loads(path.read_text())
    assert {"config", "machine", "versions", "git_revision", "weights", "finished", "targets"} <= found.keys()
    assert len(found["weights"]["sha256"]) == 64 and found["machine"]["threads"] == torch.get_num_threads()
    assert [row["variant"] for row in found["breakdown"]["variants"]] == ["pixel", "latent"]
    pixel, latent = found["breakdown"]["variants"]
    assert tuple(pixel["parts"]) == PARTS and pixel["floor_seconds"] > 0 and pixel["times_floor"] > 0
    # Only a plan costed in pixels decodes what it imagines.
    assert pixel["operations"]["cost"] > 0 == latent["operations"]["cost"]
    assert {row["planner"] for row in found["overhead"]["planners"]} == {"CEM", "CEM, mean", "MPPI"}
    assert found["overhead"]["pairs"] == [] and found["overhead"]["rivals"] is None
    said = capsys.readouterr().out
    assert "BREAKDOWN" in said and "TARGETS" in said and "make an environment of their own" in said


def test_operations_grow_with_the_plan_and_lie_where_frames_are_imagined(place) -> None:
    one, two = (operations(replace(NANO, iterations=count), place, "latent") for count in (1, 2))
    assert one["imagine"] > one["encode"] > 0 and one["draw"] == one["update"] == one["rest"] == 0
    assert two["encode"] == one["encode"]  # once for all iterations
    assert two["imagine"] > 1.5 * one["imagine"]


def test_numbers_so_far_are_written_before_a_later_part_fails(tmp_path, monkeypatch) -> None:
    def broken(config):
        raise FloatingPointError("planning finds only NaN")

    monkeypatch.setattr(entry, "measure_budgets", broken)
    with pytest.raises(FloatingPointError):
        benchmark_planning(replace(NANO, parts=("overhead", "budgets"), json=tmp_path / "n.json", plans=2))
    found = json.loads((tmp_path / "n.json").read_text())
    assert "overhead" in found and "budgets" not in found
    assert not list(tmp_path.glob("*.partial"))


def results(seconds: float, **about) -> dict:
    told = {
        "config": {"preset": "tiny", "run": None, "clock": "wall", "device": "cpu"},
        "machine": {"device": "a CPU", "threads": 2},
        "breakdown": {
            "samples": 64, "iterations": 2, "horizon": 6, "variants": [
                {"variant": "pixel", "seconds": seconds, "interval": {"low": seconds - 0.03, "high": seconds + 0.03}},
                {"variant": "latent", "seconds": 0.1},
            ],
        },
    }  # fmt: skip
    for name, values in about.items():
        told[name] |= values
    return told


def test_a_target_counts_only_where_it_was_measured() -> None:
    def met(found: dict) -> list:
        return [target["met"] for target in targets(found)]

    assert met(results(1.9))[:3] == [None, True, None]
    assert met(results(2.1))[1] is False  # in pixels, whatever latents take
    assert met(results(1.98))[1] is None  # within its interval
    for low, high, expected in ((11, 14, True), (9, 14, None), (7, 9, False)):
        together = {"estimate": (low + high) / 2, "low": low, "high": high, "rung": "one pass"}
        assert met({"engine": {"together": together}})[0] is expected
    assert met(results(1.9, machine={"threads": 8}))[1] is None
    assert met(results(1.9, breakdown={"horizon": 4}))[1] is None
    assert met(results(1.9, config={"clock": "cpu"}))[1] is None
    size = {"samples": 256, "iterations": 3, "horizon": 8}
    small = {"config": {"preset": "small", "device": "cuda"}, "breakdown": size}
    assert met(results(0.2, **small, machine={"device": "NVIDIA H100 80GB"}))[2] is True
    assert met(results(0.2, **small, machine={"device": "NVIDIA A100"}))[2] is None
    even = {"estimate": 1.0, "low": 0.95, "high": 1.05}
    for faster, expected in ((even, True), ({**even, "high": 0.97}, False), ({**even, "low": 0.5}, None)):
        pair = {"ours": "CEM", "rival": "theirs", "times_faster": faster, "cost_over_ours": even}
        assert met({"overhead": {"pairs": [pair]}})[-1] is expected


def test_sides_take_turns_and_ratios_have_intervals() -> None:
    order = []
    found = in_turns({"a": lambda: order.append("a") or 2.0, "b": lambda: order.append("b") or 1.0}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"] and found == {"a": [2.0] * 3, "b": [1.0] * 3}
    same = ratio(found["a"], found["b"])
    assert same.estimate == pytest.approx(2) and same.low == same.high
    varied = ratio([2.0, 4.0, 2.0], [1.0, 1.0, 1.0])
    assert varied.low < varied.estimate < varied.high and varied.estimate == pytest.approx(16 ** (1 / 3))
    assert mean_of([1.0, 3.0]).estimate == 2 and mean_of([1.0, 3.0]).low < 1
    for wrong in (([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, 0.0], [1.0, 1.0])):
        with pytest.raises(ValueError, match="a ratio needs"):
            ratio(*wrong)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"samples": 0}, "--samples must be 1 or more, got 0"),
        ({"repetitions": 1}, "--repetitions must be 2 or more, got 1"),
        ({"parts": ()}, "--parts needs at least one part"),
        ({"budgets": ("64",)}, "--budgets: '64' is neither samples x iterations"),
        ({"budgets": ("0s",)}, "--budgets: '0s' is neither"),
        ({"budgets": ("8x1", "8x1")}, "none twice"),
        ({"rivals": Path("nowhere/python")}, "--rivals: there is no interpreter nowhere/python"),
        ({"flow_steps": 0}, "steps"),
    ],
)
def test_a_flag_that_cannot_be_is_named(flags, message) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        BenchmarkConfig(**flags)


def test_a_horizon_beyond_the_world_is_one_sentence(place) -> None:
    with pytest.raises(ValueError, match="horizon of 30 steps is beyond the world's 10"):
        planner_in(replace(NANO, horizon=30), ladder(NANO, place)["one pass"])


def test_the_command_prints_one_sentence_for_a_bad_flag() -> None:
    command = [sys.executable, entry.__file__, "--parts", "engine", "--run", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "nowhere" in done.stderr
