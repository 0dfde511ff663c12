"""Reading the real action off a latent action, linearly: the auxiliary loss of a little labelled data.

Differs from the paper, whose latent actions see no label before the adapter. LAPA's successors (LAOM and others) find
that labels for a few per cent of the clips turn codes that describe the next frame into codes that name actions.

Shapes: latent actions ``(B, N, D)``, action chunks ``(B, N, frame_skip, A)``.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

MIN_ACTION_STD = 0.05  # a dimension that never moves must not be blown up by normalisation


class ActionHead(ModelMixin, ConfigMixin):
    """One linear layer to a chunk's mean action, standardised."""

    @register_to_config
    def __init__(self, *, latent_action_dim: int = 64, action_dim: int = 7) -> None:
        super().__init__()
        self.register_buffer("action_mean", torch.zeros(action_dim))
        self.register_buffer("action_std", torch.ones(action_dim))
        self.read = nn.Linear(latent_action_dim, action_dim)

    @torch.no_grad()
    def normalise_by(self, actions: Tensor) -> None:
        """Set mean and std from labelled action chunks ``(..., frame_skip, A)``; once, before training."""
        means = actions.mean(dim=-2).reshape(-1, actions.shape[-1])
        self.action_mean.copy_(means.mean(dim=0))
        self.action_std.copy_(means.std(dim=0).clamp_min(MIN_ACTION_STD))

    def loss(self, latent_actions: Tensor, actions: Tensor) -> Tensor:
        """Mean squared error in standard deviations of each dimension."""
        target = (actions.mean(dim=-2) - self.action_mean) / self.action_std
        return F.mse_loss(self.read(latent_actions), target)
