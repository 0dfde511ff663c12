"""The temporal part of OpenSora 1.2's VAE: latents of single frames to a fourth as many, and back.

A residual encoder and decoder of convolutions over time and space that are padded on the past's side only (after
MAGVIT-2). A clip is filled up in front with empty frames to a multiple of four, so that of 17 frames the first is a
latent of its own. The group norms look over the whole clip: of what comes later a latent knows mean and variance.

Source: Open-Sora v1.2, ``opensora/models/vae/vae_temporal.py`` (``VAE_Temporal_SD``): names, shapes, formulas.

Shapes: clips ``(B, C, T, h, w)``, latents ``(B, C, K, h, w)``, K = T / 4 rounded up.
"""

from itertools import pairwise

from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 2  # in time, of each level that compresses


class CausalConv3d(nn.Module):
    """A convolution that is padded in front of time and around space."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, time_stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        around = kernel // 2
        self.padding = (around, around, around, around, kernel - time_stride, 0)
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride=(time_stride, 1, 1), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class ResBlock(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = CausalConv3d(inputs, outputs, 3, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.conv2 = CausalConv3d(outputs, outputs, 3, bias=False)
        self.conv3 = CausalConv3d(inputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.conv3 is None else self.conv3(x))


def _res_blocks(inputs: int, outputs: int, count: int, groups: int) -> nn.ModuleList:
    return nn.ModuleList(ResBlock(inputs if number == 0 else outputs, outputs, groups) for number in range(count))


class Encoder(nn.Module):
    """Frames' latents to the moments of the clip's."""

    def __init__(
        self, channels: int, moments: int, widths: tuple[int, ...], blocks: int, compress: tuple[bool, ...], groups: int
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv3d(channels, widths[0], 3, bias=False)
        levels = pairwise((widths[0], *widths))
        self.block_res_blocks = nn.ModuleList(_res_blocks(before, width, blocks, groups) for before, width in levels)
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, 3, time_stride=STRIDE) if short else nn.Identity()
            for width, short in zip(widths[:-1], compress, strict=True)
        )
        self.res_blocks = _res_blocks(widths[-1], widths[-1], blocks, groups)
        self.norm1 = nn.GroupNorm(groups, widths[-1])
        self.conv2 = CausalConv3d(widths[-1], moments, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level, between in zip(self.block_res_blocks, [*self.conv_blocks, nn.Identity()], strict=True):
            for block in level:
                x = block(x)
            x = between(x)
        for block in self.res_blocks:
            x = block(x)
        return self.conv2(F.silu(self.norm1(x)))


class Decoder(nn.Module):
    """The clip's latents to the frames'. Levels are numbered as the encoder's and run backwards."""

    def __init__(
        self, channels: int, latents: int, widths: tuple[int, ...], blocks: int, compress: tuple[bool, ...], groups: int
    ) -> None:
        super().__init__()
        self.compress = compress
        self.conv1 = CausalConv3d(latents, widths[-1], 3)
        self.res_blocks = _res_blocks(widths[-1], widths[-1], blocks, groups)
        levels = pairwise((*widths, widths[-1]))
        self.block_res_blocks = nn.ModuleList(_res_blocks(before, width, blocks, groups) for width, before in levels)
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width * STRIDE, 3) if short else nn.Identity()
            for width, short in zip(widths[1:], compress, strict=True)
        )
        self.norm1 = nn.GroupNorm(groups, widths[0])
        self.conv_out = CausalConv3d(widths[0], channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv1(z)
        for block in self.res_blocks:
            x = block(x)
        for number in reversed(range(len(self.block_res_blocks))):
            for block in self.block_res_blocks[number]:
                x = block(x)
            if number > 0 and self.compress[number - 1]:
                x = self.conv_blocks[number - 1](x)
                x = rearrange(x, "b (c stride) t h w -> b c (t stride) h w", stride=STRIDE)
        return self.conv_out(F.silu(self.norm1(x)))


class TemporalVAE(nn.Module):
    """``VAE_Temporal_SD`` with the sizes open; ``compress`` says which steps between levels halve time."""

    def __init__(
        self,
        *,
        channels: int = 4,
        widths: tuple[int, ...] = (128, 256, 256, 512),
        blocks: int = 4,
        compress: tuple[bool, ...] = (False, True, True),
        groups: int = 32,
    ) -> None:
        super().__init__()
        if len(compress) != len(widths) - 1:
            raise ValueError(f"{len(widths)} levels have {len(widths) - 1} steps between, got {len(compress)}")
        self.factor = STRIDE ** sum(compress)
        self.encoder = Encoder(channels, 2 * channels, widths, blocks, compress, groups)
        self.quant_conv = CausalConv3d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = CausalConv3d(channels, channels, 1)
        self.decoder = Decoder(channels, channels, widths, blocks, compress, groups)

    def encode(self, x: Tensor) -> DiagonalGaussianDistribution:
        """The posterior of a clip's latents."""
        x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % self.factor, 0))
        return DiagonalGaussianDistribution(self.quant_conv(self.encoder(x)))

    def decode(self, z: Tensor, frames: int) -> Tensor:
        """The last ``frames`` of what the latents hold: what was filled up in front is cut off."""
        return self.decoder(self.post_quant_conv(z))[:, :, -frames % self.factor :]
