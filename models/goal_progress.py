"""Goal progress learned from data: how many steps lie between a frame and a goal frame?

The temporal distance of dynamical distance learning (Hartikainen et al. 2020) and of Tian et al. 2021, who plan by it:
trained without actions on pairs of frames of one trajectory. As there, the number of steps is classified, not
regressed; the last class is "as far as can be told, or never".

Not stated in the paper: its planning compares pixels, which the arm dominates.

Shapes: codec latents ``(N, C, h, w)`` -> expected steps ``(N,)``.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from colaworld.models.frame_pair import FramePair


class GoalProgress(ModelMixin, ConfigMixin):
    """``max_steps`` is the last class: so many steps, or more. Raises ValueError when it is below 1."""

    @register_to_config
    def __init__(
        self,
        *,
        max_steps: int = 20,
        latent_channels: int = 8,
        latent_height: int = 8,
        latent_width: int = 8,
        width: int = 32,
        hidden: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if max_steps < 1:
            raise ValueError(f"max_steps must be 1 or more, got {max_steps}")
        sizes = {"width": width, "hidden": hidden, "dropout": dropout}
        self.pair = FramePair(latent_channels, latent_height, latent_width, **sizes)
        self.read = nn.Linear(hidden, max_steps + 1)

    def logits(self, now: Tensor, goal: Tensor) -> Tensor:
        """Of 0, 1, ... ``max_steps`` steps: ``(N, max_steps + 1)``."""
        return self.read(self.pair(now, goal))

    def forward(self, now: Tensor, goal: Tensor) -> Tensor:
        """The expected number of steps ``(N,)`` from each frame to its goal (one goal may stand for all)."""
        steps = torch.arange(self.config.max_steps + 1, device=now.device, dtype=now.dtype)
        return self.logits(now, goal).softmax(dim=-1) @ steps

    def loss(self, now: Tensor, goal: Tensor, steps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy to the true ``steps``, int64 ``(N,)``; what is beyond ``max_steps`` counts as that."""
        steps = steps.clamp(max=self.config.max_steps)
        logits = self.logits(now, goal)
        loss = F.cross_entropy(logits, steps)
        counts = torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype)
        error = (logits.detach().softmax(dim=-1) @ counts - steps).abs().mean()
        return loss, {"cross_entropy": loss.detach(), "steps_off": error}
