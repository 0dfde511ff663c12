"""Gaussian over action sequences ``(H, A)``, clamped to per-dimension bounds, with noise that is correlated in time.

Noise is VP2's (``CorrelatedNoiseSampler``): ``n_0 = std_0 u_0`` and ``n_t = beta n_{t-1} + (1 - beta) std_t u_t``, with
``u`` standard normal. With beta > 0 its standard deviation shrinks along the horizon (to ``sqrt((1 - beta) / (1 +
beta))`` of ``std``), as it does there. Or it is iCEM's: ``std_t`` times coloured noise of power ``1 / f ** exponent``.

Of other things than real numbers there are ``signs`` (dimensions of which only the sign counts) and ``codes``.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from einops import repeat
from torch import Tensor

from colaworld.planning.coloured_noise import coloured, correlate


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussian:
    """Independent normals around ``mean (H, A)`` with ``std (H, A)``, clamped to ``low (A,)`` and ``high (A,)``.

    A dimension with ``std`` 0 is held fixed. Device and dtype are the tensors'. Raises ValueError for shapes that
    disagree, reversed bounds, a negative ``std``, a ``beta`` outside [0, 1), a negative ``exponent`` or both at once.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    beta: float = 0.0
    exponent: float = 0.0

    def __post_init__(self) -> None:
        if self.mean.ndim != 2 or self.std.shape != self.mean.shape:
            shapes = f"{tuple(self.mean.shape)} and {tuple(self.std.shape)}"
            raise ValueError(f"mean and std must both be (H, A), got {shapes}")
        width = self.mean.shape[1:]
        if self.low.shape != width or self.high.shape != width:
            raise ValueError(
                f"low and high must be (A,) = {tuple(width)}, got {tuple(self.low.shape)} and {tuple(self.high.shape)}"
            )
        check_bounds(self.low.tolist(), self.high.tolist())
        if not bool((self.std >= 0).all()):
            raise ValueError(f"std must be 0 or more everywhere, got {self.std.min().item()}")
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta (noise correlation) must lie in [0, 1), got {self.beta}")
        if not 0 <= self.exponent < math.inf:
            raise ValueError(f"exponent (of coloured noise) must be 0 or more, got {self.exponent}")
        if self.beta and self.exponent:
            raise ValueError(f"noise has beta or exponent, not both, got {self.beta} and {self.exponent}")

    @property
    def horizon(self) -> int:
        """H."""
        return self.mean.shape[0]

    @property
    def free(self) -> Tensor:
        """bool ``(H, A)``: what is not held fixed."""
        return self.std > 0

    def clamp(self, actions: Tensor) -> Tensor:
        """``(..., A)`` moved inside the bounds."""
        return actions.clamp(self.low, self.high)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, H, A)`` inside the bounds; ``generator`` lives on the device of ``mean``."""
        if self.exponent:
            noise = coloured(count, *self.mean.shape, self.exponent, self.mean, generator) * self.std
            return self.clamp(self.mean + noise)
        shape = (count, *self.mean.shape)
        noise = torch.randn(shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype).mul_(self.std)
        return correlate(noise, self.beta).add_(self.mean).clamp_(self.low, self.high)

    def mode(self) -> Tensor:
        """``(H, A)``: the mean, inside the bounds."""
        return self.clamp(self.mean)

    def spread(self) -> float:
        """Mean of ``std``."""
        return self.std.mean().item()

    def recentred(self, actions: Tensor) -> Self:
        """The same ``std`` around ``actions (H, A)``."""
        return self._around(actions.to(self.mean), self.std)

    def refitted(self, elites: Tensor, *, keep: float, min_std: float) -> Self:
        """Mean and variance of ``elites (E, H, A)``, ``keep`` of the old ones left, ``std`` at least ``min_std``."""
        mean = elites.mean(dim=0)
        variance = (elites - mean).square_().mean(dim=0)
        if keep:
            mean, variance = mean.lerp(self.mean, keep), variance.lerp(self.std**2, keep)
        std = variance.sqrt()
        if min_std:
            std = std.maximum(self.std.clamp(max=min_std))  # a dimension that was fixed (std 0) stays fixed
        return self._around(mean, std)

    def moved(self, actions: Tensor, weights: Tensor) -> Self:
        """The same ``std`` around the weighted mean of ``actions (S, H, A)``."""
        return self._around(torch.tensordot(weights.to(actions), actions, dims=1), self.std)

    def _around(self, mean: Tensor, std: Tensor) -> Self:
        """A copy of other numbers. It is not checked again: plans are made of many, and their shapes are these."""
        other = object.__new__(type(self))
        vars(other).update(vars(self), mean=mean, std=std)
        return other


def check_bounds(low: list[float], high: list[float]) -> None:
    """Raise ValueError naming the first dimension whose bounds are reversed or not finite."""
    for index, (lowest, highest) in enumerate(zip(low, high, strict=True)):
        if not (math.isfinite(lowest) and math.isfinite(highest) and lowest <= highest):
            raise ValueError(f"action bounds {index} must be finite with low <= high, got [{lowest}, {highest}]")


@dataclass(frozen=True, kw_only=True)
class ActionPrior:
    """What is believed of a single action before planning; ``gaussian(horizon)`` repeats it over time.

    All four tuples have length A. Raises ValueError for lengths that disagree or anything ``Gaussian`` refuses.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    beta: float = 0.0
    exponent: float = 0.0

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("mean", "std", "low", "high")}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"mean, std, low and high of an action prior must have one length, got {lengths}")
        self.gaussian(1)

    @property
    def width(self) -> int:
        """A."""
        return len(self.mean)

    def gaussian(self, horizon: int) -> Gaussian:
        """``Gaussian`` over ``(horizon, A)``, float32 on the CPU."""
        if horizon < 1:
            raise ValueError(f"horizon must be 1 or more, got {horizon}")
        return Gaussian(
            mean=repeat(torch.tensor(self.mean, dtype=torch.float32), "a -> h a", h=horizon),
            std=repeat(torch.tensor(self.std, dtype=torch.float32), "a -> h a", h=horizon),
            low=torch.tensor(self.low, dtype=torch.float32),
            high=torch.tensor(self.high, dtype=torch.float32),
            beta=self.beta,
            exponent=self.exponent,
        )

    def distribution(self, horizon: int) -> Gaussian:
        """The first distribution of a search: ``gaussian``."""
        return self.gaussian(horizon)

    def rest(self) -> Tensor:
        """The zero action ``(A,)``, as near as the bounds allow."""
        return self.gaussian(1).clamp(torch.zeros(self.width))
