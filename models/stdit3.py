"""OpenSora 1.2's STDiT3 as a world model: its weights, text taken out, time made causal, a flow time for every frame.

The published network has one timestep a clip and lets every frame see every other; here every frame has its own, as
the published one already has for frames that are given (timestep 0), and a mask says who sees whom. Names and shapes
are those of the published weights, so that ``STDiT3.from_pretrained`` reads ``hpcai-tech/OpenSora-STDiT-v3`` as it is;
``load_published`` also says what of it was left out. The action branch is a conditioner of its own: its output is added
to the six-way modulation of every block, per frame, and starts at zero.

``text=True`` is the published network unchanged, caption layers included: with one time for all frames and no mask it
computes what the published one does.

Differs from the paper: clean frames carry no action modulation, as in ``VideoTransformer``. Not stated in the paper:
which frame rate OpenSora is told (``fps``).

Source: Open-Sora v1.2, ``opensora/models/stdit/stdit3.py``. Half of the 8 output channels are the variance that the
network was once trained to predict; flow matching reads the first half alone.

Shapes: latents ``(B, F, C, h, w)``, flow time ``(B, F)`` in [0, 1], action modulation ``(B, F, 6, W)``.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from colaworld.models.backbones import OPENSORA, CausalFrames
from colaworld.models.blocks import TemporalCache, check_positions
from colaworld.models.opensora_weights import is_published
from colaworld.models.stdit3_blocks import (
    CaptionEmbedder,
    FinalLayer,
    PatchEmbed3D,
    RotaryEmbedding,
    ScalarEmbedder,
    STDiT3Block,
    patch_positions,
)

PIXELS = 8
"""Pixels across one latent of OpenSora's VAE: positions are scaled by the picture's size in pixels."""

XL_2 = {"width": 1152, "depth": 28, "heads": 16, "mlp_ratio": 4.0}
"""STDiT3-XL/2, which was published."""

XL_2_ACTIONS = {"width": 1152, "depth": 6, "heads": 16, "mlp_ratio": 2.0, "video_width": 1152}
"""The paper's 6 action attention blocks and MLP. Not stated in the paper: their width; these come to its 74 M."""


class STDiT3(CausalFrames, ModelMixin, ConfigMixin):
    """Velocity of noised frames given clean earlier frames; a ``Backbone``.

    Raises ValueError for sizes that do not divide, and when a frame's position reaches ``max_frames``.
    """

    _no_split_modules = ["STDiT3Block"]

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 4,
        latent_height: int = 32,
        latent_width: int = 32,
        patch: int = 2,
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        max_frames: int = 30,
        input_sq_size: int = 512,
        fps: float = 24.0,
        pred_sigma: bool = True,
        text: bool = False,
        caption_channels: int = 4096,
        model_max_length: int = 300,
    ) -> None:
        super().__init__()
        self._lay_out(latent_height, latent_width, patch)
        if width % heads or width // heads % 2:
            raise ValueError(f"width {width} does not make {heads} heads of even width")
        if width % 4:
            raise ValueError(f"width must divide by 4, got {width}")
        self.rope = RotaryEmbedding(width // heads)
        self.x_embedder = PatchEmbed3D(latent_channels, width, patch)
        self.t_embedder = ScalarEmbedder(width)
        self.fps_embedder = ScalarEmbedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedder = CaptionEmbedder(caption_channels, width, model_max_length) if text else None
        blocks = [STDiT3Block(width, heads, mlp_ratio=mlp_ratio, text=text) for _ in range(2 * depth)]
        self.spatial_blocks, self.temporal_blocks = nn.ModuleList(blocks[:depth]), nn.ModuleList(blocks[depth:])
        self.final_layer = FinalLayer(width, patch**2 * latent_channels * (2 if pred_sigma else 1))
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """As published: temporal blocks start as identities, so that single pictures come first."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.fps_embedder.mlp[2].weight)
        for block in self.temporal_blocks:
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.fc2.weight)
            if block.cross_attn is not None:
                nn.init.zeros_(block.cross_attn.proj.weight)

    @classmethod
    def from_pretrained(cls, source: Any, **options: Any) -> "STDiT3":
        """What ``save_pretrained`` wrote, or a folder (or hub name) of published weights: see ``load_published``, which
        takes the same sizes and says what was dropped.
        """
        if not is_published(source):
            return super().from_pretrained(source, **options)
        from colaworld.models.stdit3_published import load_published  # which makes one of these

        return load_published(source, **options).model

    def forward(
        self,
        latents: Tensor,
        time: Tensor,
        positions: Tensor,
        *,
        action_modulation: Tensor | None = None,
        mask: Tensor | None = None,
        cache: TemporalCache | None = None,
        caption: Tensor | None = None,
    ) -> tuple[Tensor, TemporalCache]:
        """As ``Backbone.forward``. ``caption (B, L, caption_channels)``: T5's features, for ``text`` alone (None: the
        caption that says nothing).
        """
        check_positions(positions, self.config.max_frames)
        if caption is not None and self.y_embedder is None:
            raise ValueError("a caption needs text=True; the text layers were dropped")
        batch, patch = len(latents), self.config.patch
        x = self.x_embedder(rearrange(latents, "b f c h w -> b c f h w"))
        x = x + self._patch_positions(x.device).to(x.dtype)
        embedded = self._embedded(time)
        modulation = rearrange(self.t_block(embedded), "b f (six w) -> b f six w", six=6)
        if action_modulation is not None:
            modulation = modulation + action_modulation
        told = None if self.y_embedder is None else self.y_embedder(caption, batch)
        seen = TemporalCache()
        for number, (spatial, temporal) in enumerate(zip(self.spatial_blocks, self.temporal_blocks, strict=True)):
            x, _ = self._run(spatial, x, modulation, told)
            past = None if cache is None else cache.past(number)
            x, pair = self._run(temporal, x, modulation, told, self.rope, positions, mask, past)
            seen.add(pair)
        x = self.final_layer(x, embedded)
        output = rearrange(x, "b f (i j) (p q c) -> b f c (i p) (j q)", i=self.rows, p=patch, q=patch)
        return OPENSORA.velocity(output[:, :, : self.config.latent_channels]), seen

    def _embedded(self, time: Tensor) -> Tensor:
        """Flow time and frame rate ``(B, F, W)``, which the six-way modulation and the last layer are made of."""
        told = self.t_embedder(rearrange(OPENSORA.timestep(time), "b f -> (b f)"))
        rate = self.fps_embedder(torch.full((1,), self.config.fps, device=time.device))
        return rearrange(told + rate, "(b f) w -> b f w", b=len(time))

    def _patch_positions(self, device: torch.device) -> Tensor:
        _, height, width = self.latent_shape
        scale = PIXELS * (height * width) ** 0.5 / self.config.input_sq_size
        return patch_positions(self.rows, self.columns, self.config.width, scale, device)
