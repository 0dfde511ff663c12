"""Random shooting: draw candidates, keep the best, learn nothing. The floor that CEM and MPPI must beat at equal
evaluations.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from colaworld.planning.budget import SearchBudget
from colaworld.planning.protocols import Distribution


@dataclass(frozen=True, kw_only=True)
class RandomShooting(SearchBudget):
    """Config and rule. Raises ValueError for an empty budget."""

    samples: int = 600

    @property
    def returns(self) -> Literal["best", "mean"]:
        """Always the best candidate: the middle never moves."""
        return "best"

    def update(self, distribution: Distribution, actions: Tensor, costs: Tensor) -> Distribution:
        """The distribution as it was."""
        return distribution
