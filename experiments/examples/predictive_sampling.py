"""A planner to plug in: predictive sampling (Howell et al., arXiv 2212.00541). Draw around the best so far, go there.

    python experiments/vp2_eval.py --planner experiments/examples/predictive_sampling.py:PredictiveSampling --samples 64

See ``docs/plug_in.md``.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from colaworld.planning.budget import SearchBudget
from colaworld.planning.protocols import Distribution


@dataclass(frozen=True, kw_only=True)
class PredictiveSampling(SearchBudget):
    """``samples`` candidates in each of ``iterations``. Raises ValueError for an empty budget."""

    samples: int = 64

    @property
    def returns(self) -> Literal["best", "mean"]:
        """The best candidate."""
        return "best"

    def update(self, distribution: Distribution, actions: Tensor, costs: Tensor) -> Distribution:
        """The same spread around the cheapest of ``actions (S, H, A)``."""
        return distribution.recentred(actions[costs.argmin()])
