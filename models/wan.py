"""Wan 2.1 as a world model: diffusers' blocks and weights, attention made causal, a flow time for every frame.

Everything with weights is diffusers' own (``WanTransformer3DModel``'s layers, run by their own ``forward``), under its
names, so that ``WanBackbone.from_pretrained`` reads the ``transformer`` folder of ``Wan-AI/Wan2.1-T2V-1.3B-Diffusers``
as it is; ``load_published`` also says what of it was left out. New is who sees whom (``space_time``). Rotary positions
are a frame's number in the clip, whatever is cached.

The action branch is a conditioner of its own: its output is added to the six-way modulation of every block, per frame,
and starts at zero. Wan's timestep is 0 for data, and its velocity is noise - data: converted here, at the door.

``text=True`` is the published network unchanged: with one time for all frames and no mask it computes what diffusers'
does. Wan was trained so, with one timestep a clip, every frame seeing every other; a clean frame is one at timestep 0.

Differs from the paper, whose generator is OpenSora: all of this. Clean frames carry no action modulation, as in
``VideoTransformer``.

Shapes: latents ``(B, F, C, h, w)``, flow time ``(B, F)`` in [0, 1], action modulation ``(B, F, 6, W)``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, repeat
from torch import Tensor, nn

from colaworld.models.backbones import DIFFUSERS
from colaworld.models.blocks import TemporalCache, check_positions
from colaworld.models.space_time import FramesProcessor, Nothing, SpaceTime
from colaworld.models.wan_weights import PUBLISHED, checked, is_text, sizes

WAN_1_3B = {"width": 1536, "depth": 30, "heads": 12, "mlp_ratio": 8960 / 1536}
"""Wan 2.1 T2V 1.3B, which was published; also the defaults."""


class WanBackbone(SpaceTime, ModelMixin, ConfigMixin):
    """Velocity of noised frames given clean earlier frames; a ``Backbone``.

    Raises ValueError for sizes that do not divide, and when a frame's position reaches ``max_frames``.
    """

    _no_split_modules = WanTransformer3DModel._no_split_modules
    _keep_in_fp32_modules = WanTransformer3DModel._keep_in_fp32_modules

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 16,
        latent_height: int = 32,
        latent_width: int = 32,
        patch: int = 2,
        width: int = 1536,
        depth: int = 30,
        heads: int = 12,
        mlp_ratio: float = 8960 / 1536,
        max_frames: int = 21,
        freq_dim: int = 256,
        text: bool = False,
        text_dim: int = 4096,
    ) -> None:
        super().__init__()
        self._lay_out(latent_height, latent_width, patch)
        if width % heads or width // heads % 2 or width // heads < 6:
            raise ValueError(f"width {width} does not make {heads} heads of an even width of 6 or more")
        made = WanTransformer3DModel(
            patch_size=(1, patch, patch),
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=latent_channels,
            out_channels=latent_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=round(width * mlp_ratio),
            num_layers=depth,
            rope_max_seq_len=max(max_frames, self.rows, self.columns),
        )
        self.rope, self.patch_embedding = made.rope, made.patch_embedding
        self.condition_embedder, self.blocks = made.condition_embedder, made.blocks
        self.norm_out, self.proj_out = made.norm_out, made.proj_out
        self.scale_shift_table = made.scale_shift_table
        for block in self.blocks:
            block.attn1.set_processor(FramesProcessor())
            if not text:
                block.attn2, block.norm2 = Nothing(), nn.Identity()
        if not text:
            self.condition_embedder.text_embedder = nn.Identity()
        nn.init.zeros_(self.proj_out.weight)  # as Wan starts its training
        nn.init.zeros_(self.proj_out.bias)

    @classmethod
    def load_config(cls, source: str | Path, **options: Any) -> Any:
        """As diffusers', with what the published ``config.json`` says in our names."""
        found = super().load_config(source, **options)
        config, *others = found if isinstance(found, tuple) else (found,)
        if config.get("_class_name") == PUBLISHED:
            where = Path(source) / (options.get("subfolder") or "") / cls.config_name
            config = sizes(config, where, options)
        return (config, *others) if isinstance(found, tuple) else config

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Any:
        """What ``save_pretrained`` wrote, or diffusers' ``transformer`` folder (or hub name and ``subfolder``) of
        published weights, for which ``options`` may also be arguments of this class that it does not say
        (``latent_height``, ``latent_width``, ``max_frames``, ``text``). Everything else is diffusers'
        ``from_pretrained``, from safetensors alone; ``output_loading_info=True`` also returns what was dropped
        (``unexpected_keys``).

        ValueError for names without a place (text layers may be left over) or missing, for shapes that do not fit, and
        for sizes that the folder contradicts; OSError for files that are missing or damaged.
        """
        listed = options.pop("output_loading_info", False)
        options = {"use_safetensors": True} | options
        options.pop("low_cpu_mem_usage", None)  # diffusers insists on it where something is kept in float32
        model, found = super().from_pretrained(source, output_loading_info=True, **options)
        checked(found, source, is_text if not model.config.text else lambda name: False)
        return (model, found) if listed else model

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
        """As ``Backbone.forward``. ``caption (B, L, text_dim)``: UMT5's features, for ``text`` alone (None: none, which
        is padding throughout; the empty prompt that Wan knows has one token more).
        """
        check_positions(positions, self.config.max_frames)
        if caption is not None and not self.config.text:
            raise ValueError("a caption needs text=True; the text layers were dropped")
        batch = len(latents)
        x = self.patch_embedding(rearrange(latents, "b f c h w -> b c f h w"))
        x = rearrange(x, "b w f i j -> (b f) (i j) w")
        embedded, modulation, told = self._conditions(x, time, caption)
        if action_modulation is not None:
            modulation = modulation + rearrange(action_modulation, "b f six w -> (b f) six w")
        x, seen = self._attended(self.blocks, x, told, modulation, self._turn(positions), mask, cache)
        shift, scale = (self.scale_shift_table + embedded[:, None]).chunk(2, dim=1)
        x = self.proj_out((self.norm_out(x.float()) * (1.0 + scale) + shift).type_as(x))
        patch = self.config.patch
        output = rearrange(x, "(b f) (i j) (p q c) -> b f c (i p) (j q)", b=batch, i=self.rows, p=patch, q=patch)
        return DIFFUSERS.velocity(output), seen

    def _conditions(self, x: Tensor, time: Tensor, caption: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of each frame: the time's embedding ``((B F), W)``, the modulation made of it ``((B F), 6, W)``, the caption
        ``((B F), L, W)`` (without text, of no meaning).
        """
        told = x
        if self.config.text:
            told = x.new_zeros(len(time), 1, self.config.text_dim) if caption is None else caption.to(x.dtype)
        timestep = rearrange(DIFFUSERS.timestep(time.float()), "b f -> (b f)")
        embedded, modulation, told, _ = self.condition_embedder(timestep, told)
        if self.config.text:
            told = repeat(told, "b l w -> (b f) l w", f=time.shape[1])
        return embedded, rearrange(modulation, "n (six w) -> n six w", six=6), told

    def _turn(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Wan's own rotations of these frames: cosines and sines ``(P, 1, F, d / 2)``."""
        _, height, width = self.latent_shape
        whole_clip = torch.empty(1, 1, self.config.max_frames, height, width, device=positions.device)
        cos, sin = (
            rearrange(part, "1 (f p) 1 d -> p 1 f d", f=self.config.max_frames)[:, :, positions]
            for part in self.rope(whole_clip)
        )
        return cos[..., 0::2], sin[..., 1::2]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was read. The action conditioner is not part of it: all of that is new."""

    model: WanBackbone
    dropped: tuple[str, ...]
    """Names in the weights that the model has no place for: the text layers, unless ``text``."""
    new: tuple[str, ...]
    """Names in the model that the weights lack: none."""


def load_published(source: str | Path, *, text: bool = False, **options: Any) -> Published:
    """``WanBackbone.from_pretrained``, with a list of what was dropped and what is new."""
    model, found = WanBackbone.from_pretrained(source, text=text, output_loading_info=True, **options)
    dropped, new = (tuple(sorted(found[name])) for name in ("unexpected_keys", "missing_keys"))
    return Published(model=model, dropped=dropped, new=new)
