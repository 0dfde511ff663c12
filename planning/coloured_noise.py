"""Noise along the horizon: VP2's filter, or coloured noise of power ``1 / f ** exponent`` (iCEM; package
``colorednoise``). Shapes ``(S, H, A)``.
"""

from functools import cache

import colorednoise
import numpy as np
import torch
from einops import rearrange
from torch import Tensor


def coloured(count: int, horizon: int, width: int, exponent: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """``(count, horizon, width)`` of unit variance, independent but along the horizon; 0 is white, 1 pink, 2 brown.

    Its seed is drawn from ``generator``, the noise itself by NumPy, then moved to the device and type of ``like``. A
    horizon of one step has no colour: white. Differs from iCEM, which takes the package's noise as it comes: that is of
    unit variance only within a long sequence, over short ones it is wider (``package_std``).
    """
    if horizon == 1:
        return torch.randn(count, 1, width, generator=generator, device=like.device, dtype=like.dtype)
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device).item()
    size, source = (count, width, horizon), np.random.default_rng(seed)
    noise = colorednoise.powerlaw_psd_gaussian(exponent, size, random_state=source)
    return rearrange(torch.from_numpy(noise / package_std(exponent, horizon)), "s a h -> s h a").to(like)


@cache
def package_std(exponent: float, horizon: int) -> float:
    """Standard deviation of one step of the package's noise over sequences of ``horizon`` steps, measured on so many
    (20,000, always the same) that it is right to about half a per cent.
    """
    return float(colorednoise.powerlaw_psd_gaussian(exponent, (20_000, horizon), random_state=0).std())



def correlate(noise: Tensor, beta: float) -> Tensor:
    """VP2's filter along time: ``n_t = beta n_{t-1} + (1 - beta) noise_t``; ``noise (S, H, A)``, same shape out."""
    if beta == 0:
        return noise
    filtered = [noise[:, 0]]
    for step in range(1, noise.shape[1]):
        filtered.append(beta * filtered[-1] + (1 - beta) * noise[:, step])
    return torch.stack(filtered, dim=1)
