"""Goal-conditioned inverse model: from a frame and a goal frame to the next actions. A floor that plans nothing.

Behaviour cloning with hindsight goals (Lynch et al. 2020; GCSL, Ghosh et al. 2021): whatever frame a trajectory reached
was the goal of the actions that led there. Not part of the paper; a planner that does no better has gained nothing by
imagining.

Shapes: codec latents ``(N, C, h, w)`` -> held actions ``(N, steps, A)`` in [-1, 1].
"""

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from colaworld.models.frame_pair import FramePair


class GoalPolicy(ModelMixin, ConfigMixin):
    """Answers with a chunk of ``steps`` actions, each held for one environment step. ValueError for no steps."""

    @register_to_config
    def __init__(
        self,
        *,
        steps: int = 4,
        action_dim: int = 7,
        latent_channels: int = 8,
        latent_height: int = 8,
        latent_width: int = 8,
        width: int = 32,
        hidden: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps of an action chunk must be 1 or more, got {steps}")
        sizes = {"width": width, "hidden": hidden, "dropout": dropout}
        self.pair = FramePair(latent_channels, latent_height, latent_width, **sizes)
        self.read = nn.Linear(hidden, steps * action_dim)

    def forward(self, now: Tensor, goal: Tensor) -> Tensor:
        """Actions ``(N, steps, A)`` from each frame towards its goal (one goal may stand for all)."""
        return rearrange(self.read(self.pair(now, goal)).tanh(), "n (s a) -> n s a", s=self.config.steps)

    def loss(self, now: Tensor, goal: Tensor, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error to ``actions (N, steps, A)``; NaN, from the goal on or unknown, does not count."""
        known = actions.isfinite()
        error = (self(now, goal) - actions.nan_to_num()).square() * known
        loss = error.sum() / known.sum().clamp_min(1)
        first = error.detach()[:, 0].sum() / known[:, 0].sum().clamp_min(1)
        return loss, {"squared_error": loss.detach(), "squared_error_first": first}
