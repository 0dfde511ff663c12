"""The doors of the planning room: what a world, an objective, an action distribution, a prior and a planner must offer.

Alphabet: S candidates (samples), T context frames, H horizon, A action width, N any batch. Frames are uint8 ``(T, 3,
height, width)``; one action leads from one frame to the next (``actions[k]`` from frame k to frame k + 1). Actions are
real (floating point) or codes (int64, one index a token); a planner does not mind which.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

CostFn = Callable[[Tensor], Tensor]
"""``actions (S, H, A) -> costs (S,)``, lower is better: all that a planner ever sees of worlds, goals and
objectives.
"""

Propose = Callable[[Tensor, Tensor, int], Tensor]
"""``(frames uint8 (T, 3, height, width), goal uint8 (3, height, width), horizon) -> proposals (P, H, A)``: candidates
from whoever has them (the nearest training segment, an inverse model), for the first iteration of a search.
"""

ToAction = Callable[[Tensor, Tensor], Tensor]
"""``(planned (A,), frames uint8 (T, 3, height, width)) -> executed (A',)``: what the environment is given for an action
that was planned in another space, codes above all (an adapter's inverse), on seeing the frames.
"""


class World(Protocol):
    """Something that can imagine what actions would lead to."""

    @property
    def action_dim(self) -> int:
        """Width A of one action."""

    @property
    def context_frames(self) -> int:
        """How many real frames ``start`` wants at least."""

    @property
    def max_horizon(self) -> int:
        """The longest H that ``imagine`` accepts."""

    def encode(self, frames: Tensor) -> Tensor:
        """``frames uint8 (N, 3, height, width) -> latents (N, *latent)``."""

    def decode(self, latents: Tensor) -> Tensor:
        """``latents (N, *latent) -> frames float32 (N, 3, height, width)`` in [0, 1]."""

    def start(self, frames: Tensor, actions: Tensor) -> Any:
        """``frames uint8 (T, 3, height, width)``, ``actions (T - 1, A)`` -> an opaque state, computed once for a
        plan.
        """

    def imagine(self, state: Any, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        """``actions (S, H, A) -> latents (S, H, *latent)`` of the H frames that follow the context."""


class Objective(Protocol):
    """How far imagined futures are from a goal frame."""

    def target(self, world: World, goal: Tensor) -> Any:
        """``goal uint8 (3, height, width)`` -> what ``__call__`` compares with; computed once for an episode."""

    def __call__(self, world: World, imagined: Tensor, target: Any) -> Tensor:
        """``imagined (S, H, *latent) -> costs (S,)``."""


class Distribution(Protocol):
    """A distribution over action sequences. Immutable: updates make a new one."""

    @property
    def horizon(self) -> int:
        """H."""

    def clamp(self, actions: Tensor) -> Tensor:
        """``(..., H, A)`` moved to where samples may lie; ValueError for what cannot be moved there."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, H, A)``, inside the bounds."""

    def mode(self) -> Tensor:
        """The sequence ``(H, A)`` in the middle, inside the bounds."""

    def spread(self) -> float:
        """One number for how wide it still is (a mean standard deviation), for reports."""

    def recentred(self, actions: Tensor) -> Self:
        """The same distribution around ``actions (H, A)``."""


class Refittable(Distribution, Protocol):
    """What CEM, iCEM and MPPI ask of a distribution besides."""

    def refitted(self, elites: Tensor, *, keep: float, min_std: float) -> Self:
        """Fitted to ``elites (E, H, A)``, ``keep`` of the old one left; ``min_std`` is the least standard deviation of
        what is real (what is discrete has a floor of its own).
        """

    def moved(self, actions: Tensor, weights: Tensor) -> Self:
        """Its middle at the mean of ``actions (S, H, A)`` weighted by ``weights (S,)``, its spread as it was."""


class Prior(Protocol):
    """What is believed of a single action before planning."""

    @property
    def width(self) -> int:
        """A."""

    def distribution(self, horizon: int) -> Distribution:
        """The first distribution of a search; ValueError for a horizon below 1."""

    def rest(self) -> Tensor:
        """Doing nothing ``(A,)``: the first actions of an episode, until a world has its context."""


class Planner(Protocol):
    """A search budget and a pure update rule; ``search.search`` is the loop around it.

    Whoever inherits ``budget.SearchBudget`` only has to write ``update`` and ``returns``.
    """

    @property
    def samples(self) -> int:
        """Candidates of the first iteration."""

    @property
    def iterations(self) -> int:
        """How often candidates are drawn, where no budget of seconds says."""

    @property
    def returns(self) -> Literal["best", "mean"]:
        """Whether the plan is the best candidate ever costed, or the middle of the last distribution (costed once
        more).
        """

    @property
    def gradients(self) -> bool:
        """Whether ``update`` finds the costs' gradient in ``actions.grad``."""

    def population(self, iteration: int) -> int:
        """Candidates of the iteration (counted from 0), those that were kept or proposed among them."""

    def with_middle(self, iteration: int, last: bool) -> bool:
        """Whether the distribution's middle is among the candidates of this iteration."""

    def kept(self, actions: Tensor, costs: Tensor) -> Tensor:
        """Those of ``actions (S, H, A)`` that are candidates again ``(K, H, A)``, in the next iteration and, shifted,
        in the next plan.
        """

    def update(self, distribution: Any, actions: Tensor, costs: Tensor) -> Any:
        """The next distribution from ``actions (S, H, A)`` and ``costs (S,)``; infinite costs mark rejected
        candidates.
        """
