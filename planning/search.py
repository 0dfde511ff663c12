"""The one loop of every planner: sample -> cost -> update.

CEM, iCEM, MPPI, gradient descent and random shooting differ in ``Planner.update`` and in which candidates go on. The
middle of the first distribution is always among the first candidates, so a plan is never worse than doing what was
meant before; the best candidate ever costed is kept.
"""

import math
import time
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from colaworld.planning.budget import Clock, check_seconds, rounds
from colaworld.planning.costing import NothingFiniteError, evaluate
from colaworld.planning.protocols import CostFn, Distribution, Planner

ELITE_SHARE = 0.1
"""Share of the candidates that an ``IterationRecord`` calls elites, for every planner, so that histories compare."""


@dataclass(frozen=True, kw_only=True)
class IterationRecord:
    """One round of candidates: costs over those with a finite cost, ``std`` the spread of the distribution they were
    drawn from, ``elite_spread`` that of the elites (``scatter``). Infinite costs and a spread of 0 where none had one,
    after which only a planner that steps back (by gradient) goes on.
    """

    best_cost: float
    mean_cost: float
    elite_cost: float
    std: float
    elite_spread: float
    rejected: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """What one iteration drew from ``distribution``: ``actions (S, H, A)`` with ``costs (S,)``."""

    distribution: Distribution
    actions: Tensor
    costs: Tensor

    def record(self) -> IterationRecord:
        """In numbers."""
        return summarise(self.costs, self.actions, self.distribution.spread())


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What a search found: ``actions (H, A)`` with their ``cost``.

    ``distribution`` is the last one, ``kept (K, H, A)`` what the planner would go on with (none for most),
    ``evaluations`` counts costed candidates, ``rejected`` those whose cost was not finite. ``imagined (H, *latent)``,
    the world's prediction for ``actions``, is filled in by whoever has a world (``mpc``).
    """

    actions: Tensor
    cost: float
    rounds: tuple[Round, ...]
    distribution: Distribution
    kept: Tensor
    seconds: float
    evaluations: int
    rejected: int
    imagined: Tensor | None = None

    @property
    def iterations(self) -> int:
        """How many rounds there were; under a budget of seconds the machine decides."""
        return len(self.rounds)

    @cached_property
    def history(self) -> tuple[IterationRecord, ...]:
        """The rounds in numbers, counted when they are asked for: a plan has not to wait for them."""
        return tuple(each.record() for each in self.rounds)


@torch.no_grad()
def search(
    cost: CostFn,
    distribution: Distribution,
    planner: Planner,
    *,
    generator: torch.Generator,
    max_batch: int | None = None,
    proposals: Tensor | None = None,
    budget_seconds: float | None = None,
    final_cost: CostFn | None = None,
    finalists: int = 8,
    clock: Clock = time.perf_counter,
) -> Plan:
    """Run ``planner`` on ``cost`` from ``distribution``; at most ``max_batch`` candidates are costed at once (None:
    all).

    ``proposals (P, H, A)`` take the places of P of the first candidates. ``budget_seconds`` counts seconds of ``clock``
    instead of the planner's iterations (``budget.rounds``). With ``final_cost`` (a better but dearer imagination), the
    best so far and the ``finalists`` cheapest of the last iteration are costed again by it, and it decides.

    Deterministic given ``generator``, unless seconds are counted. Raises NothingFiniteError when no candidate of an
    iteration has a finite cost (by gradient: of the first), ValueError for a ``max_batch``, ``finalists`` or budget
    below its least, more proposals than candidates, proposals or costs of the wrong shape, a cost without the gradient
    that the planner needs.
    """
    begun = clock()
    if max_batch is not None and max_batch < 1:
        raise ValueError(f"max_batch must be 1 or more, got {max_batch}")
    if finalists < 1:
        raise ValueError(f"finalists must be 1 or more, got {finalists}")
    check_seconds(budget_seconds)
    best_actions, best_cost = distribution.mode(), math.inf
    extra = best_actions[None][:0] if proposals is None else check_proposals(proposals, best_actions)
    done: list[Round] = []
    evaluations = 0
    for iteration, last in rounds(planner.iterations, budget_seconds, clock):
        middle = planner.with_middle(iteration, last)
        actions = draw(distribution, planner.population(iteration), generator, extra=extra, middle=middle)
        costs = evaluate(cost, actions, max_batch, gradients=planner.gradients)
        evaluations += len(actions)
        done.append(Round(distribution=distribution, actions=actions, costs=costs))
        least, lowest = costs.min(dim=0)
        lowest_cost = least.item()
        steps_back = planner.gradients and best_cost < math.inf
        if lowest_cost == math.inf and not steps_back:
            found = f"all {len(costs)} candidates cost NaN or infinity"
            raise NothingFiniteError(f"planning iteration {iteration}: {found}")
        if lowest_cost < best_cost:
            best_actions, best_cost = actions[lowest], lowest_cost
        extra = planner.kept(actions, costs)
        distribution = planner.update(distribution, actions, costs)
    rejected = int(torch.cat([each.costs for each in done]).isinf().sum())
    if planner.returns == "mean":
        final = evaluate(cost, distribution.mode()[None], max_batch)
        evaluations += 1
        if math.isfinite(final.item()):
            best_actions, best_cost = distribution.mode(), final.item()
        else:  # the middle of good candidates need not be good: keep the best one
            rejected += 1
    if final_cost is not None:
        chosen = torch.cat([best_actions[None], actions[costs.argsort(stable=True)[:finalists]]])
        again = evaluate(final_cost, chosen, max_batch)
        evaluations, rejected = evaluations + len(chosen), rejected + int(again.isinf().sum())
        if again.isinf().all():
            raise NothingFiniteError(f"planning: all {len(chosen)} finalists cost NaN or infinity")
        best_actions, best_cost = chosen[again.argmin()], again.min().item()
    return Plan(
        actions=best_actions.clone(),
        cost=best_cost,
        rounds=tuple(done),
        distribution=distribution,
        kept=extra,
        seconds=clock() - begun,
        evaluations=evaluations,
        rejected=rejected,
    )


def draw(
    distribution: Distribution, count: int, generator: torch.Generator, *, extra: Tensor, middle: bool = True
) -> Tensor:
    """``(count, H, A)``: the distribution's middle (if asked for), ``extra (K, H, A)`` moved inside its bounds, then
    samples. Raises ValueError when those do not fit.
    """
    given = distribution.clamp(extra) if len(extra) else extra
    if middle:
        given = torch.cat([distribution.mode()[None], given])
    if len(given) > count:
        raise ValueError(f"{len(extra)} proposed or kept candidates and the middle do not fit among {count} candidates")
    if len(given) == count:
        return given
    return torch.cat([given, distribution.sample(count - len(given), generator)])


def summarise(costs: Tensor, actions: Tensor, std: float) -> IterationRecord:
    """Numbers for the history of candidates ``actions (S, H, A)`` with ``costs (S,)``."""
    finite, order = costs.sort(stable=True)
    count = int(finite.isfinite().sum())
    if count == 0:
        return IterationRecord(
            best_cost=math.inf,
            mean_cost=math.inf,
            elite_cost=math.inf,
            std=std,
            elite_spread=0.0,
            rejected=len(costs),
        )
    elites = min(count, max(1, round(ELITE_SHARE * len(costs))))
    return IterationRecord(
        best_cost=finite[0].item(),
        mean_cost=finite[:count].mean().item(),
        elite_cost=finite[:elites].mean().item(),
        std=std,
        elite_spread=scatter(actions[order[:elites]]),
        rejected=len(costs) - count,
    )


def scatter(actions: Tensor) -> float:
    """How far candidates ``(S, H, A)`` differ: the mean standard deviation of real actions; of codes, the mean share
    that is not the commonest code of its place. 0 when all are one.
    """
    if actions.is_floating_point():
        return actions.std(dim=0, correction=0).mean().item()
    return (actions != actions.mode(dim=0).values).float().mean().item()


def check_proposals(proposals: Tensor, middle: Tensor) -> Tensor:
    """``proposals (P, H, A)`` on the device and of the type of ``middle (H, A)``; ValueError for another shape or
    values that are not finite.
    """
    if proposals.ndim != 3 or proposals.shape[1:] != middle.shape:
        raise ValueError(f"proposals must be (P, {middle.shape[0]}, {middle.shape[1]}), got {tuple(proposals.shape)}")
    if not proposals.isfinite().all():
        raise ValueError("proposals must be finite")
    if middle.is_floating_point() != proposals.is_floating_point():
        raise ValueError(f"proposals must be {middle.dtype} like the actions that are searched, got {proposals.dtype}")
    return proposals.to(middle)
