"""A small convolutional world model: the next frame from the last few, for data and machines too small for attention.

The velocity of a noised frame is read off that frame and the ``context`` clean frames before it, stacked as channels,
by residual blocks (diffusers') at the latents' own resolution; flow time and actions scale and shift every block. What
moves an arm in one place moves it in another, which a transformer over patches has to learn place by place: on 22
LIBERO scenes this one has the smaller error after fewer steps (``results/backbones``).

It remembers frames, not keys and values: a clean frame costs nothing to remember, and what left the last ``context``
frames is forgotten. Published video models have no such limit.

Shapes: latents ``(B, F, C, h, w)``, flow time ``(B, F)`` in [0, 1] (0 source, 1 data), action modulation ``(B, F, 6,
W)``; the cache's keys are the frames themselves, ``(B, h w, 1, T, C)``, its values are empty.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from colaworld.models.backbones import CausalFrames
from colaworld.models.blocks import Slots, TemporalCache, check_positions
from colaworld.models.video_transformer import TIME_SCALE


class ConvBackbone(CausalFrames, ModelMixin, ConfigMixin):
    """Velocity of noised frames given the clean frames just before them.

    ``mlp_ratio``: channels between a block's two convolutions, in units of ``width``. Raises ValueError when a frame's
    position reaches ``max_frames``.
    """

    _no_split_modules = ["ResnetBlock2D"]
    remembers_frames = True

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 8,
        latent_height: int = 8,
        latent_width: int = 8,
        width: int = 96,
        depth: int = 6,
        mlp_ratio: float = 1.0,
        groups: int = 8,
        context: int = 2,
        max_frames: int = 16,
    ) -> None:
        super().__init__()
        if context < 1:
            raise ValueError(f"context must be 1 or more, got {context}")
        between = int(width * mlp_ratio)
        if groups < 1 or width % groups or between % groups:
            raise ValueError(f"width {width} and the {between} channels within a block must divide by {groups} groups")
        self._lay_out(latent_height, latent_width, 1)
        self.embed = nn.Conv2d(latent_channels * (1 + context), width, 3, padding=1)
        self.place = nn.Parameter(0.02 * torch.randn(width, latent_height, latent_width))
        self.time_features = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(256, width)
        self.time_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(
            ResnetBlock2D(
                in_channels=width,
                out_channels=between,
                conv_2d_out_channels=width,
                temb_channels=6 * width,
                groups=groups,
                time_embedding_norm="scale_shift",
            )
            for _ in range(depth)
        )
        self.final_norm = nn.GroupNorm(groups, width)
        self.unembed = nn.Conv2d(width, latent_channels, 3, padding=1)
        for last in (*(block.conv2 for block in self.blocks), self.unembed):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self,
        latents: Tensor,
        time: Tensor,
        positions: Tensor,
        *,
        action_modulation: Tensor | None = None,
        mask: Tensor | None = None,
        cache: TemporalCache | None = None,
    ) -> tuple[Tensor, TemporalCache]:
        """Velocity ``(B, F, C, h, w)`` and the cache with these frames appended.

        Of the frames that the ``mask (F, cached + F)`` bool lets each see (None: all), the ``context`` latest ones
        count, itself left out.
        """
        check_positions(positions, self.config.max_frames)
        seen, own = _appended(latents, cache)
        count = seen.shape[1]
        visible = torch.ones(len(own), count, dtype=torch.bool, device=own.device) if mask is None else mask
        places = torch.arange(count, device=own.device)
        order = torch.where(visible & (places != own[:, None]), places, -1)
        order = F.pad(order, (0, max(0, self.config.context - count)), value=-1)
        latest = order.topk(self.config.context, dim=1).values
        recent = torch.where((latest >= 0)[..., None, None, None], seen[:, latest.clamp(min=0)], 0.0)
        return self._velocity(latents, time, recent, action_modulation), _memory(seen, cache)

    def two_streams(
        self, clean: Tensor, noised: Tensor, time: Tensor, *, action_modulation: Tensor | None = None
    ) -> Tensor:
        """As ``CausalFrames``, without a pass over the clean frames, of which nothing is wanted."""
        check_positions(torch.tensor([clean.shape[1]]), self.config.max_frames)
        count = clean.shape[1]
        recent = [F.pad(clean, (0,) * 6 + (back, 0))[:, :count] for back in range(self.config.context)]
        return self._velocity(noised, time, torch.stack(recent, dim=2), action_modulation)

    def remember(self, clean: Tensor, cache: TemporalCache | None = None) -> TemporalCache:
        """Append clean frames ``(B, F, C, h, w)`` to the cache; into their places where it is made of ``Slots``."""
        seen, own = _appended(clean, cache)
        check_positions(own, self.config.max_frames)
        return _memory(seen, cache)

    def _velocity(self, noised: Tensor, time: Tensor, recent: Tensor, action_modulation: Tensor | None) -> Tensor:
        """Of ``noised (B, F, C, h, w)``, each after its ``recent (B, F, context, C, h, w)``, latest first."""
        batch = len(noised)
        x = torch.cat([noised[:, :, None], recent], dim=2)
        x = self.embed(rearrange(x, "b f k c h w -> (b f) (k c) h w")) + self.place
        features = self.time_features(rearrange(time * TIME_SCALE, "b f -> (b f)")).to(x.dtype)
        told = self.time_modulation(self.time_embedding(features))
        if action_modulation is not None:
            told = told + rearrange(action_modulation, "b f six w -> (b f) (six w)")
        for block in self.blocks:
            x = self._run(block, x, told)
        x = self.unembed(F.silu(self.final_norm(x)))
        return rearrange(x, "(b f) c h w -> b f c h w", b=batch)


def _pair(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Frames ``(B, T, C, h, w)`` as keys, and values of no width."""
    keys = rearrange(frames, "b t c h w -> b (h w) 1 t c")
    return keys, keys[..., :0]


def _memory(seen: Tensor, cache: TemporalCache | None) -> TemporalCache:
    """A cache of the frames ``seen (B, T, C, h, w)``; ``cache`` itself where they were written into it."""
    if cache is not None and cache.keys and isinstance(cache.keys[0], Slots):
        return cache
    memory = TemporalCache()
    memory.add(_pair(seen))
    return memory


def _appended(latents: Tensor, cache: TemporalCache | None) -> tuple[Tensor, Tensor]:
    """All frames ``(B, T, C, h, w)``, and where ``latents (B, F, C, h, w)`` lie among them, ``(F,)``."""
    height, count = latents.shape[-2], latents.shape[1]
    past = None if cache is None else cache.past(0)
    if past is None:
        return latents, torch.arange(count, device=latents.device)
    kept = past[0]
    if isinstance(kept, Slots):
        kept.buffer.index_copy_(3, kept.places, _pair(latents)[0])
        return rearrange(kept.buffer, "b (h w) 1 t c -> b t c h w", h=height), kept.places
    seen = torch.cat([rearrange(kept, "b (h w) 1 t c -> b t c h w", h=height), latents], dim=1)
    return seen, torch.arange(seen.shape[1] - count, seen.shape[1], device=latents.device)
