"""CoLA-World: latent action model and video world model as one trainable, one loss, one gradient.

Stages differ in what may move, not in what is computed: *pretrain* runs the video model without actions; in *warm-up*
it is frozen and inverse dynamics, bottleneck and conditioner learn through it; *joint* frees everything. The last
stretch trains on the model's own imagined frames as context, since plans roll out many of them.

Shapes: codec latents ``(B, T, C, h, w)``; frames 1..T-1 are predicted, each from the clean frames before it and its
latent action. Where the codec compresses time, latents of several frames are predicted, from grouped actions:
``world_clip`` turns the one into the other, and nobody outside need know.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.backbones import Backbone
from colaworld.models.bottleneck import Bottleneck, Bottlenecked
from colaworld.models.compressed_time import CompressedTime
from colaworld.models.flow import FlowConfig, training_pairs
from colaworld.models.frame_groups import GroupedConditioner
from colaworld.models.imagination import Imagination, given
from colaworld.models.inverse_dynamics import InverseDynamics
from colaworld.models.share import Chance

CONTEXT_FRAMES = 2  # VP2's; the arm's lag needs a velocity, so one frame is not enough


@dataclass
class ActionUse:
    """The flow loss under the right codes, codes shuffled over the batch, and one constant code; same noise, same
    times.
    """

    right: Tensor
    shuffled: Tensor
    constant: Tensor

    @property
    def use(self) -> Tensor:
        """U = (E_const - E_act) / E_const."""
        return (self.constant - self.right) / self.constant

    @property
    def shuffled_ratio(self) -> Tensor:
        """E_shuffled / E_act: 1 when another clip's codes do as well."""
        return self.shuffled / self.right


