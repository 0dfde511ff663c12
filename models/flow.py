"""Rectified flow in one convention: time 0 is the source, time 1 the data, velocity = data - source.

OpenSora counts the other way in time; its velocity has this sign. Differs from the paper: besides noise, the flow may
start from the last frame's latent plus noise (``source="last_frame"``), which is what learns on small data. Plans then
start from the last frame itself (std 0) and take one step: the mean future.

Shapes: latents ``(B, N, C, h, w)``, time ``(B, N)``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from colaworld.models.share import Chance, draw
from colaworld.models.stdit3_time import noise_ratio, transformed


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Where flows start and which times are trained. Not stated in the paper: times are logit-normal, as in OpenSora
    1.2.
    """

    source: Literal["last_frame", "noise"] = "last_frame"
    """Where a frame's flow starts; "noise" (the paper's) goes with mean_fraction 0."""
    std: float = 0.5
    """Standard deviation of the noise added to the last frame in training."""
    mean_fraction: float = 0.9
    """Share of frames trained as a plan asks for them: from the bare last frame, at time 0."""
    weight: float = 10.0
    """Of the flow loss beside the codebook's losses. Differs from the paper (1): from the last frame velocities are
    small, and the commitment loss would outweigh what they say about actions.
    """
    ratio: float | None = 1.0
    """How far times are moved towards the source, in training and in sampling: OpenSora's timestep transform. 1: not at
    all; None: as OpenSora does, by the pictures' size and the number of latents in a clip, once these are known."""

    def __post_init__(self) -> None:
        if self.source not in ("last_frame", "noise"):
            raise ValueError(f"source must be 'last_frame' or 'noise', got {self.source!r}")
        if self.std < 0.0:
            raise ValueError(f"std must not be negative, got {self.std}")
        if not 0.0 <= self.mean_fraction <= 1.0:
            raise ValueError(f"mean_fraction must lie in [0, 1], got {self.mean_fraction}")
        if self.source == "noise" and self.mean_fraction > 0.0:
            raise ValueError(
                f"mean_fraction={self.mean_fraction} needs source='last_frame': noise has no mean to start from"
            )
        if self.ratio is not None and not 0.0 < self.ratio < math.inf:
            raise ValueError(f"ratio must be positive and finite, got {self.ratio}")

    def of_clips(self, height: int, width: int, latent_frames: int) -> "FlowConfig":
        """The same with a ``ratio`` that is known, for clips of so many latents of ``height`` x ``width`` pixels."""
        return self if self.ratio is not None else replace(self, ratio=noise_ratio(height, width, latent_frames))


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """``steps`` Euler steps from a source of noise ``std``; guidance 1 is off (paper: 10 steps, guidance 4)."""

    steps: int = 1
    std: float = 0.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be 1 or more, got {self.steps}")
        if not 0.0 <= self.std < math.inf:
            raise ValueError(f"std must be 0 or more and finite, got {self.std}")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance must be finite, got {self.guidance}")


def source_latents(config: FlowConfig, last: Tensor, noise: Tensor, std: Tensor | float) -> Tensor:
    """Where the flow starts, given the frame before (``last``) and noise of the same shape."""
    return noise if config.source == "noise" else last + std * noise


def interpolate(source: Tensor, data: Tensor, time: Tensor) -> Tensor:
    """The point at ``time (B, N)`` on the straight line from source to data."""
    weight = time[..., None, None, None]
    return (1.0 - weight) * source + weight * data


def training_pairs(
    config: FlowConfig, last: Tensor, data: Tensor, generator: Chance
) -> tuple[Tensor, Tensor, Tensor]:
    """Noised frames, their times ``(B, N)`` and their velocities, for frames ``data`` that follow ``last`` (both
    ``(B, N, C, h, w)``).
    """
    batch, device = data.shape[:2], data.device
    noise = draw(torch.randn, data.shape, generator, device)
    time = transformed(torch.sigmoid(draw(torch.randn, batch, generator, device)), config.ratio)
    mean = draw(torch.rand, batch, generator, device) < config.mean_fraction
    time = torch.where(mean, torch.zeros_like(time), time)
    std = torch.where(mean, 0.0, config.std)[..., None, None, None]
    source = source_latents(config, last, noise, std)
    return interpolate(source, data, time), time, data - source


def integrate(
    velocity: Callable[[Tensor, Tensor], Tensor], source: Tensor, steps: int, ratio: float | None = 1.0
) -> Tensor:
    """Euler's method from time 0 to 1, in even steps where ``ratio`` is 1 (see ``FlowConfig``); ``velocity(x, time (B,
    N))``.
    """
    x = source
    for step in range(steps):
        now, later = transformed(step / steps, ratio), transformed((step + 1) / steps, ratio)
        time = torch.full(x.shape[:2], now, device=x.device, dtype=x.dtype)
        x = x + (velocity(x, time) / steps if ratio == 1.0 else velocity(x, time) * (later - now))
    return x
