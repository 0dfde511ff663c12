"""The objective that the flags name, for the category of an instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.plug_in import is_spec
from colaworld.experiments.plugged_flags import plugged_objective
from colaworld.experiments.state_goal import StateGoal
from colaworld.planning.objectives import LatentGoal, PixelGoal, WeightedSum
from colaworld.planning.protocols import Objective, World

if TYPE_CHECKING:  # networks are slow to import, and most objectives have none
    from colaworld.adapters.goal_models import GoalModels


def make_objective(
    config: EvalConfig, models: GoalModels | None = None, category: str = "", world: World | None = None
) -> Objective:
    """What ``--objective`` says; of a sum, the terms whose weight is not 0. What is plugged in is examined in
    ``world``.

    ValueError for a learned one without its part of the goal ``models``.
    """
    config = config.settled(distance=False)
    if is_spec(config.objective):
        return plugged_objective(config, world)
    if config.objective == "state":
        return StateGoal(last=config.last)
    if config.objective == "vp2":
        return vp2(config, models, category)
    if config.objective != "sum":
        return term(config.objective, config, models, category)
    weights = {name: weight for name, weight in config.weights().items() if weight}
    terms = tuple(term(name, config, models, category) for name in weights)
    return WeightedSum(terms=terms, weights=tuple(weights.values()))


def term(name: str, config: EvalConfig, models: GoalModels | None, category: str) -> Objective:
    """One that may be a term of a sum."""
    if name == "pixel":
        return PixelGoal(last=config.last, blur=config.blur)
    if name == "latent":
        return LatentGoal(last=config.last)
    from colaworld.experiments.goal_costs import distance_goal, progress_goal, success_goal

    known = _known(models)
    if name == "progress":
        return progress_goal(known, last=config.last)
    of_category = distance_goal if name == "distance" else success_goal
    return of_category(known, category, last=config.last)


def vp2(config: EvalConfig, models: GoalModels | None, category: str) -> WeightedSum:
    """VP2's sum of pixels and success."""
    from colaworld.experiments.goal_costs import vp2_goal

    return vp2_goal(_known(models), category, last=config.last, blur=config.blur)


def _known(models: GoalModels | None) -> GoalModels:
    from colaworld.adapters.goal_models import GoalModels

    return GoalModels(about={}) if models is None else models
