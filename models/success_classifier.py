"""VP2's success classifier: would the simulator call this frame a success, given the goal frame?

VP2 (RoboDesk) trains one classifier for each task on states that are labelled by the simulator and adds its logit to
the planning cost. Differs from VP2: one network for all goals, told the goal by a frame, with one logit for each kind
of success. Its labels are privileged state of recordings; where it is used, it sees frames only.

Shapes: codec latents ``(N, C, h, w)`` -> logits ``(N, kinds)``.
"""

from typing import Literal, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from colaworld.models.frame_pair import FramePair

SuccessKind = Literal["reach", "push", "both"]
"""The gripper is where the goal frame shows it, every object is, or gripper and objects are."""
KINDS: tuple[SuccessKind, ...] = ("reach", "push")
"""In the order of the logits."""


class SuccessClassifier(ModelMixin, ConfigMixin):
    """One logit for each of ``KINDS``."""

    @register_to_config
    def __init__(
        self,
        *,
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
        self.read = nn.Linear(hidden, len(KINDS))

    def forward(self, now: Tensor, goal: Tensor) -> Tensor:
        """Logits ``(N, kinds)`` of each frame's success at its goal (one goal may stand for all)."""
        return self.read(self.pair(now, goal))

    def cost(self, now: Tensor, goal: Tensor, kind: SuccessKind) -> Tensor:
        """Minus the logit of ``kind``, ``(N,)``: lower is better. "both" is the logit of the product of probabilities.

        Raises ValueError for an unknown kind.
        """
        if kind not in get_args(SuccessKind):
            raise ValueError(f"success kind must be one of {', '.join(get_args(SuccessKind))}, got {kind!r}")
        logits = self(now, goal)
        if kind != "both":
            return -logits[:, KINDS.index(kind)]
        # With odds a and b the product of probabilities has odds ab / (1 + a + b): no difference of near equals.
        zero = torch.zeros_like(logits[:, :1])
        return torch.cat([zero, logits], dim=1).logsumexp(dim=1) - logits.sum(dim=1)

    def loss(self, now: Tensor, goal: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean binary cross-entropy to ``labels (N, kinds)``, 1 where it is a success."""
        logits = self(now, goal)
        loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits))
        right = ((logits.detach() > 0) == (labels > 0.5)).float().mean()
        return loss, {"cross_entropy": loss.detach(), "accuracy": right}
