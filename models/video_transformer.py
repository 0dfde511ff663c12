"""The video world model: a causal transformer that predicts the flow velocity of each frame's latent.

After OpenSora's STDiT3 (attention over space and over time in turn, AdaLN-single), text removed and time made causal.
Every frame has a flow time of its own. Frames come in two kinds: *clean* ones (time 1), which see the clean frames up
to themselves, and *noised* ones, which see the clean frames strictly before them and themselves. Training runs both
kinds of all frames side by side under one mask (``two_streams``); imagining runs one noised frame, then the same frame
clean, against a cache of the clean frames' keys and values. Both compute the same thing, which a test holds.

Differs from the paper: clean frames carry no action modulation. What they show already happened, and a plan can then
start from frames alone.

Shapes: latents ``(B, F, C, h, w)``, flow time ``(B, F)`` in [0, 1] (0 source, 1 data), action modulation ``(B, F, 6,
W)``.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from colaworld.models.backbones import CausalFrames
from colaworld.models.blocks import Block, TemporalCache, check_positions

TIME_SCALE = 1000.0  # flow time in [0, 1] to the range that sinusoidal timestep features are made for


class VideoTransformer(CausalFrames, ModelMixin, ConfigMixin):
    """Velocity of noised frames given clean earlier frames.

    Raises ValueError when a frame's position reaches ``max_frames``.
    """

    _no_split_modules = ["Block"]

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 8,
        latent_height: int = 8,
        latent_width: int = 8,
        patch: int = 2,
        width: int = 192,
        depth: int = 3,
        heads: int = 6,
        mlp_ratio: float = 2.0,
        max_frames: int = 16,
    ) -> None:
        super().__init__()
        self._lay_out(latent_height, latent_width, patch)
        token = latent_channels * patch**2
        self.embed = nn.Linear(token, width)
        self.patch_position = nn.Parameter(0.02 * torch.randn(self.rows * self.columns, width))
        self.frame_position = nn.Parameter(0.02 * torch.randn(max_frames, width))
        self.time_features = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(256, width)
        self.time_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(
            Block(width, heads, temporal=temporal, mlp_ratio=mlp_ratio)
            for _ in range(depth)
            for temporal in (False, True)
        )
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.final_table = nn.Parameter(torch.zeros(2, width))
        self.unembed = nn.Linear(width, token)
        nn.init.zeros_(self.unembed.weight)
        nn.init.zeros_(self.unembed.bias)

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

        ``positions (F,)`` is each frame's place in the clip; ``mask (F, cached + F)`` bool says which frames each may
        see (None: all).
        """
        check_positions(positions, self.config.max_frames)
        patch = self.config.patch
        x = self.embed(rearrange(latents, "b f c (i p) (j q) -> b f (i j) (c p q)", p=patch, q=patch))
        x = x + self.patch_position + self.frame_position[positions][:, None]
        features = self.time_features(rearrange(time * TIME_SCALE, "b f -> (b f)")).to(x.dtype)
        embedded = rearrange(self.time_embedding(features), "(b f) w -> b f w", b=len(time))
        modulation = rearrange(self.time_modulation(embedded), "b f (six w) -> b f six w", six=6)
        if action_modulation is not None:
            modulation = modulation + action_modulation
        seen = TemporalCache()
        for block in self.blocks:
            past = cache.past(len(seen.keys)) if block.temporal and cache is not None else None
            x, pair = self._run(block, x, modulation, mask if block.temporal else None, past)
            if pair is not None:
                seen.add(pair)
        shift, scale = (self.final_table + embedded[:, :, None, None]).unbind(dim=-2)
        x = self.unembed(self.final_norm(x) * (1.0 + scale) + shift)
        velocity = rearrange(x, "b f (i j) (c p q) -> b f c (i p) (j q)", i=self.rows, p=patch, q=patch)
        return velocity, seen
