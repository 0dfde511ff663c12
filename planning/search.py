"""The one loop of every planner: sample -> cost -> update.

CEM, MPPI and random shooting differ only in ``Planner.update``. The middle of the current distribution is always
among the candidates, so a plan is never worse than doing what was meant before; the best candidate ever costed is
kept.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from colaworld.planning.protocols import CostFn, Distribution, Planner

ELITE_SHARE = 0.1
"""Share of the candidates that ``IterationRecord.elite_cost`` averages over, for every planner, so that histories
compare.
"""


@dataclass(frozen=True, kw_only=True)
class IterationRecord:
    """One round of candidates: costs over those with a finite cost, ``std`` the spread of the distribution they were
    drawn from.
    """

    best_cost: float
    mean_cost: float
    elite_cost: float
    std: float
    rejected: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What a search found: ``actions (H, A)`` with their ``cost``.

    ``distribution`` is the last one, ``evaluations`` counts costed candidates, ``rejected`` those whose cost was not
    finite. ``imagined (H, *latent)``, the world's prediction for ``actions``, is filled in by whoever has a world
    (``mpc``).
    """

    actions: Tensor
    cost: float
    history: tuple[IterationRecord, ...]
    distribution: Distribution
    seconds: float
    evaluations: int
    rejected: int
    imagined: Tensor | None = None


@torch.no_grad()
def search(
    cost: CostFn,
    distribution: Distribution,
    planner: Planner,
    *,
    generator: torch.Generator,
    max_batch: int | None = None,
) -> Plan:
    """Run ``planner`` on ``cost`` from ``distribution``; at most ``max_batch`` candidates are costed at once (None:
    all).

    Deterministic given ``generator``. Raises FloatingPointError when no candidate of an iteration has a finite cost,
    ValueError for a ``max_batch`` below 1 or a cost of the wrong shape.
    """
    begun = time.perf_counter()
    if max_batch is not None and max_batch < 1:
        raise ValueError(f"max_batch must be 1 or more, got {max_batch}")
    best_actions, best_cost = distribution.mode(), math.inf
    history: list[IterationRecord] = []
    for iteration in range(planner.iterations):
        actions = draw(distribution, planner.samples, generator)
        costs = evaluate(cost, actions, max_batch)
        history.append(summarise(costs, distribution.spread(), iteration))
        lowest = int(costs.argmin())
        if costs[lowest].item() < best_cost:
            best_actions, best_cost = actions[lowest], costs[lowest].item()
        distribution = planner.update(distribution, actions, costs)
    evaluations = planner.samples * planner.iterations
    rejected = sum(record.rejected for record in history)
    if planner.returns == "mean":
        final = evaluate(cost, distribution.mode()[None], max_batch)
        evaluations += 1
        if math.isfinite(final.item()):
            best_actions, best_cost = distribution.mode(), final.item()
        else:  # the middle of good candidates need not be good: keep the best one
            rejected += 1
    return Plan(
        actions=best_actions.clone(),
        cost=best_cost,
        history=tuple(history),
        distribution=distribution,
        seconds=time.perf_counter() - begun,
        evaluations=evaluations,
        rejected=rejected,
    )


def draw(distribution: Distribution, count: int, generator: torch.Generator) -> Tensor:
    """``(count, H, A)``: the distribution's middle first, then ``count - 1`` samples."""
    middle = distribution.mode()[None]
    return torch.cat([middle, distribution.sample(count - 1, generator)]) if count > 1 else middle


def evaluate(cost: CostFn, actions: Tensor, max_batch: int | None) -> Tensor:
    """Costs ``(S,)`` on the device of ``actions``, chunk by chunk; what is not finite becomes +infinity."""
    chunks = []
    for chunk in actions.split(max_batch or len(actions)):
        costs = cost(chunk)
        if costs.shape != (len(chunk),):
            raise ValueError(
                f"costs of {len(chunk)} candidates must have shape ({len(chunk)},), got {tuple(costs.shape)}"
            )
        chunks.append(costs.to(device=actions.device, dtype=torch.float32))
    costs = torch.cat(chunks)
    return torch.where(costs.isfinite(), costs, math.inf)


def summarise(costs: Tensor, std: float, iteration: int) -> IterationRecord:
    """Numbers for the history; raises FloatingPointError when every cost ``(S,)`` is infinite."""
    finite = costs[costs.isfinite()].sort().values
    if len(finite) == 0:
        raise FloatingPointError(f"planning iteration {iteration}: all {len(costs)} candidates cost NaN or infinity")
    elites = finite[: max(1, round(ELITE_SHARE * len(costs)))]
    return IterationRecord(
        best_cost=finite[0].item(),
        mean_cost=finite.mean().item(),
        elite_cost=elites.mean().item(),
        std=std,
        rejected=len(costs) - len(finite),
    )


def check_budget(samples: int, iterations: int) -> None:
    """Raise ValueError for a search that would cost nothing; every planner's config calls it."""
    if samples < 1:
        raise ValueError(f"samples must be 1 or more, got {samples}")
    if iterations < 1:
        raise ValueError(f"iterations must be 1 or more, got {iterations}")
