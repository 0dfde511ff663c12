"""Candidates to costs: in chunks that fit in memory, what is not finite rejected, with the gradient where a planner
wants it.
"""

import math

import torch
from torch import Tensor

from colaworld.planning.protocols import CostFn


class NoGradientError(ValueError):
    """A cost that was to be descended says nothing of how it changes with the actions."""


class NothingFiniteError(FloatingPointError, ValueError):
    """No candidate has a cost that is a finite number; nothing can be chosen."""


def evaluate(cost: CostFn, actions: Tensor, max_batch: int | None, *, gradients: bool = False) -> Tensor:
    """Costs ``(S,)`` on the device of ``actions (S, H, A)``, at most ``max_batch`` at once; what is not finite becomes
    +infinity.

    With ``gradients``, that of each candidate's own cost is left in ``actions.grad`` (no model's weights gather any).
    Raises ValueError for costs of the wrong shape, NoGradientError for a cost that cannot be differentiated.
    """
    pieces, slopes = [], []
    for chunk in actions.split(max_batch) if max_batch and max_batch < len(actions) else (actions,):
        if gradients:
            costs, slope = differentiated(cost, chunk)
            slopes.append(slope)
        else:
            costs = costed(cost, chunk)
        pieces.append(costs.to(device=actions.device, dtype=torch.float32))
    if gradients:
        actions.grad = torch.cat(slopes)
    costs = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
    return costs.nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf)


def costed(cost: CostFn, actions: Tensor) -> Tensor:
    """Costs ``(S,)`` of ``actions (S, H, A)``, in halves when the device's memory runs out, down to single
    candidates.
    """
    costs = None
    try:
        costs = check_costs(cost(actions), len(actions))
    except torch.OutOfMemoryError:
        if len(actions) == 1:
            raise
    if costs is None:  # outside of the handler, which holds on to what did not fit
        costs = torch.cat([costed(cost, half) for half in actions.chunk(2)])
    return costs


def differentiated(cost: CostFn, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Costs ``(S,)`` and their gradients ``(S, H, A)``, each candidate's of its own actions."""
    name = getattr(cost, "__qualname__", type(cost).__name__)
    if not actions.is_floating_point():
        raise NoGradientError(f"the cost {name} gives no gradient: codes ({actions.dtype}) cannot be descended")
    leaf = actions.detach().requires_grad_()
    with torch.enable_grad():
        costs = check_costs(cost(leaf), len(leaf))
        gradient = None
        if costs.requires_grad:
            (gradient,) = torch.autograd.grad(costs.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise NoGradientError(
            f"the cost {name} gives no gradient: it does not depend on the actions in a way that can be differentiated "
            "(no_grad, a simulator, codes without straight-through)"
        )
    return costs.detach(), gradient


def check_costs(costs: Tensor, count: int) -> Tensor:
    """``costs`` as they are; ValueError unless there is one for each candidate."""
    if costs.shape != (count,):
        raise ValueError(f"costs of {count} candidates must have shape ({count},), got {tuple(costs.shape)}")
    return costs
