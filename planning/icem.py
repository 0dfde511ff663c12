"""iCEM (Pinneri et al. 2020, "Sample-efficient Cross-Entropy Method for Real-time Planning"): CEM that wastes less.

Elites go on: into the next iteration and, shifted, into the next plan. The population shrinks from iteration to
iteration. The middle is among the last candidates. The paper's coloured noise belongs to the distribution
(``distributions.ActionPrior``'s ``exponent``).

Differs from the paper: the middle is among the first candidates too, so that a plan is never worse than what was meant
before; kept elites take places of the population instead of adding to it, so that ``population`` is what is costed; the
last action of a shifted elite is repeated, as all shifted plans are here, instead of drawn.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from colaworld.planning.cem import CEM, elite_indices


@dataclass(frozen=True, kw_only=True)
class ICEM(CEM):
    """Config and rule. ``keep_elites`` is the share of the elites that goes on (paper: 0.3), ``shrink_population`` what
    is left of the population from one iteration to the next (paper: 1 / 1.25), never less than twice the elites.

    Raises ValueError as ``CEM``, and for those two outside [0, 1] and (0, 1].
    """

    keep: float = 0.1
    keep_elites: float = 0.3
    shrink_population: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.keep_elites <= 1:
            raise ValueError(f"keep_elites must lie in [0, 1], got {self.keep_elites}")
        if not 0 < self.shrink_population <= 1:
            raise ValueError(f"shrink_population must lie in (0, 1], got {self.shrink_population}")

    def population(self, iteration: int) -> int:
        """``samples`` shrunk ``iteration`` times."""
        shrunk = round(self.samples * self.shrink_population**iteration)
        return min(self.samples, max(shrunk, 2 * self.elites))

    def with_middle(self, iteration: int, last: bool) -> bool:
        """In the first and the last iteration: in between it would narrow the search too soon."""
        return iteration == 0 or last

    def kept(self, actions: Tensor, costs: Tensor) -> Tensor:
        """The cheapest of the elites, and never all candidates of a round."""
        count = min(math.ceil(self.keep_elites * self.elites), self.samples - 1)
        return actions[elite_indices(costs, count)]
