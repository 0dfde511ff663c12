"""The costs that planning to a goal frame can choose among, by name, each an ``Objective``."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from colaworld.adapters.goal_models import GoalModels
from colaworld.models.success_classifier import KINDS
from colaworld.planning.learned_goal import LearnedGoal
from colaworld.planning.objectives import LatentGoal, PixelGoal, WeightedSum
from colaworld.planning.protocols import Objective

VP2_WEIGHTS = (0.5, 10.0)
"""Of VP2's squared pixel error and minus its classifier's logit."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """``pixels``: it looks at pictures alone, so that it can be shown the simulator's own, see ``Pictures``."""

    objective: Objective
    pixels: bool = False


Costs = Mapping[str, Cost]


class Pictures:
    """As much of a world as a cost of pixels needs, with pictures for latents: float32 ``(3, height, width)`` in
    [0, 1].
    """

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 to [0, 1]."""
        return frames.float() / 255

    def decode(self, latents: Tensor) -> Tensor:
        """Nothing to do."""
        return latents


def unlearned_costs(*, last: int | None, blur: float) -> dict[str, Cost]:
    """Distances to the goal frame in pixels, blurred pixels and latents."""
    return {
        "pixel": Cost(objective=PixelGoal(last=last), pixels=True),
        "pixel, blurred": Cost(objective=PixelGoal(last=last, blur=blur), pixels=True),
        "latent": Cost(objective=LatentGoal(last=last)),
    }


def learned_costs(models: GoalModels, category: str, *, last: int | None, blur: float) -> dict[str, Cost]:
    """What there is among distance, its sum with blurred pixels, goal progress, success, and VP2's sum of pixels and
    success.
    """
    costs = {}
    if models.distance is not None:
        distance = distance_goal(models, category, last=last)
        both = WeightedSum(terms=(PixelGoal(last=last, blur=blur), distance), weights=(1.0, 1.0))
        costs |= {"distance": Cost(objective=distance), "blurred pixel and distance": Cost(objective=both)}
    if models.progress is not None:
        costs["progress"] = Cost(objective=progress_goal(models, last=last))
    if models.success is not None:
        costs["success"] = Cost(objective=success_goal(models, category, last=last))
        costs["pixel and success"] = Cost(objective=vp2_goal(models, category, last=last))
    return costs


def distance_goal(models: GoalModels, category: str, *, last: int | None = None) -> LearnedGoal:
    """The expected distance to the goal frame in centimetres, summed over the frames that count: of the gripper for
    ``reach``, of gripper and objects otherwise, for without the gripper nothing leads to an object.
    """
    part, kind = models.part("distance"), "reach" if category == "reach" else "both"
    return LearnedGoal(cost=lambda now, goal: 100.0 * part.cost(now, goal, kind), last=last)


def progress_goal(models: GoalModels, *, last: int | None = None) -> LearnedGoal:
    """The expected number of steps to the goal frame, summed over the frames that count."""
    return LearnedGoal(cost=models.part("progress"), last=last)


def success_goal(models: GoalModels, category: str, *, last: int | None = None) -> LearnedGoal:
    """Minus the logit of the success of ``category``; of gripper and objects where no kind of success is named so."""
    kind = category if category in KINDS else "both"
    return LearnedGoal(cost=partial(models.part("success").cost, kind=kind), last=last)


def vp2_goal(
    models: GoalModels,
    category: str,
    *,
    last: int | None = None,
    blur: float = 0.0,
    weights: tuple[float, float] = VP2_WEIGHTS,
) -> WeightedSum:
    """VP2's cost on RoboDesk: half of the squared pixel error and ten times minus the logit."""
    terms = (PixelGoal(last=last, blur=blur), success_goal(models, category, last=last))
    return WeightedSum(terms=terms, weights=weights)
