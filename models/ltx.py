"""LTX-Video as a world model: diffusers' blocks, attention made causal, a flow time for every frame. An example of how
little another generator takes (``wan`` has published weights read as well).

Everything with weights is diffusers' own (``LTXVideoTransformer3DModel``'s layers), under its names; the text's are
left out. ``space_time`` makes blocks see what a mask over frames shows. LTX turns queries and keys over their whole
width, by a patch's place in seconds and pixels: ``fps`` (latents a second) and ``pixels`` (of a latent) are what its
pipeline tells it. Its timestep is 0 for data and its velocity noise - data: converted here, at the door.

Not done: its VAE (8 frames and 32x32 pixels to a latent), a preset, and a reader of published configs.

Shapes: latents ``(B, F, C, h, w)``, flow time ``(B, F)`` in [0, 1], action modulation ``(B, F, 6, W)``.
"""

import torch
from diffusers import LTXVideoTransformer3DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor

from colaworld.models.backbones import DIFFUSERS
from colaworld.models.blocks import TemporalCache, check_positions
from colaworld.models.space_time import FramesProcessor, Nothing, SpaceTime, Turn


class LTXBackbone(SpaceTime, ModelMixin, ConfigMixin):
    """Velocity of noised frames given clean earlier frames; a ``Backbone``.

    Raises ValueError for sizes that do not divide, and when a frame's position reaches ``max_frames``.
    """

    _no_split_modules = ["LTXVideoTransformerBlock"]

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 128,
        latent_height: int = 8,
        latent_width: int = 8,
        patch: int = 1,
        width: int = 2048,
        depth: int = 28,
        heads: int = 32,
        mlp_ratio: float = 4.0,
        max_frames: int = 21,
        fps: float = 25.0 / 8.0,
        pixels: int = 32,
    ) -> None:
        super().__init__()
        self._lay_out(latent_height, latent_width, patch)
        if width % heads or width // heads % 2:
            raise ValueError(f"width {width} does not make {heads} heads of even width")
        if mlp_ratio != 4.0:
            raise ValueError(f"mlp_ratio is fixed at 4 in diffusers' blocks, got {mlp_ratio}")
        made = LTXVideoTransformer3DModel(
            in_channels=latent_channels * patch**2,
            out_channels=latent_channels * patch**2,
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            cross_attention_dim=width,
            num_layers=depth,
        )
        self.rope, self.time_embed, self.scale_shift_table = made.rope, made.time_embed, made.scale_shift_table
        self.proj_in, self.norm_out, self.proj_out = made.proj_in, made.norm_out, made.proj_out
        self.transformer_blocks = made.transformer_blocks
        for block in self.transformer_blocks:
            block.attn1.set_processor(FramesProcessor())
            block.attn2 = Nothing()

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
        """As ``Backbone.forward``."""
        check_positions(positions, self.config.max_frames)
        batch, patch = len(latents), self.config.patch
        x = self.proj_in(rearrange(latents, "b f c (i p) (j q) -> (b f) (i j) (c p q)", p=patch, q=patch))
        timestep = rearrange(DIFFUSERS.timestep(time.float()), "b f -> (b f)")
        modulation, embedded = self.time_embed(timestep, hidden_dtype=x.dtype)
        if action_modulation is not None:
            modulation = modulation + rearrange(action_modulation, "b f six w -> (b f) (six w)")
        x, seen = self._attended(
            self.transformer_blocks, x, x, modulation[:, None], self._turn(positions), mask, cache
        )
        shift, scale = (self.scale_shift_table + embedded[:, None]).chunk(2, dim=1)
        x = self.proj_out(self.norm_out(x) * (1.0 + scale) + shift)
        output = rearrange(x, "(b f) (i j) (c p q) -> b f c (i p) (j q)", b=batch, i=self.rows, p=patch, q=patch)
        return DIFFUSERS.velocity(output), seen

    def _turn(self, positions: Tensor) -> Turn:
        """LTX's own rotations of these frames: cosines and sines ``(P, heads, F, d / 2)``."""
        places = torch.stack(torch.meshgrid(
            positions.float() / self.config.fps,
            torch.arange(self.rows, device=positions.device) * float(self.config.pixels * self.config.patch),
            torch.arange(self.columns, device=positions.device) * float(self.config.pixels * self.config.patch),
            indexing="ij",
        ))  # fmt: skip
        cos, sin = (
            rearrange(part, "1 (f p) (h d) -> p h f d", f=len(positions), h=self.config.heads)
            for part in self.rope(places, video_coords=places.flatten(1)[None])
        )
        return cos[..., 0::2], sin[..., 0::2]
