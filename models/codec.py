"""Frame codec: pixels to latents and back, one frame at a time.

The convolutional autoencoder is diffusers' ``AutoencoderKL`` over pixels folded space-to-depth (a fold of 4 makes
64x64x3 into 16x16x48: four times fewer operations than convolving at full size). Latents leave it standardised, so that
every flow starts from numbers of unit scale. Paper: the frozen VAE of the video generator; here it is small enough to
be trained on a CPU.

Shapes: frames ``(..., 3, height, width)`` in [-1, 1] (or uint8), latents ``(..., C, h, w)``; at 64x64 ``C, h, w = 8, 8,
8``.
"""

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor

from colaworld.models.share import Chance, draw

PIXELS_AT_ONCE = 64 * 64 * 64
"""Of the frames that a CPU encodes or decodes at once."""


def to_signed(frames: Tensor) -> Tensor:
    """uint8 frames to float32 in [-1, 1]."""
    return frames.float().div(127.5).sub(1.0)


class FrameCodec(ModelMixin, ConfigMixin):
    """An autoencoder of single frames.

    Raises ValueError when a frame's size is not ``(height, width)``.
    """

    @register_to_config
    def __init__(
        self,
        *,
        height: int = 64,
        width: int = 64,
        fold: int = 4,
        channels: tuple[int, ...] = (64, 64),
        layers_per_block: int = 1,
        latent_channels: int = 8,
        kl_weight: float = 1e-6,
        motion_weight: float = 4.0,
    ) -> None:
        super().__init__()
        shrink = fold * 2 ** (len(channels) - 1)
        if height % shrink or width % shrink:
            raise ValueError(f"frames of {height}x{width} do not divide by fold x downsampling = {shrink}")
        self.autoencoder = AutoencoderKL(
            in_channels=3 * fold**2,
            out_channels=3 * fold**2,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=8,
            sample_size=height // fold,
            mid_block_add_attention=False,
        )
        # Set once, from data, when the codec is trained (``standardise``): one mean and one std for each channel.
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)`` of one frame's latent."""
        shrink = self.config.fold * 2 ** (len(self.config.channels) - 1)
        return self.config.latent_channels, self.config.height // shrink, self.config.width // shrink

    def _posterior(self, frames: Tensor):
        if frames.shape[-3:] != (3, self.config.height, self.config.width):
            expected = (3, self.config.height, self.config.width)
            raise ValueError(f"frames have shape {tuple(frames.shape[-3:])}, the codec was made for {expected}")
        signed = to_signed(frames) if frames.dtype == torch.uint8 else frames
        folded = rearrange(signed, "n c (h i) (w j) -> n (c i j) h w", i=self.config.fold, j=self.config.fold)
        return self.autoencoder.encode(folded).latent_dist

    def _pixels(self, latents: Tensor) -> Tensor:
        folded = self.autoencoder.decode(latents).sample
        return rearrange(folded, "n (c i j) h w -> n c (h i) (w j)", i=self.config.fold, j=self.config.fold)

    def _scale(self) -> tuple[Tensor, Tensor]:
        return self.latent_mean[:, None, None], self.latent_std[:, None, None]

    def encode(self, frames: Tensor) -> Tensor:
        """Frames ``(..., 3, height, width)``, uint8 or float in [-1, 1] -> standardised latents ``(..., C, h, w)``
        (the mean).
        """
        mean, std = self._scale()
        batch = frames.shape[:-3]
        latents = self._in_parts(lambda part: self._posterior(part).mode(), frames.reshape(-1, *frames.shape[-3:]))
        return ((latents - mean) / std).reshape(*batch, *latents.shape[1:])

    def decode(self, latents: Tensor) -> Tensor:
        """Standardised latents ``(..., C, h, w)`` -> frames float in [-1, 1] ``(..., 3, height, width)``."""
        mean, std = self._scale()
        batch = latents.shape[:-3]
        frames = self._in_parts(self._pixels, latents.reshape(-1, *latents.shape[-3:]) * std + mean).clamp(-1.0, 1.0)
        return frames.reshape(*batch, *frames.shape[1:])

    def _in_parts(self, network: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
        """``network`` of ``frames (N, ...)``; on a CPU so many at a time that its layers' outputs stay in memory that
        is used again. Larger ones are given back to the system and fetched anew, layer by layer: four times as slow.
        """
        count = len(frames)
        if frames.device.type == "cpu":
            count = max(1, PIXELS_AT_ONCE // (self.config.height * self.config.width))
        if len(frames) <= count:
            return network(frames)
        return torch.cat([network(part) for part in frames.split(count)])

    def forward(self, clips: Tensor, generator: Chance | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss on clips uint8 ``(B, T, 3, height, width)``: weighted L1 + MSE, and a small KL term.

        A pixel weighs ``1 + motion_weight * m`` with m how far it stands from the mean of its clip (the static scene),
        so that the few pixels of gripper and objects are not outvoted by the table.
        """
        frames = to_signed(clips)
        moving = (frames - frames.mean(dim=1, keepdim=True)).abs().amax(dim=2, keepdim=True)
        weight = rearrange(1.0 + self.config.motion_weight * (4.0 * moving).clamp(max=1.0), "b t c h w -> (b t) c h w")
        flat = rearrange(frames, "b t c h w -> (b t) c h w")
        posterior = self._posterior(flat)
        decoded = self._pixels(_sampled(posterior, generator))
        error = decoded - flat
        reconstruction = (weight * (error.abs() + 2.0 * error.square())).mean()
        kl = posterior.kl().mean()
        loss = reconstruction + self.config.kl_weight * kl
        square = error.detach().square()
        mask = (weight > 1.0 + 0.4 * self.config.motion_weight).expand_as(square)
        metrics = {
            "reconstruction": reconstruction.detach(),
            "kl": kl.detach(),
            "psnr": 10.0 * torch.log10(4.0 / square.mean()),
            "psnr_moving": 10.0 * torch.log10(4.0 / square[mask].mean().clamp_min(1e-8)),
        }
        return loss, metrics

    @torch.no_grad()
    def standardise(self, frames: Tensor) -> None:
        """Set the latents' mean and std per channel from uint8 frames ``(N, 3, height, width)``; once, after
        training."""
        device = self.latent_mean.device
        raw = torch.cat([self._posterior(part.to(device)).mode() for part in frames.split(256)])
        self.latent_mean.copy_(raw.mean(dim=(0, 2, 3)))
        self.latent_std.copy_(raw.std(dim=(0, 2, 3)).clamp_min(1e-4))


def _sampled(posterior: DiagonalGaussianDistribution, chance: Chance | None) -> Tensor:
    """A draw; without anything to draw from, from torch's global generator."""
    if chance is None:
        return posterior.sample()
    return posterior.mean + posterior.std * draw(torch.randn, posterior.mean.shape, chance, posterior.mean.device)
