"""A world model held to what it imagines by itself: rollouts of several steps, through which the gradient passes.

In a squared error of latents an arm is a few numbers of many, and which way it went towards the camera hardly any: a
model that is as exact as another one frame ahead may have lost what a plan is judged by. So beside that error, a
network that reads off a frame where the gripper is, and how far objects are from where the clip leaves them
(``GoalDistance``), must read the same off imagined and off recorded frames: a perceptual loss (Johnson, Alahi and
Fei-Fei 2016) whose features are what goals are about. It needs no positions here: the reader learned from them, on
recordings, and is frozen. Not in the paper, which trains on one step at a time.

Shapes: codec latents ``(B, T, C, h, w)``, latent actions ``(B, T - 1, D)``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from colaworld.models.cola import CONTEXT_FRAMES, ColaModel
from colaworld.models.goal_distance import GoalDistance
from colaworld.models.imagination import Imagination, given
from colaworld.models.share import Chance, Share

UNIT, BETA = 0.1, 0.2
"""Misreadings count in units of 10 cm, whatever the recordings' spread, and squared below 2 cm."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """What imagined rollouts are held to."""

    horizon: int = 5
    """Steps that are imagined, one after the other."""
    gripper: float = 0.5
    """Weight of the gripper's place as it is read off the frames, beside the squared error of latents; 0: none."""
    objects: float = 0.0
    """The same of how far objects are from where they are at the end."""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"horizon must be 1 or more, got {self.horizon}")
        for name in ("gripper", "objects"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    @property
    def reads(self) -> bool:
        """Whether a reader is wanted."""
        return self.gripper > 0.0 or self.objects > 0.0


class RolloutModel(ColaModel):
    """A ``ColaModel`` whose flow loss, while its video model is in training mode, is that of a rollout from a random
    place in the clip, each frame in one step from the last. Otherwise it is the ordinary one. No action is dropped, so
    that guidance learns nothing here, and clips with an unknown one teach nothing.

    The ``reader`` is no part of the module: its weights are not trained or saved. ValueError for one that is missing,
    for compressed time, whose latents are not frames, and for flows from noise, whose one step is no frame.
    """

    def __init__(self, model: ColaModel, reader: GoalDistance | None, config: RolloutConfig) -> None:
        super().__init__(
            model.video, model.conditioner, model.inverse_dynamics, model.bottleneck, model.flow, model.compressed
        )
        if model.compressed is not None:
            raise ValueError("rollouts are of frames; this codec's latents stand for several each")
        if model.flow.source != "last_frame":
            source = model.flow.source
            raise ValueError(f"rollouts imagine a frame in one step from the last one, this flow starts from {source}")
        if config.reads and reader is None:
            raise ValueError("what imagined frames show is judged by a goal distance, and there is none")
        self.config = config
        self._reader = (None if reader is None else reader.eval().requires_grad_(False),)

    def clip_flow_loss(
        self,
        latents: Tensor,
        actions: Tensor | None,
        generator: Chance,
        *,
        context: Tensor | None = None,
        dropped: Tensor | None = None,
    ) -> Tensor:
        """The loss of ``rollout_losses`` in a window of the clips, the same for all; clips with a ``dropped`` action in
        it do not count. ValueError for clips that are too short.
        """
        if not self.video.training or actions is None:
            return super().clip_flow_loss(latents, actions, generator, context=context, dropped=dropped)
        count = CONTEXT_FRAMES + self.config.horizon
        if latents.shape[1] < count:
            raise ValueError(f"clips of {latents.shape[1]} frames are too short for {count}: context and rollout")
        places = latents.shape[1] - count + 1
        whole = generator.generator if isinstance(generator, Share) else generator  # one window for all parts
        first = int(torch.randint(places, (1,), generator=whole, device=latents.device))
        clip, between = latents[:, first : first + count], slice(first, first + count - 1)
        losses = self.rollout_losses(clip, actions[:, between])
        if dropped is None:
            return losses.mean()
        known = ~dropped[:, between].any(dim=1)
        return (losses * known).sum() / known.sum().clamp(min=1)

    def rollout_losses(self, clip: Tensor, actions: Tensor) -> Tensor:
        """Of each clip ``(B,)``: the squared error of the frames that are imagined after the first two, and what the
        reader makes of them.
        """
        known, config = CONTEXT_FRAMES, self.config
        imagination = Imagination(self.video, self.conditioner, self.flow)
        start = imagination.start(clip[:, :known], actions[:, : known - 1])
        imagined = imagination.roll_out(start, given(actions[:, known - 1 :]), config.horizon)
        recorded = clip[:, known:]
        losses = (imagined - recorded).square().flatten(1).mean(dim=1)
        for weight, read in ((config.gripper, _gripper), (config.objects, _objects)):
            if weight:
                losses = losses + weight * _misread(read, self._reader[0], imagined, recorded)
        return losses


def _gripper(reader: GoalDistance, frames: Tensor, last: Tensor) -> Tensor:
    return reader.gripper(frames)[0]


def _objects(reader: GoalDistance, frames: Tensor, last: Tensor) -> Tensor:
    return reader.objects(frames, last)[0]


def _misread(
    read: Callable[[GoalDistance, Tensor, Tensor], Tensor], reader: GoalDistance, imagined: Tensor, recorded: Tensor
) -> Tensor:
    """Of each clip, how differently the frames are read that were imagined and those that were recorded ``(B, H, C, h,
    w)``, given the last of these.
    """
    last = recorded[:, -1:].expand_as(recorded).flatten(0, 1)
    with torch.no_grad():
        truth = read(reader, recorded.flatten(0, 1), last) / UNIT
    found = read(reader, imagined.flatten(0, 1), last) / UNIT
    error = F.smooth_l1_loss(found, truth, beta=BETA, reduction="none")
    return error.unflatten(0, recorded.shape[:2]).flatten(1).mean(dim=1)
