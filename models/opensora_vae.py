"""OpenSora 1.2's VAE as a codec of clips: a picture VAE, a temporal VAE over its latents, and fixed shift and scale.

The picture VAE is diffusers' ``AutoencoderKL`` (PixArt's copy of SDXL's), which makes 8x8 pixels one latent of 4
channels; the temporal one makes four frames one latent. ``chunk`` frames (17: 5 latents) are encoded at a time, as
published, so that a clip of 34 frames is 10 latents, the first and the sixth of single frames. ``FrameGroups`` says
which frames lie where.

As of every codec, ``encode`` makes one latent a frame: the picture VAE's, which inverse dynamics reads, a latent action
being what happens between two frames. ``compress`` makes of a clip's those that the generator knows, ``expand`` goes
back (see ``CompressedTime``). With ``chunk=1`` every frame is a clip of its own, as the published generator knows
single pictures: ``encode`` compresses, and the codec is used as ``FrameCodec`` is. Differs from the paper, which
compresses time: four times as many latents.

Names and shapes are those of ``hpcai-tech/OpenSora-VAE-v1.2``, so that ``OpenSoraVAE.from_pretrained`` reads its
``model.safetensors``. The pipeline's constants are taken from the public code: pictures' latents are scaled by 0.18215
(not SDXL's own 0.13025), clips' are shifted and scaled for each channel.

Differs from the paper's generator: encoding takes the posterior's mean, not a sample, since a plan compares latents.

Source: Open-Sora v1.2, ``opensora/models/vae/vae.py`` (``OpenSoraVAE_V1_2``).

Shapes: frames ``(..., 3, height, width)`` in [-1, 1] (or uint8), their latents ``(..., 4, height / 8, width / 8)``; a
clip's pictures ``(B, T, 4, h, w)``, compressed ``(B, K, 4, h, w)``.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from colaworld.models.codec import to_signed
from colaworld.models.frame_groups import FrameGroups
from colaworld.models.opensora_vae_temporal import TemporalVAE
from colaworld.models.opensora_weights import fill, is_published, local

PICTURE_SCALE = 0.18215
SHIFT = (-0.10, 0.34, 0.27, 0.98)
SCALE = (3.85, 2.32, 2.33, 3.06)


class PictureVAE(nn.Module):
    """``AutoencoderKL`` under the published name, a few frames at a time."""

    def __init__(self, widths: tuple[int, ...], layers: int, channels: int, groups: int, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.module = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            latent_channels=channels,
            norm_num_groups=groups,
            scaling_factor=PICTURE_SCALE,
        )

    def encode(self, frames: Tensor) -> Tensor:
        """``(N, 3, height, width)`` in [-1, 1] -> ``(N, C, h, w)``, the posterior's mean."""
        return torch.cat([self.module.encode(part).latent_dist.mode() for part in frames.split(self.batch)]).mul(
            PICTURE_SCALE
        )

    def decode(self, latents: Tensor) -> Tensor:
        """``(N, C, h, w)`` -> ``(N, 3, height, width)``."""
        return torch.cat([self.module.decode(part / PICTURE_SCALE).sample for part in latents.split(self.batch)])


