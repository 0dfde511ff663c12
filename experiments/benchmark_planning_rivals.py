"""Other people's planners on a trivial world, run by the interpreter of an environment of their own:
``benchmark_planning.py --parts overhead --rivals PYTHON`` starts this file there and asks for plans, a line of JSON
each.

Imports nothing but torch and the rivals, and those only when asked: ``stable-worldmodel``'s CEM and MPPI solvers and
``pytorch-mppi``, as they are installed. ``Linear`` and ``timed_plans`` serve both sides, so that they plan in and are
timed by the same code.

Requests: first the task (``Task``'s fields), answered by the versions of what plans here; then ``{"planner",
"seeds"}``, answered by seconds on both clocks and actions of each seed's plan. An empty line ends it.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from io import StringIO
from typing import Any

import torch
from torch import Tensor

BOUND = 10.0
"""Actions lie within it where a planner wants bounds: so wide of a standard deviation of 1 that they change nothing."""

PACKAGES = ("torch", "stable-worldmodel", "pytorch-mppi")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every planner is given: the world's matrices, the size of a plan, the planners' own numbers."""

    transition: Sequence[Sequence[float]]
    control: Sequence[Sequence[float]]
    start: Sequence[float]
    effort: float
    samples: int
    iterations: int
    horizon: int
    elites: int
    temperature: float
    threads: int

    def world(self) -> "Linear":
        """As tensors."""
        return Linear(
            torch.tensor(self.transition), torch.tensor(self.control), torch.tensor(self.start), self.effort
        )


@dataclass(frozen=True)
class Linear:
    """Linear dynamics ``x' = x transition + u control`` from ``start (N,)``, costing ``|x'|^2 + effort |u|^2`` a step;
    ``transition (N, N)``, ``control (A, N)``.
    """

    transition: Tensor
    control: Tensor
    start: Tensor
    effort: float

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """``(S, N)`` and ``(S, A)`` -> the next ``(S, N)``."""
        return state @ self.transition + action @ self.control

    def running(self, state: Tensor, action: Tensor) -> Tensor:
        """Cost ``(S,)`` of a step that led to ``state``."""
        return state.square().sum(dim=-1) + self.effort * action.square().sum(dim=-1)

    def cost(self, actions: Tensor) -> Tensor:
        """``(S, H, A) -> (S,)``."""
        state = self.start.expand(len(actions), -1)
        total = torch.zeros(len(actions), dtype=actions.dtype)
        for action in actions.unbind(dim=1):
            state = self.step(state, action)
            total = total + self.running(state, action)
        return total


Plan = Callable[[int], Tensor]
"""``seed -> actions (H, A)``."""


def timed_plans(plan: Plan, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """``plan`` for each seed after one for nothing: ``wall`` and ``cpu`` seconds and ``actions``."""
    plan(seeds[0])
    told: dict[str, list[Any]] = {"wall": [], "cpu": [], "actions": []}
    for seed in seeds:
        wall, cpu = time.perf_counter(), time.process_time()
        actions = plan(seed)
        told["cpu"].append(time.process_time() - cpu)
        told["wall"].append(time.perf_counter() - wall)
        told["actions"].append(actions.tolist())
    return told


def stable_worldmodel(task: Task, kind: str) -> Plan:
    """The solver ``kind`` of stable-worldmodel, all samples weighed (MPPI)."""
    found = importlib.util.find_spec("stable_worldmodel")
    if found is None:
        raise ModuleNotFoundError("No module named 'stable_worldmodel'")
    # Only the package's name: its __init__ reads in data formats and simulators that its solvers know nothing of.
    sys.modules.setdefault("stable_worldmodel", importlib.util.module_from_spec(found))
    from gymnasium.spaces import Box
    from stable_worldmodel.solver import CEMSolver, MPPISolver

    world, width = task.world(), len(task.control)

    class Model:
        """What their solvers ask of a world model: costs ``(1, S)`` of candidates ``(1, S, H, A)``."""

        def get_cost(self, info: dict[str, Tensor], candidates: Tensor) -> Tensor:
            """The state is the task's."""
            return world.cost(candidates[0])[None]

    class Settings:
        """As their PlanConfig."""

        horizon, action_block = task.horizon, 1

    size = {"num_samples": task.samples, "n_steps": task.iterations, "var_scale": 1.0}
    if kind == "cem":
        solver = CEMSolver(Model(), topk=task.elites, **size)
    else:
        solver = MPPISolver(Model(), topk=task.samples, temperature=task.temperature, **size)
    solver.configure(action_space=Box(-BOUND, BOUND, (1, width)), n_envs=1, config=Settings())
    info = {"state": world.start[None]}

    def plan(seed: int) -> Tensor:
        solver.torch_gen.manual_seed(seed)
        with redirect_stdout(StringIO()):  # they print how long they took
            return solver.solve(info)["actions"][0]

    return plan


def pytorch_mppi(task: Task) -> Plan:
    """pytorch-mppi's MPPI, refined as often as there are iterations."""
    from pytorch_mppi import MPPI

    world, width = task.world(), len(task.control)
    controller = MPPI(
        world.step,
        world.running,
        len(task.start),
        torch.eye(width),
        num_samples=task.samples,
        horizon=task.horizon,
        lambda_=task.temperature,
        u_min=torch.full((width,), -BOUND),
        u_max=torch.full((width,), BOUND),
        U_init=torch.zeros(task.horizon, width),
    )

    def plan(seed: int) -> Tensor:
        torch.manual_seed(seed)
        controller.U = torch.zeros(task.horizon, width)
        for _ in range(task.iterations):
            controller.command(world.start, shift_nominal_trajectory=False)
        return controller.U

    return plan


RIVALS: dict[str, Callable[[Task], Plan]] = {
    "stable-worldmodel CEM": lambda task: stable_worldmodel(task, "cem"),
    "stable-worldmodel MPPI": lambda task: stable_worldmodel(task, "mppi"),
    "pytorch-mppi": pytorch_mppi,
}


def serve() -> None:
    """Answer requests on standard input until there are no more."""
    answers = sys.stdout
    task = Task(**json.loads(sys.stdin.readline()))
    torch.set_num_threads(task.threads)
    with redirect_stdout(sys.stderr), torch.no_grad():
        plans = {name: make(task) for name, make in RIVALS.items()}
        versions = {package: metadata.version(package) for package in PACKAGES}
        print(json.dumps(versions), file=answers, flush=True)
        while request := sys.stdin.readline().strip():
            asked = json.loads(request)
            print(json.dumps(timed_plans(plans[asked["planner"]], asked["seeds"])), file=answers, flush=True)


if __name__ == "__main__":
    serve()
