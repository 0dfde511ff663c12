"""Inverse adapter: from a latent action and the frames it is taken on to the real action that a robot holds.

Differs from the paper, whose adapter only runs the other way, from real actions to codes: a plan over codes has to be
acted on. Taught like the adapter, by labelled transitions: it regresses the action that led from one frame to the next
on what inverse dynamics read off the two and on the frames before. Where the codes name little more than where the arm
ends up, the frames say from where.

Shapes: latent actions ``(N, D)``, codec latents ``(N, C, h, w)`` -> held actions ``(N, A)`` in [-1, 1].
"""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from colaworld.models.frame_pair import FramePair


class InverseAdapter(ModelMixin, ConfigMixin):
    """``code_sizes`` are the bottleneck's (none when it is continuous). With codes it also knows how often each was
    seen, ``usage (tokens, entries)``, and those that stand for doing nothing, ``rest_codes (tokens)``.
    """

    @register_to_config
    def __init__(
        self,
        *,
        latent_action_dim: int = 64,
        code_sizes: Sequence[int] = (32, 32),
        action_dim: int = 7,
        latent_channels: int = 8,
        latent_height: int = 8,
        latent_width: int = 8,
        width: int = 32,
        hidden: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = {"width": width, "hidden": hidden, "dropout": dropout}
        self.pair = FramePair(latent_channels, latent_height, latent_width, **sizes)
        self.read = nn.Sequential(
            nn.Linear(hidden + latent_action_dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, action_dim)
        )
        if code_sizes:
            self.register_buffer("usage", torch.ones(len(code_sizes), code_sizes[0]) / code_sizes[0])
            self.register_buffer("rest_codes", torch.zeros(len(code_sizes), dtype=torch.int64))

    def forward(self, latent_actions: Tensor, before: Tensor, now: Tensor) -> Tensor:
        """Actions ``(N, A)`` to take on ``now``, after ``before`` (both ``(N, C, h, w)``). ValueError for latent
        actions of another width.
        """
        if latent_actions.shape[-1] != self.config.latent_action_dim:
            raise ValueError(
                f"latent actions have {latent_actions.shape[-1]} numbers, the inverse adapter was made for "
                f"{self.config.latent_action_dim}"
            )
        return self.read(torch.cat([self.pair(now, before), latent_actions], dim=-1)).tanh()

    def loss(
        self, latent_actions: Tensor, before: Tensor, now: Tensor, actions: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error to the held ``actions (N, A)``."""
        loss = F.mse_loss(self(latent_actions, before, now), actions)
        return loss, {"squared_error": loss.detach()}

    @torch.no_grad()
    def count(self, codes: Tensor, resting: Tensor) -> None:
        """Take ``usage`` from the ``codes (N, tokens)`` of transitions, and ``rest_codes`` from those of transitions
        in which nothing moves, ``resting (M, tokens)``: of each token the commonest.
        """
        self.usage.copy_(F.one_hot(codes, self.usage.shape[1]).float().mean(dim=0))
        self.rest_codes.copy_(resting.mode(dim=0).values)
