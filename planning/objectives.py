"""Costs of imagined futures: VP2's pixel error to the goal frame, distance in the world's latents, and weighted sums.

VP2 sums squared errors over *all* predicted frames (sooner is better) and all pixels in [0, 1]; ``last`` keeps only
the last frames. Shapes: imagined ``(S, H, *latent)``, goal frame uint8 ``(3, height, width)``, costs ``(S,)``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor

from colaworld.planning.protocols import Objective, World


@dataclass(frozen=True, kw_only=True)
class PixelGoal:
    """Summed squared pixel error, pixels in [0, 1], of the last ``last`` predicted frames (None: all, as VP2) to the
    goal frame.

    ``blur`` is the standard deviation, in pixels, of a Gaussian that both are smoothed by first. Differs from VP2 (0,
    the default): sharp pixels say little about how far away an arm is that does not overlap its goal.
    """

    last: int | None = None
    blur: float = 0.0

    def __post_init__(self) -> None:
        check_last(self.last)
        if not 0 <= self.blur < float("inf"):
            raise ValueError(f"blur (pixels) must be 0 or more, got {self.blur}")

    def target(self, world: World, goal: Tensor) -> Tensor:
        """The goal frame as float32 ``(3, height, width)`` in [0, 1]; raises ValueError unless it is uint8."""
        check_goal(goal)
        return blurred(goal[None].float() / 255, self.blur)[0]

    def __call__(self, world: World, imagined: Tensor, target: Tensor) -> Tensor:
        """Costs ``(S,)``."""
        kept = last_frames(imagined, self.last)
        frames = blurred(world.decode(rearrange(kept, "s h ... -> (s h) ...")), self.blur)
        errors = reduce((frames - target.to(frames)) ** 2, "n c height width -> n", "sum")
        return reduce(errors, "(s h) -> s", "sum", s=len(kept))


@dataclass(frozen=True, kw_only=True)
class LatentGoal:
    """Summed squared distance of the last ``last`` imagined latents (None: all) to the encoded goal frame."""

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
        return reduce((kept - target.to(kept)) ** 2, "s h ... -> s", "sum")


@dataclass(frozen=True, kw_only=True)
class WeightedSum:
    """``sum_i weights[i] * terms[i]``. Raises ValueError when there are no terms or not one weight for each."""

    terms: Sequence[Objective]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        if not self.terms or len(self.terms) != len(self.weights):
            counts = f"{len(self.terms)} terms, {len(self.weights)} weights"
            raise ValueError(f"a weighted sum needs one weight for each term, got {counts}")

    def target(self, world: World, goal: Tensor) -> tuple[object, ...]:
        """Each term's own target."""
        return tuple(term.target(world, goal) for term in self.terms)

    def __call__(self, world: World, imagined: Tensor, target: tuple[object, ...]) -> Tensor:
        """Costs ``(S,)``."""
        costs = [
            weight * term(world, imagined, own)
            for term, weight, own in zip(self.terms, self.weights, target, strict=True)
        ]
        return torch.stack(costs).sum(dim=0)


def blurred(frames: Tensor, std: float) -> Tensor:
    """``(N, C, height, width)`` smoothed by a Gaussian of ``std`` pixels, the border pixels going on outside."""
    if std == 0:
        return frames
    down, across = (_smoothing(length, std, frames) for length in frames.shape[-2:])
    return down @ (frames @ across.T)


def _smoothing(length: int, std: float, like: Tensor) -> Tensor:
    """The Gaussian along a line of ``length`` pixels as a matrix ``(length, length)``: two products of such matrices
    take a thirtieth of the time of two convolutions.
    """
    radius = math.ceil(3 * std)
    offsets = torch.arange(-radius, radius + 1, device=like.device)
    kernel = torch.exp(-((offsets.to(like.dtype) / std) ** 2) / 2)
    seen = (torch.arange(length, device=like.device)[:, None] + offsets).clamp(0, length - 1)  # the border goes on
    return like.new_zeros(length, length).scatter_add_(1, seen, (kernel / kernel.sum()).expand(length, -1))


def last_frames(imagined: Tensor, last: int | None) -> Tensor:
    """``(S, H, *latent)`` cut to its last ``last`` frames (all of them when the horizon is shorter)."""
    return imagined if last is None else imagined[:, -last:]


def check_last(last: int | None) -> None:
    """Raise ValueError for fewer than one frame."""
    if last is not None and last < 1:
        raise ValueError(f"last (frames that count) must be 1 or more, or None for all, got {last}")


def check_goal(goal: Tensor) -> None:
    """Raise ValueError unless ``goal`` is uint8 ``(3, height, width)``."""
    if goal.dtype != torch.uint8 or goal.ndim != 3 or goal.shape[0] != 3:
        raise ValueError(f"a goal frame must be uint8 (3, height, width), got {goal.dtype} {tuple(goal.shape)}")
