"""Costs of imagined futures that a network has learned: a temporal distance, minus the logit of a success classifier.

Any callable that compares latents with a goal's latent will do; this room knows no networks. VP2's combination on
RoboDesk is ``WeightedSum((PixelGoal(), LearnedGoal(cost=...)), (0.5, 10.0))`` with minus a success classifier's logit.
Shapes: imagined ``(S, H, *latent)``, goal frame uint8 ``(3, height, width)``, costs ``(S,)``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from einops import rearrange, reduce
from torch import Tensor

from colaworld.planning.objectives import check_goal, check_last, last_frames
from colaworld.planning.protocols import World

LatentCost = Callable[[Tensor, Tensor], Tensor]
"""``latents (N, *latent), goal (1, *latent) -> costs (N,)``, lower is nearer; differentiable where gradients are
wanted.
"""


@dataclass(frozen=True, kw_only=True)
class LearnedGoal:
    """Summed ``cost`` of the last ``last`` imagined latents (None: all, as VP2: sooner is better).

    Raises ValueError when ``cost`` answers in another shape than one number for each frame.
    """

    cost: LatentCost
    last: int | None = None

    def __post_init__(self) -> None:
        check_last(self.last)

    def target(self, world: World, goal: Tensor) -> Tensor:
        """The goal's latent ``(*latent)``; raises ValueError unless the goal frame is uint8."""
        check_goal(goal)
        return world.encode(goal[None])[0]

    def __call__(self, world: World, imagined: Tensor, target: Tensor) -> Tensor:
        """Costs ``(S,)``."""
        kept = last_frames(imagined, self.last).float()
        costs = self.cost(rearrange(kept, "s h ... -> (s h) ..."), target[None].to(kept))
        count = kept.shape[0] * kept.shape[1]
        if costs.shape != (count,):
            raise ValueError(f"a learned cost of {count} frames must have shape ({count},), got {tuple(costs.shape)}")
        return reduce(costs, "(s h) -> s", "sum", s=len(kept))
