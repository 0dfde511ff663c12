"""The one transformer block that the video model and the inverse dynamics model are made of.

As STDiT3 (OpenSora 1.2): attention over space and attention over time alternate, and each block's scale, shift and gate
are a learned table of its own plus a modulation shared by all blocks (AdaLN-single). Temporal blocks take a mask and a
cache of earlier frames' keys and values.

Shapes: tokens ``(B, F, P, W)`` with F frames and P patches a frame, modulation ``(B, F, 6, W)``.
"""

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Slots:
    """Room for the keys (or values) of a whole roll-out, ``buffer (..., heads, slots, d)``, which a pass writes its own
    F frames into, at ``places (F,)``. What a frame may see of it is for the mask to say.
    """

    buffer: Tensor
    places: Tensor

    def flat(self) -> "Slots":
        """Batch and patches as one axis; a view."""
        return Slots(rearrange(self.buffer, "b p h t d -> (b p) h t d"), self.places)

    def written(self, new: Tensor) -> Tensor:
        """The whole buffer, with ``new (N, heads, F, d)`` in its places: in place, so nothing for autograd."""
        return self.buffer.index_copy_(2, self.places, new)


@dataclass
class TemporalCache:
    """Keys and values of the clean frames seen so far: one pair ``(B, P, heads, T, d)`` for each temporal block.

    ``StaticCache`` makes one of ``Slots`` instead.
    """

    keys: list[Tensor] | list[Slots] = field(default_factory=list)
    values: list[Tensor] | list[Slots] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """How many frames are cached."""
        return self.keys[0].shape[3] if self.keys else 0

    def past(self, number: int) -> "Past | None":
        """Keys and values that temporal block ``number`` has seen; None of an empty cache."""
        return (self.keys[number], self.values[number]) if self.keys else None

    def add(self, pair: "Past") -> None:
        """Keys and values of one more block."""
        self.keys.append(pair[0])
        self.values.append(pair[1])

    def expand(self, count: int) -> "TemporalCache":
        """The same context for ``count`` candidates; views, no copy. Needs a cache of batch 1."""
        return TemporalCache(
            [key.expand(count, -1, -1, -1, -1) for key in self.keys],
            [value.expand(count, -1, -1, -1, -1) for value in self.values],
        )


Past = tuple[Tensor, Tensor] | tuple[Slots, Slots]
"""Keys and values of earlier frames."""


def joined(past: Tensor | Slots, new: Tensor) -> Tensor:
    """``past (N, heads, T, d)`` and then ``new``, or the whole of the slots that it was written into."""
    return past.written(new) if isinstance(past, Slots) else torch.cat([past, new], dim=2)


def flat(past: Tensor | Slots) -> Tensor | Slots:
    """``(B, P, heads, T, d)`` with batch and patches as one axis."""
    return past.flat() if isinstance(past, Slots) else rearrange(past, "b p h t d -> (b p) h t d")


def check_positions(positions: Tensor, most: int) -> None:
    """ValueError where a place in the clip ``positions (F,)`` is none of a model's ``most`` frames. Compiled code and
    the meta device, which has no numbers, are not asked.
    """
    if torch.compiler.is_compiling() or positions.is_meta:
        return
    if int(positions.max()) >= most:
        raise ValueError(f"frame {int(positions.max())} of a clip, but the model was made for {most} frames")


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys; ``past`` is prepended to keys and values, or they are
    written into it where it is ``Slots``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide by {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, past: Past | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``x (N, L, W)``, mask bool ``(L, past + L)``, or ``(L, slots)`` (True: may look) -> output and the keys and
        values, past included.
        """
        query, key, value = rearrange(self.qkv(x), "n l (three h d) -> three n h l d", three=3, h=self.heads)
        query, key = self.query_norm(query), self.key_norm(key)
        if past is not None:
            key, value = joined(past[0], key), joined(past[1], value)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(rearrange(attended, "n h l d -> n l (h d)")), (key, value)


class Block(nn.Module):
    """Modulated pre-norm attention (over space or over time) and MLP."""

    def __init__(self, width: int, heads: int, *, temporal: bool, mlp_ratio: float, gate: float = 0.0) -> None:
        super().__init__()
        self.temporal = temporal
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        table = torch.zeros(6, width)
        table[2], table[5] = gate, gate
        self.scale_shift_table = nn.Parameter(table)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor | None,
        mask: Tensor | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """``x (B, F, P, W)``; past keys and values ``(B, P, heads, T, d)`` -> output and, for temporal blocks,
        theirs with past.
        """
        batch, frames, patches, _ = x.shape
        table = self.scale_shift_table if modulation is None else self.scale_shift_table + modulation[:, :, None]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = table.unbind(dim=-2)
        y = self.attention_norm(x) * (1.0 + scale) + shift
        seen = None
        if self.temporal:
            flat_past = None if past is None else (flat(past[0]), flat(past[1]))
            y, pair = self.attention(rearrange(y, "b f p w -> (b p) f w"), mask, flat_past)
            y = rearrange(y, "(b p) f w -> b f p w", b=batch)
            seen = tuple(rearrange(part, "(b p) h t d -> b p h t d", b=batch) for part in pair)
        else:
            y, _ = self.attention(rearrange(y, "b f p w -> (b f) p w"))
            y = rearrange(y, "(b f) p w -> b f p w", b=batch)
        x = x + gate * y
        return x + mlp_gate * self.mlp(self.mlp_norm(x) * (1.0 + mlp_scale) + mlp_shift), seen
