"""Wan 2.1's VAE with four frames to a latent, for clips that start from two frames as plans do.

Wan makes one latent of the first frame of a clip and one of each four after it, and has no latents of single frames to
make them of. So what stands for one frame here is its pixels, 8x8 of them folded into channels: nothing is lost or
computed, and inverse dynamics reads pixels, as the paper's does. ``compress`` makes of a clip's pixels Wan's latents,
``expand`` goes back (see ``CompressedTime``).

The first latent is of the first frame. The second is of both that a clip starts from, the first repeated three times in
front of the second, as if it had stood still before; every later one is of four new frames. So 14 frames are latents of
1, 1, 4, 4, 4, and a fifth latent buys what OpenSora's four hold. Not stated in the paper: all of this.

Shapes: frames ``(..., 3, height, width)`` in [-1, 1] (or uint8), folded ``(..., 192, height / 8, width / 8)``; a clip's
``(B, T, 192, h, w)``, compressed ``(B, K, C, h, w)``.
"""

import torch
from einops import rearrange
from torch import Tensor

from colaworld.models.wan_vae import FACTOR, WanVAE


class WanClips(WanVAE):
    """The codec; weights, sizes and reading are ``WanVAE``'s, whose ``chunk`` must be None."""

    LEAD = 2
    causal = True

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)`` of one folded frame."""
        _, height, width = self.clip_shape
        return 3 * self.shrink**2, height, width

    def encode(self, frames: Tensor) -> Tensor:
        """Frames ``(..., 3, height, width)``, uint8 or in [-1, 1] -> folded ``(..., 192, h, w)``."""
        pixels = self._pixels(frames)
        return rearrange(pixels, "... c (i p) (j q) -> ... (c p q) i j", p=self.shrink, q=self.shrink)

    def decode(self, latents: Tensor) -> Tensor:
        """Folded frames ``(..., 192, h, w)`` -> frames in [-1, 1] ``(..., 3, height, width)``."""
        return self._unfolded(latents).clamp(-1.0, 1.0)

    def compress(self, pictures: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A clip's folded frames ``(B, T, 192, h, w)`` -> ``(B, K, C, h, w)``; ``generator`` as ``WanVAE.encode``'s.

        ValueError unless T is 1 or 4 n + 2.
        """
        self.frame_groups.lengths(pictures.shape[1])
        pixels = self._unfolded(pictures)
        still = (1 - pixels.shape[1]) % FACTOR
        return super().encode(torch.cat([pixels[:, :1].expand(-1, still, -1, -1, -1), pixels], dim=1), generator)

    def expand(self, latents: Tensor, frames: int | None = None) -> Tensor:
        """Latents ``(B, K, C, h, w)`` of a clip from its beginning -> its folded frames ``(B, T, 192, h, w)``.

        ``frames``: T, which K latents say already; ValueError for another.
        """
        held = self.frame_groups.frames(latents.shape[1])
        if frames not in (None, held):
            raise ValueError(f"{latents.shape[1]} latents are {held} frames, got frames={frames}")
        return self.encode(super().decode(latents)[:, -held:])

    def _unfolded(self, pictures: Tensor) -> Tensor:
        return rearrange(pictures, "... (c p q) i j -> ... c (i p) (j q)", p=self.shrink, q=self.shrink)
