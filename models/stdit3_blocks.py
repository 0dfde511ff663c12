"""The layers of OpenSora 1.2's STDiT3, under the names of the published weights.

A block is modulated pre-norm attention (over space or, with rotary embeddings, over time), cross-attention to the
caption where the text is kept, and a modulated MLP; scale, shift and gate are a table of the block's own plus one
modulation shared by all. Here time takes a mask and a cache of earlier frames' keys and values, which is what makes it
causal; without either it is the published, bidirectional one.

Source: Open-Sora v1.2, ``opensora/models/layers/blocks.py`` and ``stdit/stdit3.py`` (names, shapes, formulas).

Shapes: tokens ``(B, F, P, W)`` with F frames and P patches a frame, modulation ``(B, F, 6, W)``, caption ``(B, L, W)``.
"""

import torch
from diffusers.models.embeddings import Timesteps
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from colaworld.models.blocks import Past, flat, joined

ROTARY_BASE = 10000.0


class RotaryEmbedding(nn.Module):
    """Rotates pairs of neighbouring features by the frame's place in the clip. ``freqs`` is in the published weights
    and not learned.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        freqs = ROTARY_BASE ** (-torch.arange(0, width, 2).float() / width)
        self.freqs = nn.Parameter(freqs, requires_grad=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """``x (N, heads, F, d)`` at ``positions (F,)``."""
        angle = repeat(positions.float()[:, None] * self.freqs.float(), "f half -> f (half two)", two=2)
        even, odd = rearrange(x, "... (half two) -> ... half two", two=2).unbind(dim=-1)
        turned = rearrange(torch.stack([-odd, even], dim=-1), "... half two -> ... (half two)")
        return x * angle.cos().to(x.dtype) + turned * angle.sin().to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys. ``past`` is prepended to the keys and values, or
    they are written into it where it is ``Slots``; keys are kept as they are after rotation.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.k_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        *,
        rope: RotaryEmbedding | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``x (N, L, W)``, mask bool ``(L, past + L)`` or ``(L, slots)`` -> output and the keys and values, past
        included.
        """
        query, key, value = rearrange(self.qkv(x), "n l (three h d) -> three n h l d", three=3, h=self.heads)
        query, key = self.q_norm(query), self.k_norm(key)
        if rope is not None:
            query, key = rope(query, positions), rope(key, positions)
        if past is not None:
            key, value = joined(past[0], key), joined(past[1], value)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.proj(rearrange(attended, "n h l d -> n l (h d)")), (key, value)


class CrossAttention(nn.Module):
    """Of all tokens of a clip to its caption; without normalisation, as published."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, caption: Tensor) -> Tensor:
        """``x (B, L, W)``, ``caption (B, M, W)`` -> ``(B, L, W)``."""
        query = rearrange(self.q_linear(x), "b l (h d) -> b h l d", h=self.heads)
        key, value = rearrange(self.kv_linear(caption), "b m (two h d) -> two b h m d", two=2, h=self.heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(attended, "b h l d -> b l (h d)"))


class Mlp(nn.Module):
    """Two layers with a GELU between them (tanh form, as published)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class STDiT3Block(nn.Module):
    """One block, over space or over time; ``text`` keeps the cross-attention."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: float, text: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, heads)
        self.cross_attn = CrossAttention(width, heads) if text else None
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio), width)
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        caption: Tensor | None = None,
        rope: RotaryEmbedding | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """With ``rope`` over time, else over space -> output and, over time, keys and values ``(B, P, heads, T, d)``
        with past.
        """
        batch, frames = x.shape[:2]
        table = self.scale_shift_table + modulation[:, :, None]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = table.unbind(dim=-2)
        y, seen = self.norm1(x) * (1.0 + scale) + shift, None
        if rope is None:
            y, _ = self.attn(rearrange(y, "b f p w -> (b f) p w"))
            y = rearrange(y, "(b f) p w -> b f p w", b=batch)
        else:
            y, pair = self.attn(
                rearrange(y, "b f p w -> (b p) f w"),
                rope=rope,
                positions=positions,
                mask=mask,
                past=None if past is None else (flat(past[0]), flat(past[1])),
            )
            y = rearrange(y, "(b p) f w -> b f p w", b=batch)
            seen = tuple(rearrange(part, "(b p) h t d -> b p h t d", b=batch) for part in pair)
        x = x + gate * y
        if self.cross_attn is not None:
            told = self.cross_attn(rearrange(x, "b f p w -> b (f p) w"), caption)
            x = x + rearrange(told, "b (f p) w -> b f p w", f=frames)
        return x + mlp_gate * self.mlp(self.norm2(x) * (1.0 + mlp_scale) + mlp_shift), seen


class PatchEmbed3D(nn.Module):
    """Patches of one frame to tokens, a convolution over three axes as published: ``(B, C, F, h, w)`` -> ``(B, F, P,
    W)``.
    """

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, width, kernel_size=(1, patch, patch), stride=(1, patch, patch))

    def forward(self, latents: Tensor) -> Tensor:
        return rearrange(self.proj(latents), "b w f i j -> b f (i j) w")


class ScalarEmbedder(nn.Module):
    """Of a timestep or of frames a second: sinusoidal features, then two layers."""

    FEATURES = 256

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = Timesteps(self.FEATURES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.mlp = nn.Sequential(nn.Linear(self.FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, values: Tensor) -> Tensor:
        """``values (N,)`` -> ``(N, W)``."""
        return self.mlp(self.features(values).to(self.mlp[0].weight.dtype))


class CaptionEmbedder(nn.Module):
    """Of T5's features. ``y_embedding`` is the caption that says nothing, a buffer in the published weights."""

    def __init__(self, channels: int, width: int, tokens: int) -> None:
        super().__init__()
        self.y_proj = Mlp(channels, width, width)
        self.register_buffer("y_embedding", torch.randn(tokens, channels) / channels**0.5)

    def forward(self, features: Tensor | None, batch: int) -> Tensor:
        """``features (B, L, channels)``, or None for no caption -> ``(B, L, W)``."""
        if features is None:
            features = self.y_embedding.expand(batch, -1, -1)
        return self.y_proj(features)


class FinalLayer(nn.Module):
    """Modulated norm and the projection to the patches' outputs."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, outputs)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """``x (B, F, P, W)``, time embedding ``(B, F, W)`` -> ``(B, F, P, outputs)``."""
        shift, scale = (self.scale_shift_table + embedded[:, :, None, None]).unbind(dim=-2)
        return self.linear(self.norm_final(x) * (1.0 + scale) + shift)


def patch_positions(rows: int, columns: int, width: int, scale: float, device: torch.device) -> Tensor:
    """Fixed sines and cosines of the patches' places ``(P, W)``: the column's in the first half of the features, the
    row's in the second. ``scale`` is the picture's size over that which the generator calls one; places are stretched
    as if the picture were square.
    """
    base = round((rows * columns) ** 0.5)
    omega = ROTARY_BASE ** (-torch.arange(0, width // 2, 2, device=device).float() / (width // 2))

    def waves(count: int) -> Tensor:
        angle = torch.arange(count, device=device).float()[:, None] / scale * (base / count) * omega
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    across = repeat(waves(columns), "j half -> (i j) half", i=rows)
    down = repeat(waves(rows), "i half -> (i j) half", j=columns)
    return torch.cat([across, down], dim=-1)

