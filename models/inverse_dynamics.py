"""Inverse dynamics model: which latent action leads from one frame to the next?

A spatio-temporal transformer from scratch. Each step's window of ``history`` + 2 frames is a clip of its own, so the code of step t can
depend on frames t - history .. t + 1 and on nothing else, whatever the depth. Learned action tokens (one for each code token) ride
along with every frame's patches and are read at the last frame.

Differs from the paper: it reads the codec's latents, not pixels (paper: 224-pixel patches, 12 layers, width 768, 12 heads).

Shapes: latents ``(B, T, C, h, w)`` -> raw latent actions ``(B, T - 1, D)``, before the bottleneck.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, repeat
from torch import Tensor, nn

from colaworld.models.blocks import Block


class InverseDynamics(ModelMixin, ConfigMixin):
    """Raises ValueError on clips of fewer than two frames."""

    @register_to_config
    def __init__(
        self,
        *,
        output_dim: int = 64,
        tokens: int = 2,
        latent_channels: int = 8,
        latent_height: int = 8,
        latent_width: int = 8,
        patch: int = 2,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        history: int = 0,
    ) -> None:
        super().__init__()
        if history < 0:
            raise ValueError(f"history must not be negative, got {history}")
        if output_dim % tokens:
            raise ValueError(f"output_dim {output_dim} does not divide by {tokens} tokens")
        patches = (latent_height // patch) * (latent_width // patch)
        self.embed = nn.Linear(latent_channels * patch**2, width)
        self.patch_position = nn.Parameter(0.02 * torch.randn(patches, width))
        self.frame_position = nn.Parameter(0.02 * torch.randn(history + 2, width))
        self.action_tokens = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, temporal=temporal, mlp_ratio=mlp_ratio, gate=1.0)
            for _ in range(depth)
            for temporal in (True, False)
        )
        self.final_norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, output_dim // tokens)

    def forward(self, latents: Tensor) -> Tensor:
        """``(B, T, C, h, w) -> (B, T - 1, output_dim)``."""
        batch, frames = latents.shape[:2]
        if frames < 2:
            raise ValueError(f"inverse dynamics needs at least 2 frames, got {frames}")
        length = self.config.history + 2
        if self.config.history:  # before the clip, its first frame stands still
            latents = torch.cat([repeat(latents[:, :1], "b 1 c h w -> b n c h w", n=self.config.history), latents], dim=1)
        windows = rearrange(latents.unfold(1, length, 1), "b n c h w t -> (b n) t c h w")
        p = self.config.patch
        x = self.embed(rearrange(windows, "b t c (i p) (j q) -> b t (i j) (c p q)", p=p, q=p)) + self.patch_position
        x = torch.cat([x, repeat(self.action_tokens, "k w -> b t k w", b=len(x), t=length)], dim=2)
        x = x + self.frame_position[:, None]
        for block in self.blocks:
            x, _ = block(x, None)
        read = self.readout(self.final_norm(x[:, -1, -len(self.action_tokens) :]))
        return rearrange(read, "(b n) k w -> b n (k w)", b=batch)
