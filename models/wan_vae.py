"""Wan 2.1's VAE as a codec of clips: diffusers' ``AutoencoderKLWan``, causal, with its mean and deviation of latents.

8x8 pixels become one latent of 16 channels, and four frames one latent, the first frame of a clip being a latent of its
own: 17 frames are 5 latents. ``FrameGroups`` says which frames lie where. Clips have 4 n + 1 frames; the last frames of
others diffusers would leave out without a word, so they are refused.

``chunk`` frames are encoded at a time (None: the whole clip, as published). With ``chunk=1`` every frame is a clip of
its own: one latent a frame, one latent action a latent, and the codec is used as ``FrameCodec`` is, frames in any
leading shape. That costs four times as many latents. ``WanClips`` is this codec with four frames to a latent in the
world model.

``WanVAE.from_pretrained`` reads the ``vae`` folder of ``Wan-AI/Wan2.1-T2V-1.3B-Diffusers`` as it is.

Differs from the published training: encoding takes the posterior's mean, not a sample, since a plan compares latents.

Shapes: clips ``(B, T, 3, height, width)`` in [-1, 1] (or uint8), latents ``(B, K, C, height / 8, width / 8)``.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor

from colaworld.models.codec import to_signed
from colaworld.models.frame_groups import FrameGroups
from colaworld.models.wan_weights import checked

FACTOR = 4
"""Frames of one latent, fixed in diffusers' code."""
OURS = ("height", "width", "chunk", "batch")
"""Arguments that published weights do not say."""


