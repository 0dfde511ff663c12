"""Seconds instead of iterations, on a clock that only moves when something is costed."""

import math

import pytest
import torch
from torch import Tensor

from colaworld.planning.budget import rounds
from colaworld.planning.cem import CEM
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.icem import ICEM
from colaworld.planning.search import Plan, search

PRIOR = ActionPrior(mean=(0.0,), std=(0.5,), low=(-1.0,), high=(1.0,))


class Watch:
    """A clock, and a cost that takes ``seconds`` of it: one number, or one for each call (the last goes on)."""

    def __init__(self, *seconds: float) -> None:
        self.now, self.seconds, self.calls = 100.0, seconds, 0

    def __call__(self) -> float:
        return self.now

    def cost(self, actions: Tensor) -> Tensor:
        self.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1
        return (actions - 0.5).pow(2).sum(dim=(1, 2))


def plan(watch: Watch, budget: float | None, planner=CEM(samples=20, iterations=4)) -> Plan:
    generator = torch.Generator().manual_seed(0)
    return search(
        watch.cost, PRIOR.gaussian(2), planner, generator=generator, budget_seconds=budget, clock=watch
    )


@pytest.mark.parametrize(
    ("seconds", "budget", "iterations"),
    [
        ((0.1,), 1.05, 10),
        ((0.3,), 1.0, 3),
        ((5.0,), 1.0, 1),  # at least one
        ((0.6, 0.1), 1.0, 1),  # the second would overrun by the mean of the first, so it never begins
        ((0.1, 0.1, 0.7), 1.0, 3),
    ],
)
def test_iterations_go_on_until_the_budget_is_spent(seconds, budget, iterations) -> None:
    watch = Watch(*seconds)
    found = plan(watch, budget)
    assert found.iterations == len(found.history) == watch.calls == iterations
    assert found.evaluations == 20 * iterations
    assert found.seconds == pytest.approx(watch.now - 100.0)
    assert iterations == 1 or found.seconds <= budget


def test_without_a_budget_iterations_count() -> None:
    assert plan(Watch(9.0), None).iterations == 4


def test_the_last_iteration_is_foretold() -> None:
    assert list(rounds(3, None, Watch())) == [(0, False), (1, False), (2, True)]
    assert list(rounds(1, None, Watch())) == [(0, True)]
    watch, seen = Watch(), []
    for iteration, last in rounds(99, 1.0, watch):
        watch.now += 0.3
        seen.append((iteration, last))
    assert seen == [(0, False), (1, False), (2, True)]


def test_a_shrinking_population_counts_what_it_costed() -> None:
    found = plan(Watch(0.3), 1.0, ICEM(samples=20, shrink_population=0.5))
    assert found.evaluations == 20 + 10 + 5


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_that_cannot_be_is_named(budget: float) -> None:
    with pytest.raises(ValueError, match=f"budget_seconds.*{budget}"):
        plan(Watch(0.1), budget)
