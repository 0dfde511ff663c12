"""OpenSora's timestep transform: larger and longer clips are trained and sampled at more noise.

More pixels and more frames carry the same information redundantly, so that as much noise destroys less of it. The
transform pulls times towards the source: with our time s (0 noise, 1 data), s' = s / (r - (r - 1) s), where r is the
square root of the picture's pixels over 512 x 512 times that of the number of latent frames.

Source: Open-Sora v1.2, ``opensora/schedulers/rf/rectified_flow.py``, in whose noise level t = 1 - s it reads
t' = r t / (1 + (r - 1) t). There the number of latent frames is 5 for each 17 frames, rounded down; here it is the
number itself, which is the same for whole chunks and does not vanish for clips of fewer than 17.
"""

from collections.abc import Callable

import torch
from torch import Tensor

BASE_PIXELS = 512 * 512


def noise_ratio(height: int, width: int, latent_frames: int) -> float:
    """r of clips of ``height`` x ``width`` pixels. ValueError for sizes below 1."""
    if min(height, width, latent_frames) < 1:
        raise ValueError(f"sizes must be 1 or more, got {height}x{width} and {latent_frames} latent frames")
    return (height * width / BASE_PIXELS * latent_frames) ** 0.5


def transformed(time: Tensor, ratio: float) -> Tensor:
    """Our flow time (0 noise, 1 data), of any shape, moved for clips of ``ratio``; 0 and 1 stay."""
    return time / (ratio - (ratio - 1.0) * time)


def sampling_times(steps: int, ratio: float) -> Tensor:
    """The ``steps + 1`` times ``(steps + 1,)`` of a sampler, from 0 to 1."""
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    return transformed(torch.linspace(0.0, 1.0, steps + 1), ratio)


def integrate_over(velocity: Callable[[Tensor, Tensor], Tensor], source: Tensor, times: Tensor) -> Tensor:
    """``flow.integrate`` in uneven steps: Euler's method over ``times (steps + 1,)``; ``velocity(x, time (B, N))``."""
    x = source
    for time, later in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        now = torch.full(x.shape[:2], time, device=x.device, dtype=x.dtype)
        x = x + (later - time) * velocity(x, now)
    return x
