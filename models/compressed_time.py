"""Codecs of clips: frames in, latents of several frames through the world model, frames out.

Everything around the world model counts in frames: inverse dynamics reads two, a plan acts between two. Where a codec
makes one latent of ``size`` frames, ``CompressedTime`` stands between: it compresses a clip's latents and groups its
latent actions (``FrameGroups``) on the way in, and expands what was imagined on the way out.

The first latent holds the frames that a plan starts from (VP2's two of four), every later one ``size`` new frames, so
that training sees clips as plans do: 14 frames are latents of 2, 4, 4, 4 (Wan's: 1, 1, 4, 4, 4). Frames beyond the
last whole latent, and beyond the codec's chunk, are left out. Not stated in the paper: all of this.

Shapes: frames' latents ``(B, T, C, h, w)`` and actions ``(B, T - 1, D)``; compressed ``(B, K, C, h, w)`` and ``(B, K -
1, size * D)``.
"""

from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from colaworld.models.frame_groups import FrameGroups


class ClipCodec(Protocol):
    """What a codec of clips offers besides one latent a frame, ``encode`` and ``decode``."""

    frame_groups: FrameGroups
    causal: bool
    """Whether ``expand`` makes a frame of the latents up to its own alone."""
    clip_shape: tuple[int, int, int]
    """``(C, h, w)`` of what ``compress`` makes; ``latent_shape`` is that of one frame's."""

    def encode(self, frames: Tensor) -> Tensor:
        """Frames ``(..., 3, height, width)``, uint8 or in [-1, 1] -> latents ``(..., C, h, w)``, one a frame."""

    def decode(self, latents: Tensor) -> Tensor:
        """And back, to frames in [-1, 1]."""

    def compress(self, pictures: Tensor) -> Tensor:
        """A clip's frames' latents ``(B, T, C, h, w)`` -> ``(B, K, C, h, w)``."""

    def expand(self, latents: Tensor, frames: int | None = None) -> Tensor:
        """And back, to those of ``frames`` frames."""


class CompressedTime:
    """Of ``codec``, for clips that start from ``context`` frames. Not a module: the codec is a part of its own."""

    def __init__(self, codec: ClipCodec, context: int) -> None:
        self.codec, self.groups, self.context = codec, codec.frame_groups, context

    @property
    def size(self) -> int:
        """Frames that a latent after the context holds."""
        return self.groups.size

    @property
    def least(self) -> int:
        """Frames of the shortest clip in which an imagined latent can itself be the context of another."""
        return self.context + 2 * self.size

    def used(self, frames: int) -> int:
        """How many of a clip's ``frames`` are used. ValueError for fewer than the context."""
        most = frames if self.groups.chunk is None else min(frames, self.groups.chunk)
        if most < self.context:
            raise ValueError(f"a clip of {frames} frames is shorter than the {self.context} that a plan starts from")
        return most - (most - self.context) % self.size

    def latents_of(self, frames: int) -> int:
        """How many latents a clip of ``frames`` is."""
        return self.groups.latents(self.used(frames))

    def latents_ahead(self, horizon: int) -> int:
        """How many latents reach ``horizon`` frames beyond the context."""
        return -(-horizon // self.size)

    @torch.no_grad()
    def compress(self, pictures: Tensor) -> Tensor:
        """``(B, T, C, h, w) -> (B, K, C, h, w)``; without gradients, since the codec does not learn."""
        return self.codec.compress(pictures[:, : self.used(pictures.shape[1])])

    def expand_ahead(self, latents: Tensor, horizon: int, *, taken: int = 0) -> Tensor:
        """The ``horizon`` frames ``(B, horizon, C, h, w)`` that follow the context and ``taken`` more, of ``latents (B,
        K, C, h, w)``, the context's included.

        Latent by latent, each after those before it alone, unless the codec is causal: OpenSora's decoder is normalised
        over the whole clip, and a frame would show what comes after it.
        """
        if self.codec.causal:
            return self.codec.expand(latents)[:, self.context + taken : self.context + taken + horizon]
        known, begun, found = self.groups.latents(self.context), taken // self.size, []
        for number in range(begun + 1, latents.shape[1] - known + 1):
            frames = self.context + number * self.size
            found.append(self.codec.expand(latents[:, : known + number], frames)[:, -self.size :])
        return torch.cat(found, dim=1)[:, taken - begun * self.size :][:, :horizon]

    def group(self, actions: Tensor) -> Tensor:
        """``(B, T - 1, D) -> (B, K - 1, size * D)``."""
        return self.groups.group(actions[:, : self.used(actions.shape[1] + 1) - 1])

    def group_ahead(self, actions: Tensor) -> Tensor:
        """Actions beyond the context ``(B, H, D)`` -> ``(B, latents_ahead(H), size * D)``: the last one fills up its
        latent, of whose last frames nothing is asked.
        """
        missing = self.latents_ahead(actions.shape[1]) * self.size - actions.shape[1]
        filled = torch.cat([actions, actions[:, -1:].expand(-1, missing, -1)], dim=1)
        return rearrange(filled, "b (k size) d -> b k (size d)", size=self.size)

    def group_any(self, marked: Tensor) -> Tensor:
        """Marks of actions, bool ``(B, T - 1)`` -> of the latents that hold a marked one ``(B, K - 1)``."""
        return self.group(marked[..., None].float()).any(dim=-1)


def compressed_time(codec: object, context: int) -> CompressedTime | None:
    """Of a codec that makes latents of several frames; None of one that makes one a frame.

    ValueError for one that has nothing to make them of, frame by frame.
    """
    groups = getattr(codec, "frame_groups", None)
    if groups is None or groups.size == 1 or groups.chunk == 1:
        return None
    if not hasattr(codec, "compress"):
        raise ValueError(
            f"a {type(codec).__name__} encodes clips whole, so that a plan of single frames cannot enter it: chunk "
            f"must be 1 (one latent a frame), got {groups.chunk}; WanClips is made for it"
        )
    return CompressedTime(codec, context)