class ColaModel(nn.Module):
    """The composition; ``conditioner``, ``inverse_dynamics`` and ``bottleneck`` are idle while ``use_actions`` is
    False. A model of real actions has no ``inverse_dynamics``; one whose codec makes one latent a frame no
    ``compressed`` time.
    """

    def __init__(
        self,
        video: Backbone,
        conditioner: ActionConditioner | GroupedConditioner,
        inverse_dynamics: InverseDynamics | None,
        bottleneck: Bottleneck,
        flow: FlowConfig,
        compressed: CompressedTime | None = None,
    ) -> None:
        super().__init__()
        self.video, self.conditioner = video, conditioner
        self.inverse_dynamics, self.bottleneck = inverse_dynamics, bottleneck
        self.flow, self.compressed = flow, compressed

    def world_clip(
        self, latents: Tensor, actions: Tensor | None = None, dropped: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """A clip of frames, its latent actions and marks of dropped ones, as the video model counts: ``(B, K, C, h,
        w)``, ``(B, K - 1, ...)``, ``(B, K - 1)``. Without compressed time the same.
        """
        if self.compressed is None:
            return latents, actions, dropped
        return (
            self.compressed.compress(latents),
            None if actions is None else self.world_actions(actions),
            None if dropped is None else self.compressed.group_any(dropped),
        )

    def world_actions(self, actions: Tensor) -> Tensor:
        """The actions that ``world_clip`` returns."""
        return actions if self.compressed is None else self.compressed.group(actions)

    def latent_actions(
        self, latents: Tensor, generator: Chance | None = None, *, commitment: float = 1.0
    ) -> Bottlenecked:
        """What the latent action model reads off a clip: ``(B, T - 1, D)``. ValueError when there is none."""
        if self.inverse_dynamics is None:
            raise ValueError("a model of real actions has no inverse dynamics to read latent actions")
        return self.bottleneck(self.inverse_dynamics(latents), generator, commitment=commitment)

    def flow_loss(
        self,
        latents: Tensor,
        actions: Tensor | None,
        generator: Chance,
        *,
        context: Tensor | None = None,
        dropped: Tensor | None = None,
    ) -> Tensor:
        """Mean squared velocity error. ``context``: what stands for the clean frames, from ``imagined_context``
        (default: the true ones); ``dropped (B, T - 1)`` marks steps whose action is not known.
        """
        latents, actions, dropped = self.world_clip(latents, actions, dropped)
        return self.clip_flow_loss(latents, actions, generator, context=context, dropped=dropped)

    def clip_flow_loss(
        self,
        latents: Tensor,
        actions: Tensor | None,
        generator: Chance,
        *,
        context: Tensor | None = None,
        dropped: Tensor | None = None,
    ) -> Tensor:
        """``flow_loss`` of what ``world_clip`` returns."""
        clean = latents[:, :-1] if context is None else context
        noised, time, velocity = training_pairs(self.flow, clean, latents[:, 1:], generator)
        modulation = None if actions is None else self.conditioner(actions, dropped=dropped, generator=generator)
        return F.mse_loss(self.video.two_streams(clean, noised, time, action_modulation=modulation), velocity)

    @torch.no_grad()
    def imagined_context(self, latents: Tensor, actions: Tensor) -> Tensor:
        """The clean frames 0..T-2 of a ``world_clip`` as the model itself imagines them from the first two and the
        codes: ``(B, T - 1, C, h, w)``; with compressed time the latents 0..K-2, from those of the first two frames.
        """
        known = CONTEXT_FRAMES if self.compressed is None else self.compressed.groups.latents(CONTEXT_FRAMES)
        imagination = Imagination(self.video, self.conditioner, self.flow)
        start = imagination.start(latents[:, :known], actions[:, : known - 1])
        imagined = imagination.roll_out(start, given(actions[:, known - 1 :]), latents.shape[1] - 1 - known)
        return torch.cat([latents[:, :known], imagined], dim=1)

    def forward(
        self,
        latents: Tensor,
        generator: Chance,
        *,
        use_actions: bool = True,
        seen: Tensor | None = None,
        imagined: bool = False,
        commitment: float = 1.0,
        flow_to_lam: bool = True,
        flow_to_video: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss and its parts. ``seen``: the clip as inverse dynamics sees it (default: the same)."""
        if not use_actions:
            loss = self.flow_loss(latents, None, generator)
            return loss, {"flow": loss.detach()}
        latent = self.latent_actions(latents if seen is None else seen, generator, commitment=commitment)
        if not flow_to_lam:
            latent = replace(latent, latents=latent.latents.detach())
        return self.world_loss(latents, latent, generator, imagined=imagined, flow_to_video=flow_to_video)

    def world_loss(
        self,
        latents: Tensor,
        latent: Bottlenecked,
        generator: Chance,
        *,
        imagined: bool = False,
        flow_to_video: bool = True,
        dropped: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The flow loss under latent actions and the bottleneck's own losses.

        Without ``flow_to_video`` the video model learns from the action-free loss alone. Clips with ``dropped`` steps
        keep their true frames as context.
        """
        latents, actions, dropped = self.world_clip(latents, latent.latents, dropped)
        context = None
        if imagined:
            context = self.imagined_context(latents, actions)
            if dropped is not None:
                context = torch.where(dropped.any(dim=1)[:, None, None, None, None], latents[:, :-1], context)
        if flow_to_video:
            flow = self.clip_flow_loss(latents, actions, generator, context=context, dropped=dropped)
            loss = flow
        else:
            with _without_gradient(self.video):
                flow = self.clip_flow_loss(latents, actions, generator, context=context, dropped=dropped)
            loss = flow + self.clip_flow_loss(latents, None, generator, context=context)
        return self.flow.weight * loss + latent.loss, {"flow": flow.detach(), **latent.parts}

    @torch.no_grad()
    def action_use(self, latents: Tensor, actions: Tensor, seed: int, *, codes: bool) -> ActionUse:
        """The flow loss with ``actions (B, N, D)``, with those of another clip, and with one constant everywhere: the
        commonest of them where they are ``codes``, else their mean.
        """
        device = latents.device
        order = torch.roll(torch.arange(len(actions), device=device), 1)
        flat = actions.reshape(-1, actions.shape[-1])
        constant = flat.mean(dim=0)
        if codes:
            kinds, counts = flat.unique(dim=0, return_counts=True)
            constant = kinds[counts.argmax()]
        variants = (actions, actions[order], constant.expand_as(actions))
        losses = [self.flow_loss(latents, each, torch.Generator(device).manual_seed(seed)) for each in variants]
        return ActionUse(*losses)


@contextmanager
def _without_gradient(module: nn.Module) -> Iterator[None]:
    """What is computed inside has no gradient for the module's parameters; gradients pass through it.

    No block of it is computed again in the backward pass: by then its parameters learn again, and it would not be the
    same computation.
    """
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    saving = [part for part in module.modules() if getattr(part, "gradient_checkpointing", False)]
    for parameter in learning:
        parameter.requires_grad_(False)
    for part in saving:
        part.gradient_checkpointing = False
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for part in saving:
            part.gradient_checkpointing = True
