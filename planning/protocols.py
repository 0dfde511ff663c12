"""The doors of the planning room: what a world, an objective, an action distribution and a planner must offer.

Alphabet: S candidates (samples), T context frames, H horizon, A action width, N any batch. Frames are uint8 ``(T, 3,
height, width)``; one action leads from one frame to the next (``actions[k]`` from frame k to frame k + 1).
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

CostFn = Callable[[Tensor], Tensor]
"""``actions (S, H, A) -> costs (S,)``, lower is better: all that a planner ever sees of worlds, goals and
objectives.
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

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, H, A)``, inside the bounds."""

    def mode(self) -> Tensor:
        """The sequence ``(H, A)`` in the middle, inside the bounds."""

    def spread(self) -> float:
        """One number for how wide it still is (a mean standard deviation), for reports."""

    def recentred(self, actions: Tensor) -> Self:
        """The same distribution around ``actions (H, A)``."""


class Planner(Protocol):
    """A search budget and a pure update rule; ``search.search`` is the loop around it."""

    @property
    def samples(self) -> int:
        """Candidates per iteration."""

    @property
    def iterations(self) -> int:
        """How often candidates are drawn."""

    @property
    def returns(self) -> Literal["best", "mean"]:
        """Whether the plan is the best candidate ever costed, or the middle of the last distribution (costed once
        more).
        """

    def update(self, distribution: Any, actions: Tensor, costs: Tensor) -> Any:
        """The next distribution from ``actions (S, H, A)`` and ``costs (S,)``; infinite costs mark rejected
        candidates.
        """
