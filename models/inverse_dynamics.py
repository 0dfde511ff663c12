"""Inverse dynamics model: which latent action leads from one frame to the next?

A spatio-temporal transformer from scratch. Each step's window of ``history`` + 2 frames is a clip of its own, so the
code of step t can depend on frames t - history .. t + 1 and on nothing else, whatever the depth. Every frame comes with
its change since the one before, and the last frame's patches are read together: learned action tokens, the other common
choice, start out nearly the same for every input, and codes that start out the same are swept into one entry before
they are of any use.

Differs from the paper: it reads the codec's latents, not pixels (paper: 224-pixel patches, 12 layers, width 768, 12
heads).

Shapes: latents ``(B, T, C, h, w)`` -> raw latent actions ``(B, T - 1, D)``, before the bottleneck.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, repeat
from torch import Tensor, nn

from colaworld.models.blocks import Block
from colaworld.models.checkpointed import Checkpointed


class InverseDynamics(Checkpointed, ModelMixin, ConfigMixin):
    """Raises ValueError on clips of fewer than two frames."""

    _no_split_modules = ["Block"]

    @register_to_config
    def __init__(
        self,
        *,
        output_dim: int = 64,
        latent_channels: int = 8,
        latent_height: int = 8,
        latent_width: int = 8,
        patch: int = 2,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        history: int = 0,
        patch_width: int = 16,
    ) -> None:
        super().__init__()
        if history < 0:
            raise ValueError(f"history must not be negative, got {history}")
        patches = (latent_height // patch) * (latent_width // patch)
        self.embed = nn.Linear(2 * latent_channels * patch**2, width)
        self.patch_position = nn.Parameter(0.02 * torch.randn(patches, width))
        self.frame_position = nn.Parameter(0.02 * torch.randn(history + 2, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, temporal=temporal, mlp_ratio=mlp_ratio, gate=1.0)
            for _ in range(depth)
            for temporal in (True, False)
        )
        self.final_norm = nn.LayerNorm(width)
        self.read_patch = nn.Linear(width, patch_width)
        self.readout = nn.Linear(patches * patch_width, output_dim)

    def forward(self, latents: Tensor) -> Tensor:
        """``(B, T, C, h, w) -> (B, T - 1, output_dim)``."""
        batch, frames = latents.shape[:2]
        if frames < 2:
            raise ValueError(f"inverse dynamics needs at least 2 frames, got {frames}")
        length = self.config.history + 2
        if self.config.history:  # before the clip, its first frame stands still
            latents = torch.cat(
                [repeat(latents[:, :1], "b 1 c h w -> b n c h w", n=self.config.history), latents], dim=1
            )
        windows = rearrange(latents.unfold(1, length, 1), "b n c h w t -> (b n) t c h w")
        change = torch.cat([torch.zeros_like(windows[:, :1]), windows[:, 1:] - windows[:, :-1]], dim=1)
        p = self.config.patch
        patches = rearrange(torch.cat([windows, change], dim=2), "b t c (i p) (j q) -> b t (i j) (c p q)", p=p, q=p)
        x = self.embed(patches) + self.patch_position + self.frame_position[:, None]
        for block in self.blocks:
            x, _ = self._run(block, x, None)
        read = self.read_patch(self.final_norm(x[:, -1]))
        return self.readout(rearrange(read, "(b n) p s -> b n (p s)", b=batch))
