"""Cross-entropy method: refit the distribution to the cheapest candidates. Defaults are VP2's (200 samples, 3
iterations, 5 % elites).

Differs from VP2: its variance is also kept below what the distance to the bounds allows, and it returns the best of the
last iteration; here that is the best of all, or the last mean.

Over a ``codes.Categorical`` this is the categorical CEM: the elites' frequencies, smoothed, are the next probabilities.
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from colaworld.planning.budget import SearchBudget
from colaworld.planning.protocols import Refittable


@dataclass(frozen=True, kw_only=True)
class CEM(SearchBudget):
    """Config and rule. ``keep`` is how much of the old distribution stays (VP2's alpha, 0); ``min_std`` keeps the
    search alive.

    Raises ValueError for an empty budget or shares outside their range.
    """

    samples: int = 200
    iterations: int = 3
    elite_fraction: float = 0.05
    keep: float = 0.0
    min_std: float = 0.0
    returns: Literal["best", "mean"] = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.elite_fraction <= 1:
            raise ValueError(f"elite_fraction must lie in (0, 1], got {self.elite_fraction}")
        if not 0 <= self.keep < 1:
            raise ValueError(f"keep must lie in [0, 1), got {self.keep}")
        if self.min_std < 0:
            raise ValueError(f"min_std must be 0 or more, got {self.min_std}")

    @property
    def elites(self) -> int:
        """How many candidates are refitted to: the fraction rounded, at least two (one would collapse the spread), at
        most all.
        """
        return min(self.samples, max(2, round(self.elite_fraction * self.samples)))

    def update(self, distribution: Refittable, actions: Tensor, costs: Tensor) -> Refittable:
        """Fitted to the elites of ``actions (S, H, A)``; rejected (infinite) candidates are never elites."""
        elites = actions[elite_indices(costs, self.elites)]
        return distribution.refitted(elites, keep=self.keep, min_std=self.min_std)


def elite_indices(costs: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` lowest of ``costs (S,)``, cheapest first, without infinite ones; ties go to the
    earlier candidate.
    """
    cheapest, order = costs.sort(stable=True)
    if count and cheapest[count - 1].item() == math.inf:
        count = int(cheapest.isfinite().sum())
    return order[:count]
