"""(World, Objective, context, goal) -> ``CostFn``: the seam between what can be imagined and what is searched."""

import math
from typing import Any

import torch
from torch import Tensor

from colaworld.planning.costing import check_costs
from colaworld.planning.protocols import CostFn, Objective, World


def imagined_cost(
    world: World,
    objective: Objective,
    state: Any,
    target: Any,
    generator: torch.Generator | None = None,
    *,
    common_noise: bool = True,
    latent: tuple[int, ...] | None = None,
) -> CostFn:
    """The cost of imagining ``actions (S, H, A)`` from ``state`` (``world.start``) towards ``target``
    (``objective.target``).

    ``generator`` feeds a world that samples; a deterministic one ignores it. With ``common_noise`` every call draws the
    same: candidates of one plan then differ by their actions alone, in whichever chunk or iteration they come, and
    costs compare. For that each call draws from a copy, and ``generator`` stays as it is: what is imagined with it next
    is what the search saw, and moves it on, so that the next plan has its own noise. Without, each call goes on where
    the one before ended.

    Gradients pass from costs to actions if the world and the objective let them. A candidate whose future is not finite
    throughout costs NaN, whatever the objective looks at. The returned function raises ValueError for a horizon beyond
    ``world.max_horizon``, actions of another width, and futures that are not ``(S, H, *latent)`` or costs that are not
    ``(S,)``. ``latent`` is the shape of one latent, where it is known; only S and H are checked where it is not.
    """

    def cost(actions: Tensor) -> Tensor:
        check_actions(world, actions)
        source = generator.clone_state() if common_noise and generator is not None else generator
        imagined = world.imagine(state, actions, source)
        check_imagined(world, imagined, actions, latent)
        costs = check_costs(objective(world, imagined, target), len(actions))
        finite = imagined.detach().isfinite().flatten(1).all(dim=1)
        return torch.where(finite.to(costs.device), costs, math.nan)

    return cost


def check_actions(world: World, actions: Tensor) -> None:
    """Raise ValueError unless ``actions`` is ``(S, H <= max_horizon, action_dim)``."""
    if actions.ndim != 3 or actions.shape[2] != world.action_dim:
        raise ValueError(f"actions must be (S, H, {world.action_dim}), got {tuple(actions.shape)}")
    if actions.shape[1] > world.max_horizon:
        raise ValueError(f"a horizon of {actions.shape[1]} steps is beyond the world's {world.max_horizon}")


def check_imagined(world: World, imagined: Any, actions: Tensor, latent: tuple[int, ...] | None) -> None:
    """Raise ValueError unless ``imagined`` is ``(S, H, *latent)`` of ``actions (S, H, A)``, any latent for None."""
    steps = tuple(actions.shape[:2])
    shape = tuple(imagined.shape) if isinstance(imagined, Tensor) else None
    if shape is None or len(shape) < 3 or shape[:2] != steps or latent not in (None, shape[2:]):
        wanted = f"({steps[0]}, {steps[1]}, ...)" if latent is None else (*steps, *latent)
        raise ValueError(
            f"{type(world).__name__}.imagine must give latents (S, H, *latent) of shape {wanted} for actions "
            f"{tuple(actions.shape)}, got {shape or type(imagined).__name__}"
        )
