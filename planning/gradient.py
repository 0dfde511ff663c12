"""Gradient descent of the actions through a differentiable cost, from several starts drawn from the prior.

The cost has to let gradients pass from ``actions (S, H, A)``; codes may be on the way when they are straight-through.
Candidates are the ``samples`` restarts (the prior's middle first), one iteration is one step of ``torch.optim`` on all
of them. Bounds: each step is followed by clamping (projected descent). A tanh would flatten the cost near the bounds,
where the best actions of a reaching arm lie, and could not start from samples that were clamped.

Dimensions that the prior holds fixed, and those of which only the sign is searched (``signs.SignedGaussian``), are not
descended: the restarts differ in their signs.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from colaworld.planning.budget import SearchBudget
from colaworld.planning.costing import NoGradientError
from colaworld.planning.protocols import Distribution


class Continuous(Distribution, Protocol):
    """A distribution that says which of its dimensions are real and free."""

    @property
    def free(self) -> Tensor:
        """bool ``(H, A)``."""


@dataclass(frozen=True, kw_only=True)
class GradientPlanner(SearchBudget):
    """Config and rule. ``learning_rate`` in the unit of the actions (with Adam: about the length of a step);
    ``momentum`` is Adam's first beta, or plain descent's momentum.

    Raises ValueError for an empty budget, a rate that is not positive or a momentum outside [0, 1).
    """

    samples: int = 8
    iterations: int = 20
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 0.1
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimiser not in ("adam", "sgd"):
            raise ValueError(f"optimiser must be 'adam' or 'sgd', got {self.optimiser!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")

    @property
    def gradients(self) -> bool:
        """Costs are differentiated."""
        return True

    @property
    def returns(self) -> Literal["best", "mean"]:
        """Always the best point ever costed."""
        return "best"

    def with_middle(self, iteration: int, last: bool) -> bool:
        """Once: it is where the first restart begins."""
        return iteration == 0

    def update(self, distribution: Continuous, actions: Tensor, costs: Tensor) -> "Descent":
        """One step from ``actions (S, H, A)`` against ``actions.grad``; a rejected candidate goes half the way back to
        where it last was not.

        Raises NoGradientError when the first candidates cost differently and no gradient says so.
        """
        prior, state, safe = distribution, None, actions
        if isinstance(distribution, Descent):
            prior, state, safe = distribution.prior, distribution.state, distribution.safe
        else:
            check_slopes(actions, costs)
        accepted = costs.isfinite()[:, None, None]
        points = torch.nn.Parameter(actions.clone())
        points.grad = torch.where(accepted, actions.grad, 0.0).nan_to_num(0.0, 0.0, 0.0)
        optimiser = self._optimiser(points)
        if state is not None:
            optimiser.load_state_dict(deepcopy(state))  # a step changes its own copy: this rule leaves its input alone
        optimiser.step()
        stepped = torch.where(accepted, prior.clamp(points.detach()), (actions + safe) / 2)
        return Descent(
            prior=prior,
            points=torch.where(prior.free, stepped, actions),
            safe=torch.where(accepted, actions, safe),
            state=optimiser.state_dict(),
        )

    def _optimiser(self, points: torch.nn.Parameter) -> torch.optim.Optimizer:
        if self.optimiser == "adam":
            return torch.optim.Adam([points], lr=self.learning_rate, betas=(self.momentum, 0.999))
        return torch.optim.SGD([points], lr=self.learning_rate, momentum=self.momentum)


@dataclass(frozen=True, kw_only=True, eq=False)
class Descent:
    """Where the restarts are: ``points (S, H, A)``, where each was last costed finitely (``safe``), the optimiser's
    ``state``, and the ``prior`` that bounds them.
    """

    prior: Continuous
    points: Tensor
    safe: Tensor
    state: dict[str, Any]

    @property
    def horizon(self) -> int:
        """H."""
        return self.prior.horizon

    def clamp(self, actions: Tensor) -> Tensor:
        """As the prior."""
        return self.prior.clamp(actions)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """The first ``count`` points: nothing is drawn any more."""
        return self.points[:count].clone()

    def mode(self) -> Tensor:
        """Where the first restart, that of the prior's middle, is now."""
        return self.points[0]

    def spread(self) -> float:
        """Mean standard deviation over restarts."""
        return self.points.std(dim=0, unbiased=False).mean().item()

    def recentred(self, actions: Tensor) -> Self:
        """The prior around ``actions (H, A)``, to be descended afresh."""
        return self.prior.recentred(actions)


def check_slopes(actions: Tensor, costs: Tensor) -> None:
    """Raise NoGradientError when costs ``(S,)`` differ although every gradient is 0, as behind codes that are snapped
    without straight-through.
    """
    finite = costs[costs.isfinite()]
    if not actions.grad.any() and finite.max() > finite.min():
        raise NoGradientError(
            f"the cost gives no gradient: {len(finite)} candidates cost between {finite.min().item():g} and "
            f"{finite.max().item():g}, but every derivative is 0 (a step function of the actions?)"
        )
