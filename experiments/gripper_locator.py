"""Where the gripper is in a frame, read off the codec's latents: the eye that imagined video is measured with.

Kernel ridge regression, fitted on real training frames: linear in its weights, with a closed form. A reading that is
linear in the latents themselves sees the gripper half as well, and loses it in imagined frames, which are blurred in
ways that no real frame is; a Gaussian kernel answers from the real frames that look most alike. Width and strength are
those with the smallest error on clips that were left out.

Shapes: latents ``(..., C, h, w)`` -> positions ``(..., 3)`` in the world frame, metres.
"""

from dataclasses import dataclass
from itertools import product

import torch
from einops import rearrange
from torch import Tensor

WIDTHS = (0.1, 0.3, 1.0)
"""Of the kernel exp(-width * mean squared difference of two standardised frames)."""
STRENGTHS = (1e-3, 1e-2, 1e-1)
LEFT_OUT = 5
"""Every fifth clip chooses width and strength."""
MAX_FRAMES = 3000
"""What is fitted on: time grows with the cube, memory with the square."""
MIN_SCALE = 1e-3


@dataclass(frozen=True, kw_only=True)
class GripperLocator:
    """``support (M, F)`` are standardised training frames with their ``weights (M, 3)``, in double precision on the
    CPU.
    """

    mean: Tensor
    scale: Tensor
    support: Tensor
    weights: Tensor
    centre: Tensor
    width: float
    strength: float

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """``(..., C, h, w) -> float32 (..., 3)`` metres, on the CPU."""
        frames = (_flat(latents) - self.mean) / self.scale
        places = _kernel(frames, self.support, self.width) @ self.weights + self.centre
        return places.reshape(*latents.shape[:-3], 3).float()

    def error_cm(self, latents: Tensor, ee_pos: Tensor) -> float:
        """Mean distance to the true positions ``(..., 3)`` of frames that it was not fitted on, centimetres."""
        return float((self(latents) - ee_pos.cpu()).norm(dim=-1).mean()) * 100.0


@torch.no_grad()
def fit_locator(latents: Tensor, ee_pos: Tensor) -> GripperLocator:
    """From training clips ``(B, T, C, h, w)`` and their gripper's positions ``(B, T, 3)``, metres; many short clips
    teach more than few long ones.

    ValueError for fewer than ``LEFT_OUT`` clips, for positions of another shape and for those that are not finite.
    """
    clips, length = latents.shape[:2]
    if clips < LEFT_OUT:
        raise ValueError(f"a gripper locator needs at least {LEFT_OUT} clips, got {clips}")
    if ee_pos.shape != (clips, length, 3):
        raise ValueError(f"ee_pos must have shape {(clips, length, 3)}, got {tuple(ee_pos.shape)}")
    if not torch.isfinite(ee_pos).all():
        raise ValueError(f"{int((~torch.isfinite(ee_pos)).sum())} of {ee_pos.numel()} numbers of ee_pos are not finite")
    chosen = torch.linspace(0, clips * length - 1, min(MAX_FRAMES, clips * length)).long()
    frames, places = _flat(latents)[chosen], rearrange(ee_pos, "b t d -> (b t) d").cpu().double()[chosen]
    mean, scale, centre = frames.mean(dim=0), frames.std(dim=0).clamp_min(MIN_SCALE), places.mean(dim=0)
    frames, places = (frames - mean) / scale, places - centre
    left_out = (chosen // length) % LEFT_OUT == 0
    width, strength = min(
        product(WIDTHS, STRENGTHS), key=lambda choice: _left_out_error(frames, places, left_out, *choice)
    )
    weights = _solve(_kernel(frames, frames, width), places, strength)
    return GripperLocator(
        mean=mean, scale=scale, support=frames, weights=weights, centre=centre, width=width, strength=strength
    )


def _left_out_error(frames: Tensor, places: Tensor, left_out: Tensor, width: float, strength: float) -> float:
    known, asked = frames[~left_out], frames[left_out]
    weights = _solve(_kernel(known, known, width), places[~left_out], strength)
    return float((_kernel(asked, known, width) @ weights - places[left_out]).square().mean())


def _solve(kernel: Tensor, places: Tensor, strength: float) -> Tensor:
    return torch.cholesky_solve(places, torch.linalg.cholesky(kernel + strength * torch.eye(len(kernel)).to(kernel)))


def _kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    return torch.exp(-width / a.shape[1] * torch.cdist(a, b).square())


def _flat(latents: Tensor) -> Tensor:
    return latents.detach().cpu().double().reshape(-1, latents.shape[-3:].numel())
