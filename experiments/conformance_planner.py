"""Is it a planner, is it an objective? The laws of ``planning.protocols``, examined on problems of known answer.

The planner searches 4 steps of 3 actions in [-1, 1] whose cost is the squared distance to a target: from ``REST``, the
middle of the first distribution, it must find something cheaper. The objective compares frames that are noise.
"""

import math
from typing import Any

import torch
from torch import Tensor

from colaworld.experiments.conformance import (
    BrokenLaw,
    Examination,
    Finding,
    expect,
    expect_attributes,
    expect_same,
    expect_tensor,
    expect_untouched,
)
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.protocols import Objective, Planner, World
from colaworld.planning.search import Plan, search

HORIZON, WIDTH = 4, 3
REST = ActionPrior(mean=(0.0,) * WIDTH, std=(0.5,) * WIDTH, low=(-1.0,) * WIDTH, high=(1.0,) * WIDTH)
TARGET = torch.tensor([0.6, -0.4, 0.3])
CANDIDATES = 3
TOLERANCE = 1e-4


def squared(actions: Tensor) -> Tensor:
    """``(S, H, A) -> (S,)``: to ``TARGET`` at every step."""
    return (actions - TARGET).square().sum(dim=(1, 2))


def half_rejected(actions: Tensor) -> Tensor:
    """The same, infinite wherever the first action is above what resting is."""
    return torch.where(actions[:, 0, 0] > 0, math.inf, squared(actions))


def check_planner(planner: Planner, *, seed: int = 0) -> tuple[Finding, ...]:
    """All laws that could be examined; those that rest on a broken one are left out."""
    exam = Examination()
    with exam.law("attributes", "budget, rule and the rest are there"):
        expect_attributes(planner, ("samples", "iterations"), ("population", "with_middle", "kept", "update"))
        for name, values in (("returns", ("best", "mean")), ("gradients", (True, False))):
            got = getattr(planner, name, "nothing")
            expect(got in values, f"{name} to be {values[0]!r} or {values[1]!r}", repr(got))
        for iteration in range(planner.iterations):
            count = planner.population(iteration)
            expect(isinstance(count, int) and count >= 1, f"population({iteration}) to be 1 or more", repr(count))
    if exam.broken:
        return tuple(exam.findings)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        _laws(exam, planner, seed)
    return tuple(exam.findings)


def _laws(exam: Examination, planner: Planner, seed: int) -> None:
    def plan(cost: Any = squared, horizon: int = HORIZON) -> Plan:
        generator = torch.Generator().manual_seed(seed)
        found = search(cost, REST.distribution(horizon), _Watched(planner), generator=generator)
        expect_tensor(found.actions, (horizon, WIDTH), of="a plan (H, A)")
        reach = found.actions.abs().max().item()
        expect(reach <= 1, "a plan inside the bounds [-1, 1]", f"an action of {reach:.3g}")
        return found

    with exam.law("update", "(distribution, actions, costs) -> the next distribution; its arguments are not its own"):
        first = plan()
    if exam.broken:
        return
    with exam.law("update", "the same generator seed gives the same plan, and no search remembers the one before"):
        expect_same(plan().actions, first.actions, TOLERANCE, "equal plans from equal seeds")
    law = "the search finds something better than resting"
    with exam.law("update", law):
        rest = squared(torch.zeros(1, HORIZON, WIDTH)).item()
        expect(first.cost <= rest, f"a plan that costs no more than resting ({rest:.3g})", f"{first.cost:.3g}")
        if first.cost == rest:
            exam.note("update", law, f"{first.evaluations} candidates found nothing better on a quadratic")
    with exam.law("update", "infinite costs mark rejected candidates"):
        expect(math.isfinite(plan(half_rejected).cost), "a plan of finite cost though half are rejected", math.inf)
    with exam.law("update", "a horizon of 1 will do"):
        plan(horizon=1)


class _Watched:
    """A planner whose ``update`` is looked at from both sides."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._planner, name)

    def update(self, distribution: Any, actions: Tensor, costs: Tensor) -> Any:
        before, wide = distribution.mode().clone(), distribution.spread()
        given, paid = actions.detach().clone(), costs.clone()
        after = self._planner.update(distribution, actions, costs)
        expect_untouched("actions", actions.detach(), given)
        expect_untouched("costs", costs, paid)
        expect_untouched("the distribution's middle", distribution.mode(), before)
        expect(distribution.spread() == wide, f"the distribution's spread left at {wide:.3g}", distribution.spread())
        if not all(callable(getattr(after, name, None)) for name in ("sample", "mode", "clamp", "spread", "recentred")):
            raise BrokenLaw(f"expected the next distribution, got {type(after).__name__}")
        expect_tensor(after.mode(), tuple(actions.shape[1:]), of="the next distribution's middle (H, A)")
        return after


class Frames:
    """As much of a world as an objective of pictures needs: latents are frames in [0, 1]."""

    action_dim, context_frames, max_horizon = WIDTH, 1, HORIZON

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 to [0, 1]."""
        return frames.float() / 255

    def decode(self, latents: Tensor) -> Tensor:
        """Nothing to do."""
        return latents


@torch.no_grad()
def check_objective(
    objective: Objective, world: World | Frames | None = None, *, height: int = 64, width: int = 64, seed: int = 0
) -> tuple[Finding, ...]:
    """All laws that could be examined, in latents of ``world`` (None: of frames themselves)."""
    exam, world = Examination(), Frames() if world is None else world
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (CANDIDATES * HORIZON, 3, height, width), generator=generator, dtype=torch.uint8)
    latents = world.encode(frames)
    imagined, goal = latents.unflatten(0, (CANDIDATES, HORIZON)), frames[-1]
    with exam.law("attributes", "it can be called and has a target"):
        expect_attributes(objective, (), ("target", "__call__"))
    with exam.law("target", "goal uint8 (3, height, width) -> whatever it compares with; the goal is not its own"):
        given = goal.clone()
        target = objective.target(world, given)
        expect_untouched("the goal", given, goal)
    if exam.broken:
        return tuple(exam.findings)

    def costs(futures: Tensor) -> Tensor:
        given = futures.clone()
        paid = expect_tensor(objective(world, given, target), (len(futures),), of="costs (S,)")
        expect_untouched("imagined", given, futures)
        return paid

    with exam.law("__call__", "imagined (S, H, *latent) -> finite costs (S,)"):
        first = costs(imagined)
    if exam.broken:
        return tuple(exam.findings)
    with exam.law("__call__", "a candidate's cost does not depend on the others in the batch"):
        for index in range(CANDIDATES):
            alone = costs(imagined[index : index + 1]).item()
            gap = abs(alone - first[index].item()) / max(1e-9, first.abs().max().item())
            expect(gap <= TOLERANCE, f"candidate {index} alone to cost {first[index].item():.6g}", f"{alone:.6g}")
    with exam.law("__call__", "a candidate of NaN leaves the others' costs alone"):
        spoilt = imagined.clone()
        spoilt[0] = math.nan
        expect_same(objective(world, spoilt, target)[1:], first[1:], TOLERANCE, "the costs of the others as before")
    law = "nothing is nearer to the goal than the goal"
    with exam.law("__call__", law):
        arrived = costs(latents[-1:].expand(HORIZON, *latents.shape[1:])[None]).item()
        if arrived > first.min().item():
            exam.note("__call__", law, f"the goal itself costs {arrived:.3g}, noise {first.min().item():.3g}")
    return tuple(exam.findings)
