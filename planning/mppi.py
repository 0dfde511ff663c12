"""Model-predictive path integral control: the new mean is the candidates' mean weighted by ``exp(-gamma cost)``.

Defaults are VP2's (200 samples, 1 iteration, gamma 0.05; the correlated noise, beta 0.5, belongs to the
distribution). VP2's gamma fits its summed squared pixel error; ``normalise`` divides costs by their standard
deviation first, so that one gamma serves any objective.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import einsum
from torch import Tensor

from colaworld.planning.distributions import Gaussian
from colaworld.planning.search import check_budget


@dataclass(frozen=True, kw_only=True)
class MPPI:
    """Config and rule. Raises ValueError for an empty budget or a gamma that is not positive."""

    samples: int = 200
    iterations: int = 1
    gamma: float = 0.05
    normalise: bool = False
    returns: Literal["best", "mean"] = "mean"

    def __post_init__(self) -> None:
        check_budget(self.samples, self.iterations)
        if not self.gamma > 0:
            raise ValueError(f"gamma (inverse temperature) must be positive, got {self.gamma}")

    def update(self, distribution: Gaussian, actions: Tensor, costs: Tensor) -> Gaussian:
        """Weighted mean of ``actions (S, H, A)``; the spread stays, as in VP2."""
        weights = path_weights(costs, self.gamma, self.normalise).to(actions)
        return replace(distribution, mean=einsum(weights, actions, "s, s h a -> h a"))


def path_weights(costs: Tensor, gamma: float, normalise: bool = False) -> Tensor:
    """``(S,)`` weights that sum to 1, proportional to ``exp(-gamma (cost - lowest cost))``; infinite costs weigh
    nothing.
    """
    finite = costs[costs.isfinite()]
    excess = costs - finite.min()
    if normalise:
        excess = excess / finite.std(unbiased=False).clamp(min=torch.finfo(costs.dtype).tiny)
    return torch.softmax(-gamma * excess, dim=0)
