"""The few-step world model: a student whose one step lands where its teacher's many steps land.

Reflow (Liu, Gong and Liu, "Flow straight and fast", 2022) and the distillation that follows it there and in InstaFlow
(Liu et al., 2023), in one loss. The teacher's ordinary differential equation carries every source to one frame; the
student learns the straight line between the two, and at time 0, where a single step reads it, the whole way at once. In
place of all frames that could follow, each source has one, so that the straight path does not end at their mean: this
is what one step from noise lacks. Chosen over step-size conditioning (shortcut models, Frans et al. 2024) because a
straight path has the same velocity at every step size: weights, engine and backbones stay as they are, and any number
of steps may be asked for.

Differs from the paper, which samples with 10 steps and distils nothing.

Shapes: codec latents ``(B, T, C, h, w)``; N = T - 1 frames are predicted, each from the clean frames before it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from colaworld.models.cola import ColaModel
from colaworld.models.flow import FlowConfig, integrate, interpolate, source_latents
from colaworld.models.share import Chance, draw


@dataclass(frozen=True, kw_only=True)
class ReflowConfig:
    """What of its teacher a student learns."""

    teacher_steps: int | None = None
    """Euler steps by which the teacher reaches a frame, each a forward pass of every training step; default: 8 from
    noise and 1 from the last frame, where more are worse: it has learned the mean future, in one step."""
    at_source: float = 0.5
    """Share of frames trained at time 0, which is all that a single step reads; the others lie anywhere on the line."""

    def __post_init__(self) -> None:
        if self.teacher_steps is not None and self.teacher_steps < 1:
            raise ValueError(f"teacher_steps must be 1 or more, got {self.teacher_steps}")
        if not 0.0 <= self.at_source <= 1.0:
            raise ValueError(f"at_source must lie in [0, 1], got {self.at_source}")

    def steps_from(self, flow: FlowConfig) -> int:
        """``teacher_steps``, or what is usual for flows that start so."""
        return self.teacher_steps or (8 if flow.source == "noise" else 1)


def training_sources(flow: FlowConfig, last: Tensor, chance: Chance) -> Tensor:
    """Where flows to the frames after ``last (B, N, C, h, w)`` start, as often from the bare last frame as in
    training."""
    noise = draw(torch.randn, last.shape, chance, last.device)
    mean = draw(torch.rand, last.shape[:2], chance, last.device) < flow.mean_fraction
    return source_latents(flow, last, noise, torch.where(mean, 0.0, flow.std)[..., None, None, None])


class FewStepModel(ColaModel):
    """A ``ColaModel`` whose flow loss, while its video model is in training mode, is how far it is from ``teacher``.
    Otherwise it is the ordinary one, of the data. Latent actions learn nothing from it.

    The teacher is no part of the module: its weights are not trained, saved or put into training mode.
    """

    def __init__(self, student: ColaModel, teacher: ColaModel, config: ReflowConfig) -> None:
        super().__init__(
            student.video,
            student.conditioner,
            student.inverse_dynamics,
            student.bottleneck,
            student.flow,
            student.compressed,
        )
        if teacher.flow != student.flow:
            raise ValueError(f"teacher and student start from different sources: {teacher.flow} and {student.flow}")
        self.config = config
        self._teacher = (teacher.eval().requires_grad_(False),)

    @property
    def teacher(self) -> ColaModel:
        """Frozen, in evaluation mode."""
        return self._teacher[0]

    def clip_flow_loss(
        self,
        latents: Tensor,
        actions: Tensor | None,
        generator: Chance,
        *,
        context: Tensor | None = None,
        dropped: Tensor | None = None,
    ) -> Tensor:
        """Mean squared distance of the student's velocity from that of the line to the teacher's frame. Of ``latents``
        only the clean frames are read (``context`` in their place, where given).
        """
        if not self.video.training:
            return super().clip_flow_loss(latents, actions, generator, context=context, dropped=dropped)
        clean = latents[:, :-1] if context is None else context
        modulation, taught = None, None
        if actions is not None:
            dropped = self._dropped(clean, dropped, generator)
            modulation = self.conditioner(actions.detach(), dropped=dropped)
            with torch.no_grad():
                taught = self.teacher.conditioner(actions, dropped=dropped)
        source = training_sources(self.flow, clean, generator)
        frames = teacher_frames(self.teacher, clean, source, taught, self.config.steps_from(self.flow))
        time = draw(torch.rand, clean.shape[:2], generator, clean.device)
        first = draw(torch.rand, clean.shape[:2], generator, clean.device) < self.config.at_source
        time = torch.where(first, torch.zeros_like(time), time)
        noised = interpolate(source, frames, time)
        return F.mse_loss(self.video.two_streams(clean, noised, time, action_modulation=modulation), frames - source)

    def _dropped(self, clean: Tensor, dropped: Tensor | None, chance: Chance) -> Tensor:
        """Steps without an action, for teacher and student alike: those that are not known, and some for guidance."""
        drawn = draw(torch.rand, clean.shape[:2], chance, clean.device) < self.conditioner.config.drop
        return drawn if dropped is None else dropped | drawn


@torch.no_grad()
def teacher_frames(
    teacher: ColaModel, clean: Tensor, source: Tensor, modulation: Tensor | None, steps: int
) -> Tensor:
    """The frames ``(B, N, C, h, w)`` that follow each of ``clean``, from ``source``, in ``steps`` of the teacher; all
    at once, as in training, but the clean frames pass once for all steps.
    """

    count = clean.shape[1]
    places = torch.arange(count, device=clean.device)
    causal = places[:, None] >= places
    mask = torch.cat([causal, torch.eye(count, dtype=torch.bool, device=clean.device)], dim=1)
    cache = teacher.video.remember(clean)

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        return teacher.video(x, time, places + 1, action_modulation=modulation, mask=mask, cache=cache)[0]

    return integrate(velocity, source, steps, teacher.flow.ratio)
