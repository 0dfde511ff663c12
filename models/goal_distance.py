"""How far is a frame from its goal frame, in metres: the gripper, and the object that is farthest from its place?

A picture's distance to a goal picture is small where the arm is not to be seen: a blurred, fading arm, the mean of all
that may happen, costs less than a sharp one in the wrong place. Here a network reads off a frame where the gripper is,
as a Gaussian whose spread grows where it cannot tell, and a plan pays for the *expected squared* distance: what is not
known counts as far. Objects have no names that hold across scenes, so they are read off the pair of frames.

Taught by positions of recordings, on recorded frames and on frames that a world model imagined, which know the position
of the frame that they stand for; where it is used, it sees frames only. Not in the paper: its planning compares pixels.

Shapes: codec latents ``(N, C, h, w)`` -> metres ``(N,)``.
"""

from typing import get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from colaworld.models.frame_pair import FramePair
from colaworld.models.success_classifier import SuccessKind

LOG_VARIANCE = (-8.0, 4.0)
"""Bounds of what is read, in the unit of the positions' own spread: neither certainty nor ignorance without end."""


class GoalDistance(ModelMixin, ConfigMixin):
    """``spread`` (metres) is the unit in which the network reads positions around ``centre (3)``. Raises ValueError
    unless it is positive.
    """

    @register_to_config
    def __init__(
        self,
        *,
        centre: tuple[float, float, float] = (0.0, 0.0, 1.0),
        spread: float = 0.1,
        latent_channels: int = 8,
        latent_height: int = 8,
        latent_width: int = 8,
        width: int = 32,
        hidden: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not spread > 0:
            raise ValueError(f"spread (metres) must be positive, got {spread}")
        places = ((latent_height + 1) // 2) * ((latent_width + 1) // 2)
        self.place = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * width * places, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 6),
        )
        sizes = {"width": width, "hidden": hidden, "dropout": dropout}
        self.pair = FramePair(latent_channels, latent_height, latent_width, **sizes)
        self.read = nn.Linear(hidden, 2)

    def gripper(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Where the gripper is, metres ``(N, 3)``, and the variance of each coordinate, square metres."""
        if frames.shape[1:] != self.pair.shape:
            found = tuple(frames.shape)
            raise ValueError(f"latents have shape {found}, the network was made for (N, *{self.pair.shape})")
        place, variance = _gaussian(self.place(frames))
        unit = self.config.spread
        return place * unit + place.new_tensor(self.config.centre), variance * unit**2

    def objects(self, now: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """How far the object that is farthest from where the goal frame has it is away from there, metres ``(N,)``, and
        the variance of that.
        """
        distance, variance = _gaussian(self.read(self.pair(now, goal)))
        return distance[:, 0] * self.config.spread, variance[:, 0] * self.config.spread**2

    def cost(self, now: Tensor, goal: Tensor, kind: SuccessKind) -> Tensor:
        """Root of the expected squared distance, metres ``(N,)``: "reach" the gripper's, "push" the objects', "both"
        their sum. ``goal`` may be one for all. Raises ValueError for an unknown kind.
        """
        if kind not in get_args(SuccessKind):
            raise ValueError(f"distance kind must be one of {', '.join(get_args(SuccessKind))}, got {kind!r}")
        total = torch.zeros(len(now), dtype=now.dtype, device=now.device)
        if kind != "push":
            (here, variance), (there, _) = self.gripper(now), self.gripper(goal)  # the goal is the same for all plans
            total = total + ((here - there).square() + variance).sum(dim=1).sqrt()
        if kind != "reach":
            distance, variance = self.objects(now, goal)
            total = total + (distance.square() + variance).sqrt()
        return total

    def loss(self, now: Tensor, goal: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean negative log-likelihood of ``truth (N, 7)``, metres: the gripper's position in ``now`` and in ``goal``
        and the objects' distance.
        """
        unit = self.config.spread
        places = torch.cat([truth[:, :3], truth[:, 3:6]])
        here, variance = self.gripper(torch.cat([now, goal]))
        distance, doubt = self.objects(now, goal)
        losses = {
            "gripper": _surprise((here - places) / unit, variance / unit**2).mean(),
            "objects": _surprise((distance - truth[:, 6]) / unit, doubt / unit**2).mean(),
        }
        error = (here.detach() - places).norm(dim=1)[: len(now)].mean()
        return losses["gripper"] + losses["objects"], {name: loss.detach() for name, loss in losses.items()} | {
            "gripper_off_cm": 100 * error
        }


def _gaussian(answer: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_variance = answer.chunk(2, dim=1)
    return mean, log_variance.clamp(*LOG_VARIANCE).exp()


def _surprise(error: Tensor, variance: Tensor) -> Tensor:
    return 0.5 * (error.square() / variance + variance.log())
