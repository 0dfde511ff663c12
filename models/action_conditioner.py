"""Action conditioning: latent actions to scale, shift and gate added to the video model's time modulation.

Paper: new self-attention blocks over the action sequence (6 of them), then an MLP, added to the timestep modulation of
every block (AdaLN); the output starts at zero, so a fresh conditioner leaves the pre-trained generator as it was.
Attention is causal: changing the action of step s leaves every frame up to s unchanged. Single steps are dropped with
probability 0.1 in training (a learned "no action"), for classifier-free guidance.

Shapes: latent actions ``(B, N, D)`` -> modulation ``(B, N, 6, W)`` of the frames that the steps lead to.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from colaworld.models.share import Chance, draw


class ActionConditioner(ModelMixin, ConfigMixin):
    """Raises ValueError on more steps than ``max_steps``."""

    @register_to_config
    def __init__(
        self,
        *,
        latent_action_dim: int = 64,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        video_width: int = 192,
        max_steps: int = 16,
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0.0 <= drop < 1.0:
            raise ValueError(f"action drop must lie in [0, 1), got {drop}")
        self.embed = nn.Linear(latent_action_dim, width)
        self.no_action = nn.Parameter(0.02 * torch.randn(width))
        self.step_position = nn.Parameter(0.02 * torch.randn(max_steps, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, int(width * mlp_ratio), dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.out = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 6 * video_width)
        )
        nn.init.zeros_(self.out[-1].weight)
        nn.init.zeros_(self.out[-1].bias)

    def forward(
        self, latent_actions: Tensor, *, dropped: Tensor | None = None, generator: Chance | None = None
    ) -> Tensor:
        """``dropped (B, N)`` bool marks steps without an action; in training mode more are drawn from ``generator``."""
        batch, steps = latent_actions.shape[:2]
        if steps > self.config.max_steps:
            raise ValueError(f"{steps} actions, but the model was made for {self.config.max_steps}")
        x = self.embed(latent_actions)
        if self.training and generator is not None and self.config.drop:
            drawn = draw(torch.rand, (batch, steps), generator, x.device) < self.config.drop
            dropped = drawn if dropped is None else dropped | drawn
        if dropped is not None:
            x = torch.where(dropped[..., None], self.no_action, x)
        x = x + self.step_position[:steps]
        future = torch.ones(steps, steps, dtype=torch.bool, device=x.device).triu(1)
        for block in self.blocks:
            x = block(x, src_mask=future)
        return rearrange(self.out(x), "b n (six w) -> b n six w", six=6)