class OpenSoraVAE(ModelMixin, ConfigMixin):
    """The codec. Raises ValueError when a frame's size is not ``(height, width)``, or for sizes that do not divide."""

    causal = False

    @register_to_config
    def __init__(
        self,
        *,
        height: int = 256,
        width: int = 256,
        chunk: int = 17,
        latent_channels: int = 4,
        picture_widths: tuple[int, ...] = (128, 256, 512, 512),
        picture_layers: int = 2,
        picture_batch: int = 4,
        temporal_widths: tuple[int, ...] = (128, 256, 256, 512),
        temporal_blocks: int = 4,
        compress: tuple[bool, ...] = (False, True, True),
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.shrink = 2 ** (len(picture_widths) - 1)
        if height % self.shrink or width % self.shrink:
            raise ValueError(f"frames of {height}x{width} do not divide by {self.shrink}")
        if latent_channels != len(SHIFT):
            raise ValueError(f"shift and scale are of {len(SHIFT)} channels, got latent_channels={latent_channels}")
        self.spatial_vae = PictureVAE(tuple(picture_widths), picture_layers, latent_channels, groups, picture_batch)
        self.temporal_vae = TemporalVAE(
            channels=latent_channels,
            widths=tuple(temporal_widths),
            blocks=temporal_blocks,
            compress=tuple(compress),
            groups=groups,
        )
        self.frame_groups = FrameGroups(size=self.temporal_vae.factor, chunk=chunk)
        self.register_buffer("shift", rearrange(torch.tensor(SHIFT), "c -> 1 c 1 1 1"))
        self.register_buffer("scale", rearrange(torch.tensor(SCALE), "c -> 1 c 1 1 1"))

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> "OpenSoraVAE":
        """What ``save_pretrained`` wrote, or a folder (or hub name) of published weights, for which ``options`` are
        sizes of this class. Names and shapes must all fit: ValueError with the file and the name.
        """
        if not is_published(source):
            return super().from_pretrained(source, **options)
        with torch.device("meta"):
            model = cls(**options)
        fill(model, local(source))
        return model.eval()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)`` of one latent."""
        sizes = self.config
        return sizes.latent_channels, sizes.height // self.shrink, sizes.width // self.shrink

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """As ``ClipCodec.clip_shape``: the same."""
        return self.latent_shape

    def encode(self, frames: Tensor) -> Tensor:
        """Frames ``(..., 3, height, width)``, uint8 or in [-1, 1] -> latents ``(..., C, h, w)``, one a frame."""
        expected = (3, self.config.height, self.config.width)
        if tuple(frames.shape[-3:]) != expected:
            raise ValueError(f"frames have shape {tuple(frames.shape[-3:])}, the codec was made for {expected}")
        signed = to_signed(frames) if frames.dtype == torch.uint8 else frames
        latents = self.spatial_vae.encode(signed.reshape(-1, *expected))
        if self.config.chunk == 1:
            latents = self.compress(latents[:, None])[:, 0]
        return latents.reshape(*frames.shape[:-3], *latents.shape[1:])

    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(..., C, h, w)``, one a frame -> frames in [-1, 1] ``(..., 3, height, width)``."""
        flat = latents.reshape(-1, *latents.shape[-3:])
        if self.config.chunk == 1:
            flat = self.expand(flat[:, None])[:, 0]
        pixels = self.spatial_vae.decode(flat).clamp(-1.0, 1.0)
        return pixels.reshape(*latents.shape[:-3], *pixels.shape[1:])

    def compress(self, pictures: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A clip's pictures ``(B, T, C, h, w)`` -> ``(B, K, C, h, w)``: the posterior's mean, or with a ``generator`` a
        sample, as in the published training.
        """
        found = []
        for part in rearrange(pictures, "b t c h w -> b c t h w").split(self.config.chunk, dim=2):
            posterior = self.temporal_vae.encode(part)
            found.append(posterior.mode() if generator is None else posterior.sample(generator))
        latents = (torch.cat(found, dim=2) - self.shift) / self.scale
        return rearrange(latents, "b c k h w -> b k c h w")

    def expand(self, latents: Tensor, frames: int | None = None) -> Tensor:
        """Latents ``(B, K, C, h, w)`` of a clip from its beginning -> its pictures ``(B, T, C, h, w)``.

        ``frames``: T (None: as many as K latents usually are, 17 of 5). ValueError where they do not make K latents.
        """
        frames = self.frame_groups.frames(latents.shape[1]) if frames is None else frames
        if self.frame_groups.latents(frames) != latents.shape[1]:
            raise ValueError(
                f"{frames} frames are {self.frame_groups.latents(frames)} latents, got {latents.shape[1]}"
            )
        raw = rearrange(latents, "b k c h w -> b c k h w") * self.scale + self.shift
        chunk, pictures = self.config.chunk, []
        for number, part in enumerate(raw.split(self.frame_groups.latents(chunk), dim=2)):
            pictures.append(self.temporal_vae.decode(part, min(chunk, frames - number * chunk)))
        return rearrange(torch.cat(pictures, dim=2), "b c t h w -> b t c h w")
