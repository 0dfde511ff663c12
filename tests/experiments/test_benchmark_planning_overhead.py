"""Planners on a linear world: what both sides are given is the same, and the rivals answer from a process of their
own (here: stand-ins for their packages).
"""

import sys
from pathlib import Path

import pytest
import torch

from colaworld.experiments import benchmark_planning_overhead as overhead
from colaworld.experiments.benchmark_planning_overhead import (
    judge,
    mean_cost,
    measure_overhead,
    our_planners,
    rival_turns,
    trivial_task,
)
from colaworld.experiments.benchmark_planning_rivals import timed_plans
from colaworld.experiments.benchmark_planning_settings import BenchmarkConfig
from colaworld.experiments.benchmark_planning_tables import overhead_table

SMALL = BenchmarkConfig(samples=64, iterations=4, horizon=4, repetitions=2, plans=2)
STAND_INS = """
import sys, types
from importlib import metadata

import torch

metadata.version = lambda package: "stand-in"
import importlib.util
importlib.util.find_spec = lambda name: importlib.machinery.ModuleSpec(name, None)


class Solver:
    def __init__(self, model, *, num_samples, n_steps, topk, var_scale, temperature=None):
        self.model, self.samples, self.steps, self.topk = model, num_samples, n_steps, topk
        self.torch_gen = torch.Generator()

    def configure(self, *, action_space, n_envs, config):
        self.shape = (config.horizon, action_space.shape[1])

    def solve(self, info):
        mean = torch.zeros(self.shape)
        for _ in range(self.steps):
            tried = mean + torch.randn(1, self.samples, *self.shape, generator=self.torch_gen)
            costs = self.model.get_cost(info, tried)[0]
            mean = tried[0, costs.topk(self.topk, largest=False).indices].mean(dim=0)
        return {"actions": mean[None]}


class MPPI:
    def __init__(self, dynamics, running_cost, nx, noise_sigma, *, num_samples, horizon, U_init, **others):
        self.U = U_init

    def command(self, state, shift_nominal_trajectory):
        self.U = self.U + 0.01


def module(name, **content):
    made = types.ModuleType(name)
    made.__dict__.update(content)
    sys.modules[name] = made


module("stable_worldmodel")
module("stable_worldmodel.solver", CEMSolver=Solver, MPPISolver=Solver)
module("gymnasium")
module("gymnasium.spaces", Box=lambda low, high, shape: types.SimpleNamespace(shape=shape))
module("pytorch_mppi", MPPI=MPPI)
"""


@pytest.fixture
def stand_ins(tmp_path) -> Path:
    """An interpreter in whose processes the rivals' packages are ours of a few lines."""
    (tmp_path / "stand_ins.py").write_text(STAND_INS)
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nshift\nexec {sys.executable} -c "import sys, runpy; sys.path.insert(0, \'{tmp_path}\'); '
        "import stand_ins; runpy.run_path(sys.argv[1], run_name='__main__')\" \"$@\"\n"
    )
    python.chmod(0o755)
    return python


def test_our_planners_reach_far_below_doing_nothing() -> None:
    task = trivial_task(SMALL)
    nothing = mean_cost(judge(task), torch.zeros(1, task.horizon, 7).tolist())
    for name, plan in our_planners(task).items():
        told = timed_plans(plan, [0, 1])
        assert len(told["wall"]) == len(told["cpu"]) == 2
        assert told["actions"][0] == plan(0).tolist()  # the seed decides
        assert mean_cost(judge(task), told["actions"]) < (0.95 if name == "MPPI" else 0.7) * nothing


def test_the_world_costs_each_step_that_it_takes() -> None:
    world = trivial_task(SMALL).world()
    actions = torch.randn(3, 2, 7)
    first = world.step(world.start.expand(3, -1), actions[:, 0])
    second = world.step(first, actions[:, 1])
    expected = world.running(first, actions[:, 0]) + world.running(second, actions[:, 1])
    torch.testing.assert_close(world.cost(actions), expected)


def test_rivals_take_turns_with_ours_and_are_compared_in_pairs(stand_ins) -> None:
    found = measure_overhead(BenchmarkConfig(**{**vars(SMALL), "rivals": stand_ins}))
    assert found["rivals"] == {name: "stand-in" for name in ("torch", "stable-worldmodel", "pytorch-mppi")}
    assert len(found["planners"]) == 6
    pairs = {(pair["ours"], pair["rival"]): pair for pair in found["pairs"]}
    assert list(pairs) == [
        ("CEM", "stable-worldmodel CEM"),
        ("CEM, mean", "stable-worldmodel CEM"),
        ("MPPI", "stable-worldmodel MPPI"),
        ("MPPI", "pytorch-mppi"),
    ]
    costs = {row["planner"]: row["cost"]["estimate"] for row in found["planners"]}
    reached = pairs["MPPI", "pytorch-mppi"]["cost_over_ours"]["estimate"]
    assert reached == pytest.approx(costs["pytorch-mppi"] / costs["MPPI"], rel=0.2) and reached > 1
    assert "theirs: torch stand-in" in "\n".join(overhead_table(found))


def test_a_missing_package_is_one_sentence(tmp_path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "raise ModuleNotFoundError(\'No module named its own\')"\n')
    python.chmod(0o755)
    with pytest.raises(ValueError, match=r"--rivals .*python: ModuleNotFoundError: No module named its own"):
        with rival_turns(python, trivial_task(SMALL)):
            pass


def test_without_rivals_the_table_says_how_to_make_their_environment() -> None:
    found = measure_overhead(SMALL)
    assert found["pairs"] == []
    said = "\n".join(overhead_table(found))
    assert overhead.RECIPE in said and "pip install --no-deps stable-worldmodel" in said
