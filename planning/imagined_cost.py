"""(World, Objective, context, goal) -> ``CostFn``: the seam between what can be imagined and what is searched."""

from typing import Any

import torch
from torch import Tensor

from colaworld.planning.protocols import CostFn, Objective, World


def imagined_cost(
    world: World,
    objective: Objective,
    state: Any,
    target: Any,
    generator: torch.Generator | None = None,
    *,
    common_noise: bool = True,
) -> CostFn:
    """The cost of imagining ``actions (S, H, A)`` from ``state`` (``world.start``) towards ``target``
    (``objective.target``).

    ``generator`` feeds a world that samples; a deterministic one ignores it. With ``common_noise`` every call draws the
    same: candidates of one plan then differ by their actions alone, in whichever chunk or iteration they come, and
    costs compare. For that each call draws from a copy, and ``generator`` stays as it is: what is imagined with it next
    is what the search saw, and moves it on, so that the next plan has its own noise. Without, each call goes on where
    the one before ended.

    Gradients pass from costs to actions if the world and the objective let them. The returned function raises
    ValueError for a horizon beyond ``world.max_horizon`` or actions of another width.
    """

    def cost(actions: Tensor) -> Tensor:
        check_actions(world, actions)
        source = generator.clone_state() if common_noise and generator is not None else generator
        return objective(world, world.imagine(state, actions, source), target)

    return cost


def check_actions(world: World, actions: Tensor) -> None:
    """Raise ValueError unless ``actions`` is ``(S, H <= max_horizon, action_dim)``."""
    if actions.ndim != 3 or actions.shape[2] != world.action_dim:
        raise ValueError(f"actions must be (S, H, {world.action_dim}), got {tuple(actions.shape)}")
    if actions.shape[1] > world.max_horizon:
        raise ValueError(f"a horizon of {actions.shape[1]} steps is beyond the world's {world.max_horizon}")