class WanVAE(ModelMixin, ConfigMixin):
    """The codec. ``sizes`` are arguments of ``AutoencoderKLWan``, ``batch`` clips go through it at once.

    Raises ValueError when a frame's size is not ``(height, width)``, for clips of other lengths, and for sizes that do
    not divide.
    """

    LEAD: int | None = None
    """``FrameGroups.lead``."""

    @register_to_config
    def __init__(
        self,
        *,
        height: int = 256,
        width: int = 256,
        chunk: int | None = None,
        batch: int = 4,
        sizes: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.module = AutoencoderKLWan(**(sizes or {}))
        made = self.module.config
        self.shrink = 2 ** (len(made.dim_mult) - 1) * (made.patch_size or 1)
        if height % self.shrink or width % self.shrink:
            raise ValueError(f"frames of {height}x{width} do not divide by {self.shrink}")
        if 2 ** sum(made.temperal_downsample) != FACTOR:
            raise ValueError(f"temperal_downsample must hold two True, got {made.temperal_downsample}")
        if chunk is not None and (chunk < 1 or chunk % FACTOR != 1):
            raise ValueError(f"chunk must be {FACTOR} n + 1 frames or None, got {chunk}")
        if not len(made.latents_mean) == len(made.latents_std) == made.z_dim:
            raise ValueError(f"latents_mean and latents_std must have z_dim={made.z_dim} numbers")
        self.frame_groups = FrameGroups(size=FACTOR, chunk=chunk, lead=self.LEAD)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Any:
        """What ``save_pretrained`` wrote, or diffusers' ``vae`` folder (or hub name and ``subfolder``), for which
        ``options`` are ``height``, ``width``, ``chunk``, ``batch`` and what diffusers' ``from_pretrained`` takes. Names
        and shapes must all fit: ValueError. Only safetensors are read.
        """
        ours = {name: options.pop(name) for name in OURS if name in options}
        options = {"use_safetensors": True} | options
        config = cls.load_config(source, subfolder=options.get("subfolder"))
        if config.get("_class_name") != AutoencoderKLWan.__name__:
            return super().from_pretrained(source, **options, **ours)
        listed = options.pop("output_loading_info", False)
        module, found = AutoencoderKLWan.from_pretrained(source, output_loading_info=True, **options)
        checked(found, source)
        sizes = {name: value for name, value in module.config.items() if not name.startswith("_")}
        with torch.device("meta"):
            model = cls(sizes=sizes, **ours)
        model.module = module
        return (model.eval(), found) if listed else model.eval()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)`` of one latent."""
        return self.clip_shape

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """As ``ClipCodec.clip_shape``."""
        return self.module.config.z_dim, self.config.height // self.shrink, self.config.width // self.shrink

    def encode(self, clips: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Clips ``(B, T, 3, height, width)`` -> latents ``(B, K, C, h, w)``: the posterior's mean, or with a
        ``generator`` a sample, as in the published training. With chunk 1 frames ``(..., 3, height, width)`` ->
        ``(..., C, h, w)``.
        """
        pixels = self._pixels(clips)
        if self.config.chunk == 1:
            return self._encoded_alone(pixels, generator)
        chunks = pixels.split(self.config.chunk or pixels.shape[1], dim=1)
        if chunks[-1].shape[1] % FACTOR != 1:
            raise ValueError(f"clips must have {FACTOR} n + 1 frames, got {chunks[-1].shape[1]} in the last chunk")
        return torch.cat([self._encoded(part, generator) for part in chunks], dim=1)

    def decode(self, latents: Tensor, frames: int | None = None) -> Tensor:
        """Latents ``(B, K, C, h, w)`` of a clip from its beginning -> frames in [-1, 1] ``(B, T, 3, height, width)``.

        ``frames``: T, which K latents say already (17 of 5); ValueError for another. With chunk 1 latents
        ``(..., C, h, w)`` -> ``(..., 3, height, width)``.
        """
        if frames is not None and self.frame_groups.frames(latents.shape[1]) != frames:
            held = self.frame_groups.frames(latents.shape[1])
            raise ValueError(f"{latents.shape[1]} latents are {held} frames, got frames={frames}")
        if self.config.chunk == 1:
            pixels = self._decoded(latents.reshape(-1, 1, *latents.shape[-3:]))
            return pixels.reshape(*latents.shape[:-3], *pixels.shape[2:])
        each = latents.shape[1] if self.config.chunk is None else self.frame_groups.latents(self.config.chunk)
        return torch.cat([self._decoded(part) for part in latents.split(each, dim=1)], dim=1)

    def _pixels(self, frames: Tensor) -> Tensor:
        expected = (3, self.config.height, self.config.width)
        if tuple(frames.shape[-3:]) != expected:
            raise ValueError(f"frames have shape {tuple(frames.shape[-3:])}, the codec was made for {expected}")
        return to_signed(frames) if frames.dtype == torch.uint8 else frames

    def _encoded_alone(self, frames: Tensor, generator: torch.Generator | None) -> Tensor:
        """Signed ``(..., 3, height, width)`` -> ``(..., C, h, w)``."""
        latents = self._encoded(frames.reshape(-1, 1, *frames.shape[-3:]), generator)
        return latents.reshape(*frames.shape[:-3], *latents.shape[2:])

    def _encoded(self, clips: Tensor, generator: torch.Generator | None) -> Tensor:
        """Signed ``(N, T, 3, height, width)`` -> standardised ``(N, K, C, h, w)``."""
        found = []
        for part in rearrange(clips, "n t c h w -> n c t h w").split(self.config.batch):
            posterior = self.module.encode(part).latent_dist
            found.append(posterior.mode() if generator is None else posterior.sample(generator))
        latents = torch.cat(found)
        mean, std = self._statistics(latents)
        return rearrange((latents - mean) / std, "n c k h w -> n k c h w")

    def _decoded(self, latents: Tensor) -> Tensor:
        """Standardised ``(N, K, C, h, w)`` -> ``(N, T, 3, height, width)``, cut off at [-1, 1]."""
        mean, std = self._statistics(latents)
        raw = rearrange(latents, "n k c h w -> n c k h w") * std + mean
        pixels = torch.cat([self.module.decode(part).sample for part in raw.split(self.config.batch)])
        return rearrange(pixels, "n c t h w -> n t c h w")

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        made = self.module.config
        return tuple(
            torch.tensor(numbers, dtype=like.dtype, device=like.device)[:, None, None, None]
            for numbers in (made.latents_mean, made.latents_std)
        )
