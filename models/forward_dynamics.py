"""Forward dynamics model: the previous frame and a latent action to the next frame. Two-stage training alone has one.

Two-stage training (LAPA, Genie and others) learns the latent action model first, with this small decoder in the place
of a video world model. Paper: a spatial transformer of 12 layers over the previous frame's patches and the action
tokens, pixel output. Here its size follows the preset, and it may answer in the codec's latents instead.

Shapes: frames ``(B, N, C, h, w)`` (codec latents, or pixels in [-1, 1]), latent actions ``(B, N, D)``.
"""

from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from colaworld.models.blocks import Block
from colaworld.models.checkpointed import Checkpointed


class ForwardDynamics(Checkpointed, ModelMixin, ConfigMixin):
    """``output`` says what its frames are: ``"latent"`` or ``"pixel"``; ``channels``, ``rows`` and ``columns`` are
    their C, h and w.

    Raises ValueError when frames do not divide by ``patch`` or latent actions by ``tokens``.
    """

    _no_split_modules = ["Block"]

    @register_to_config
    def __init__(
        self,
        *,
        output: Literal["latent", "pixel"] = "latent",
        latent_action_dim: int = 64,
        tokens: int = 2,
        channels: int = 8,
        rows: int = 8,
        columns: int = 8,
        patch: int = 2,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        if output not in ("latent", "pixel"):
            raise ValueError(f"output must be 'latent' or 'pixel', got {output!r}")
        if rows % patch or columns % patch:
            raise ValueError(f"frames of {rows}x{columns} do not divide by patch {patch}")
        if latent_action_dim % tokens:
            raise ValueError(f"latent actions of width {latent_action_dim} do not divide into {tokens} tokens")
        self.rows, self.columns = rows // patch, columns // patch
        self.embed = nn.Linear(channels * patch**2, width)
        self.patch_position = nn.Parameter(0.02 * torch.randn(self.rows * self.columns, width))
        self.embed_action = nn.Linear(latent_action_dim // tokens, width)
        self.action_position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, temporal=False, mlp_ratio=mlp_ratio, gate=1.0) for _ in range(depth)
        )
        self.final_norm = nn.LayerNorm(width)
        # Not stated in the paper: it predicts the change, and starts as a copy of the last frame.
        self.unembed = nn.Linear(width, channels * patch**2)
        nn.init.zeros_(self.unembed.weight)
        nn.init.zeros_(self.unembed.bias)

    def forward(self, frames: Tensor, actions: Tensor) -> Tensor:
        """The frame ``(B, N, C, h, w)`` that each latent action leads to from its frame."""
        p = self.config.patch
        patches = self.embed(rearrange(frames, "b n c (i p) (j q) -> b n (i j) (c p q)", p=p, q=p))
        tokens = self.embed_action(rearrange(actions, "b n (k d) -> b n k d", k=self.config.tokens))
        x = torch.cat([patches + self.patch_position, tokens + self.action_position], dim=2)
        for block in self.blocks:
            x, _ = self._run(block, x, None)
        change = self.unembed(self.final_norm(x[:, :, : patches.shape[2]]))
        return frames + rearrange(
            change, "b n (i j) (c p q) -> b n c (i p) (j q)", i=self.rows, j=self.columns, p=p, q=p
        )
