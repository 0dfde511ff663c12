"""diffusers' generators that attend over space and time at once, made to see what a mask over frames shows.

Every patch sees every patch of the frames that the mask shows; keys and values of clean frames come from a cache.
Blocks run on frames as if each were a picture, ``(B F) P W``, so that each has its own modulation; only self-attention,
through ``FramesProcessor``, joins them. Weights and layers stay diffusers'. A backbone of this kind (``wan``, ``ltx``)
says what goes in and comes out of the blocks.

Shapes: B batch, F frames, P patches a frame, W width, T frames with those of the past.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from colaworld.models.backbones import CausalFrames
from colaworld.models.blocks import Past, Slots, TemporalCache, flat, joined

Turn = tuple[Tensor, Tensor]
"""Cosines and sines ``(P, heads or 1, F, d / 2)`` of the rotations of queries and keys, of neighbouring features."""


@dataclass
class Frames:
    """What self-attention is told of the frames that a block's tokens are of, and what it leaves: ``seen``, keys and
    values ``(B, P, heads, T, d)`` with those of the past.
    """

    turn: Turn
    mask: Tensor | None
    """``(F P, T P)``, or None: everything may be seen."""
    past: Past | None
    seen: tuple[Tensor, Tensor] | None = None


class FramesProcessor:
    """diffusers' attention processor over all patches of the frames that the mask shows, past included.

    ``Frames`` arrives in the place of rotary embeddings, which blocks hand through. Keys are kept as they are after
    rotation.
    """

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: None,
        attention_mask: None,
        rotary_emb: Frames,
    ) -> Tensor:
        """``hidden_states ((B F), P, W)`` -> the same shape."""
        frames = rotary_emb
        count = frames.turn[0].shape[2]
        query, key, value = (
            rearrange(part, "(b f) p (h d) -> b p h f d", f=count, h=attn.heads)
            for part in (
                attn.norm_q(attn.to_q(hidden_states)),
                attn.norm_k(attn.to_k(hidden_states)),
                attn.to_v(hidden_states),
            )
        )
        query, key = _turned(query, frames.turn), _turned(key, frames.turn)
        if frames.past is not None:
            key, value = _joined(frames.past[0], key), _joined(frames.past[1], value)
        frames.seen = key, value
        query, key, value = (rearrange(part, "b p h f d -> b h (f p) d") for part in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=frames.mask)
        attended = rearrange(attended, "b h (f p) d -> (b f) p (h d)", f=count)
        return attn.to_out[1](attn.to_out[0](attended))


class Nothing(nn.Module):
    """In the place of a block's cross-attention to text: adds nothing."""

    def forward(self, *inputs: Any, **named: Any) -> float:
        return 0.0


class SpaceTime(CausalFrames):
    """A ``Backbone`` whose blocks are diffusers', called with tokens, caption, modulation and rotary embeddings."""

    def _attended(
        self,
        blocks: Iterable[nn.Module],
        x: Tensor,
        told: Tensor,
        modulation: Tensor,
        turn: Turn,
        mask: Tensor | None,
        cache: TemporalCache | None,
    ) -> tuple[Tensor, TemporalCache]:
        """Tokens ``((B F), P, W)`` through all blocks, and the cache with their keys and values. ``mask (F, T)``;
        ``told`` and ``modulation`` are handed to the blocks.
        """
        seen, patches = TemporalCache(), self.rows * self.columns
        if mask is not None:
            mask = repeat(mask, "f t -> (f p) (t q)", p=patches, q=patches)
        for number, block in enumerate(blocks):
            past = None if cache is None else cache.past(number)
            x, pair = self._run(_through, block, x, told, modulation, turn, mask, past)
            seen.add(pair)
        return x, seen


def _through(
    block: nn.Module,
    x: Tensor,
    told: Tensor,
    modulation: Tensor,
    turn: Turn,
    mask: Tensor | None,
    past: Past | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One block -> tokens, keys and values."""
    frames = Frames(turn, mask, past)
    x = block(x, told, modulation, frames)
    return x, frames.seen


def _turned(x: Tensor, turn: Turn) -> Tensor:
    """Pairs of neighbouring features of ``x (B, P, heads, F, d)`` rotated."""
    cos, sin = turn
    even, odd = rearrange(x, "... (half two) -> ... half two", two=2).unbind(dim=-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rearrange(turned, "... half two -> ... (half two)").type_as(x)


def _joined(past: Tensor | Slots, new: Tensor) -> Tensor:
    """``(B, P, heads, T, d)``."""
    together = joined(flat(past), rearrange(new, "b p h f d -> (b p) h f d"))
    return rearrange(together, "(b p) h t d -> b p h t d", b=len(new))
