"""What planners cost besides the world: ours and other people's, on linear dynamics with a quadratic cost.

Same dynamics, samples, iterations, horizon, first distribution (mean 0, standard deviation 1), elites (CEM) and
temperature (MPPI); each after a plan for nothing, imports and making not counted. The rivals plan in a process of their
own (``benchmark_planning_rivals``), in turns with ours. Which is better is told by the cost, in float64, of the actions
that each returns.

Not the same: our MPPI costs the mean that it returns, which the others hand out unseen (one roll-out more, counted
here); CEM by default returns the best candidate that it saw, stable-worldmodel the elites' mean, so both ways of ours
are shown.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from colaworld.experiments import benchmark_planning_rivals
from colaworld.experiments.benchmark_planning_rivals import BOUND, RIVALS, Linear, Plan, Task, timed_plans
from colaworld.experiments.benchmark_planning_settings import TRIVIAL_PLAN, BenchmarkConfig
from colaworld.experiments.benchmark_planning_timing import in_turns, mean_of, middle, ratio
from colaworld.planning.cem import CEM
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.mppi import MPPI
from colaworld.planning.protocols import Planner
from colaworld.planning.search import search

STATE, ACTION = 8, 7
"""Widths of the trivial world's state and action."""
ELITE_SHARE = 0.1
TEMPERATURE = 5.0
"""Of MPPI's weights, in units of the cost."""
PAIRS = {
    "CEM": ("stable-worldmodel CEM",),
    "CEM, mean": ("stable-worldmodel CEM",),
    "MPPI": ("stable-worldmodel MPPI", "pytorch-mppi"),
}
"""Ours, and whom each is compared with."""
RECIPE = (
    "the rivals were not measured; make an environment of their own and name its interpreter with --rivals:\n"
    "  python -m venv rivals && rivals/bin/pip install torch==2.13.0\n"
    "  rivals/bin/pip install --no-deps stable-worldmodel==0.1.1 pytorch-mppi==0.9.1\n"
    "  rivals/bin/pip install numpy einops gymnasium loguru arm-pytorch-utilities"
)
"""Their planners alone: all that stable-worldmodel depends on (data formats) is not needed for them."""
Turn = Callable[[Sequence[int]], dict[str, list[Any]]]
"""``seeds ->`` what ``timed_plans`` tells."""


def trivial_task(config: BenchmarkConfig) -> Task:
    """A slowly turning, slightly growing system that starts away from the origin and is to be brought there."""
    samples, iterations, horizon = config.plan(TRIVIAL_PLAN)
    chance = torch.Generator().manual_seed(0)
    turning, _ = torch.linalg.qr(torch.randn(STATE, STATE, generator=chance))
    return Task(
        transition=(0.5 * turning + 0.55 * torch.eye(STATE)).tolist(),
        control=(0.3 * torch.randn(ACTION, STATE, generator=chance)).tolist(),
        start=torch.randn(STATE, generator=chance).tolist(),
        effort=0.1,
        samples=samples,
        iterations=iterations,
        horizon=horizon,
        elites=max(2, round(ELITE_SHARE * samples)),
        temperature=TEMPERATURE,
        threads=torch.get_num_threads(),
    )


def our_planners(task: Task) -> dict[str, Plan]:
    """The house's planners by their names in ``PAIRS``."""
    size = {"samples": task.samples, "iterations": task.iterations}
    share = task.elites / task.samples
    planners: dict[str, Planner] = {
        "CEM": CEM(**size, elite_fraction=share),
        "CEM, mean": CEM(**size, elite_fraction=share, returns="mean"),
        "MPPI": MPPI(**size, gamma=1 / task.temperature),
    }
    width = len(task.control)
    prior = ActionPrior(mean=(0.0,) * width, std=(1.0,) * width, low=(-BOUND,) * width, high=(BOUND,) * width)
    world, first = task.world(), prior.gaussian(task.horizon)

    def plans(planner: Planner) -> Plan:
        generator = torch.Generator()
        return lambda seed: search(world.cost, first, planner, generator=generator.manual_seed(seed)).actions

    return {name: plans(planner) for name, planner in planners.items()}


@contextmanager
def rival_turns(python: Path, task: Task) -> Iterator[tuple[dict[str, Turn], dict[str, str]]]:
    """The rivals by name, in a process of ``python``, and their packages' versions.

    ValueError with what it last said when it ends too early (a package is missing, for example).
    """
    script = Path(benchmark_planning_rivals.__file__)
    command = [str(python), "-P", str(script)]  # -P: this folder's modules are not to be taken for theirs
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            said = process.stderr.read().strip().splitlines()
            raise ValueError(f"--rivals {python}: {said[-1] if said else 'it ended without a word'}")
        return json.loads(answer)

    try:
        versions = ask(asdict(task))
        turns = {name: lambda seeds, name=name: ask({"planner": name, "seeds": list(seeds)}) for name in RIVALS}
        yield turns, versions
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()


def measure_overhead(config: BenchmarkConfig) -> dict[str, Any]:
    """Seconds per plan and cost reached of every planner; with rivals, theirs over ours (above 1: ours is faster, or
    cheaper), the median plan of every turn.
    """
    task = trivial_task(config)
    turns: dict[str, Turn] = {
        name: lambda seeds, plan=plan: timed_plans(plan, seeds) for name, plan in our_planners(task).items()
    }
    if config.rivals is None:
        return {**size_of(task), "rivals": None, **compared(config, task, turns)}
    with rival_turns(config.rivals, task) as (rivals, versions):
        return {**size_of(task), "rivals": versions, **compared(config, task, {**turns, **rivals})}


def size_of(task: Task) -> dict[str, int]:
    """Of a plan, for the record."""
    return {name: getattr(task, name) for name in ("samples", "iterations", "horizon", "elites")}


def compared(config: BenchmarkConfig, task: Task, turns: dict[str, Turn]) -> dict[str, Any]:
    """All planners in turns, each with the same seeds."""
    world, told = judge(task), {name: [] for name in turns}

    def turn(name: str) -> float:
        seeds = range(len(told[name]) * config.plans, (len(told[name]) + 1) * config.plans)
        told[name].append(turns[name](seeds))
        return middle(told[name][-1][config.clock])

    with tqdm(total=len(turns) * config.repetitions, desc="overhead", unit="turn") as progress, torch.no_grad():
        sides = {name: lambda name=name: turn(name) for name in turns}
        seconds = in_turns(sides, config.repetitions, on_turn=lambda name: progress.update())
    costs = {
        name: [mean_cost(world, answer["actions"]) for answer in answers] for name, answers in told.items()
    }
    rows = [
        {
            "planner": name,
            "seconds": middle(seconds[name]),
            "all_seconds": seconds[name],
            "cost": asdict(mean_of(costs[name])),
        }
        for name in turns
    ]
    pairs = [
        {
            "ours": ours,
            "rival": rival,
            "times_faster": asdict(ratio(seconds[rival], seconds[ours])),
            "cost_over_ours": asdict(ratio(costs[rival], costs[ours])),
        }
        for ours, rivals in PAIRS.items()
        for rival in rivals
        if rival in turns
    ]
    return {"planners": rows, "pairs": pairs}


def judge(task: Task) -> Linear:
    """The task's world in float64."""
    world = task.world()
    return Linear(world.transition.double(), world.control.double(), world.start.double(), world.effort)


def mean_cost(world: Linear, actions: Sequence[Any]) -> float:
    """Of plans ``(n, H, A)``."""
    return world.cost(torch.tensor(actions, dtype=torch.float64)).mean().item()
