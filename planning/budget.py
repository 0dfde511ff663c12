"""How much a search may spend: candidates and iterations, or seconds instead of iterations."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

Clock = Callable[[], float]
"""Seconds since some beginning, as ``time.perf_counter``."""


@dataclass(frozen=True, kw_only=True)
class SearchBudget:
    """``samples`` candidates in each of ``iterations``, the middle always among them, none kept: the usual planner, for
    others to inherit.

    Raises ValueError for an empty budget.
    """

    samples: int = 200
    iterations: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be 1 or more, got {self.samples}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be 1 or more, got {self.iterations}")

    @property
    def gradients(self) -> bool:
        """Costs are not differentiated."""
        return False

    def population(self, iteration: int) -> int:
        """The same in every iteration."""
        return self.samples

    def with_middle(self, iteration: int, last: bool) -> bool:
        """Always: a plan is never worse than doing what was meant before."""
        return True

    def kept(self, actions: Tensor, costs: Tensor) -> Tensor:
        """None: ``(0, H, A)``."""
        return actions[:0]


def rounds(iterations: int, budget_seconds: float | None, clock: Clock) -> Iterator[tuple[int, bool]]:
    """``(iteration, whether it is the last)`` for as long as a search may go on.

    With ``budget_seconds``, ``iterations`` is not read: there is at least one, and none begins that would overrun if it
    took the mean of the earlier ones. How many there are then depends on the machine, and so does the plan; which is
    the last is foretold from the same mean.
    """
    if budget_seconds is None:
        yield from ((iteration, iteration + 1 == iterations) for iteration in range(iterations))
        return
    begun, done, mean, spent = clock(), 0, 0.0, 0.0
    while done == 0 or spent + mean <= budget_seconds:
        yield done, done > 0 and spent + 2 * mean > budget_seconds
        done += 1
        spent = clock() - begun
        mean = spent / done


def check_seconds(budget_seconds: float | None) -> None:
    """Raise ValueError unless seconds per plan are positive and finite, or None."""
    if budget_seconds is not None and not 0 < budget_seconds < math.inf:
        raise ValueError(f"budget_seconds must be positive, or None to count iterations, got {budget_seconds}")
