"""Model-predictive path integral control: the new mean is the candidates' mean weighted by ``exp(-gamma cost)``.

Defaults are VP2's (200 samples, 1 iteration, gamma 0.05; the correlated noise, beta 0.5, belongs to the
distribution). VP2's gamma fits its summed squared pixel error; ``normalise`` divides costs by their standard
deviation first, so that one gamma serves any objective.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from colaworld.planning.budget import SearchBudget
from colaworld.planning.protocols import Refittable


@dataclass(frozen=True, kw_only=True)
class MPPI(SearchBudget):
    """Config and rule. Raises ValueError for an empty budget or a gamma that is not positive."""

    gamma: float = 0.05
    normalise: bool = False
    returns: Literal["best", "mean"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma > 0:
            raise ValueError(f"gamma (inverse temperature) must be positive, got {self.gamma}")

    def update(self, distribution: Refittable, actions: Tensor, costs: Tensor) -> Refittable:
        """Moved to the weighted mean of ``actions (S, H, A)``; the spread stays, as in VP2."""
        return distribution.moved(actions, path_weights(costs, self.gamma, self.normalise))


def path_weights(costs: Tensor, gamma: float, normalise: bool = False) -> Tensor:
    """``(S,)`` weights that sum to 1, proportional to ``exp(-gamma (cost - lowest cost))``; infinite costs weigh
    nothing.
    """
    excess = costs - costs.min()
    if normalise:
        spread = costs[costs.isfinite()].std(unbiased=False)
        excess = excess / spread.clamp(min=torch.finfo(costs.dtype).tiny)
    return torch.softmax(-gamma * excess, dim=0)
