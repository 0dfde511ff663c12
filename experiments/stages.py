"""A system under the loss of one stage: codec -> pretrain (action-free) -> a recipe's own stages -> adapter.

The recipe (``experiments/recipes.py``) says which parts learn and from which gradients; this file computes the loss.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from colaworld.adapters.action_adapter import adapt, adapter_loss, context_windows, latents_of
from colaworld.adapters.system import ColaSystem
from colaworld.experiments.batches import Batch, frame_latents, random_shift
from colaworld.experiments.labels import labelled_steps
from colaworld.experiments.recipes import Turn
from colaworld.experiments.stage_config import StageConfig
from colaworld.models.bottleneck import Bottlenecked
from colaworld.models.codec import to_signed
from colaworld.models.share import Chance, draw

CODEC_STRIDE = 3
PIXEL_WEIGHT, LATENT_WEIGHT = 100.0, 10.0
"""Of the forward dynamics model's error beside the bottleneck's losses: pixels of neighbouring frames differ less than
standardised latents do. Not stated in the paper."""


class StageModel(nn.Module):
    """``forward(batch, step, generator)`` -> (loss, metrics). Freezes what the turn does not train.

    ``steps_before``: steps of latent-action training that earlier stages have taken.
    """

    def __init__(self, system: ColaSystem, turn: Turn, config: StageConfig, *, steps_before: int = 0) -> None:
        super().__init__()
        self.turn, self.config, self.steps_before = turn, config, steps_before
        self.codec, self.adapter = system.codec, system.adapter
        self.forward_dynamics, self.action_head = system.forward_dynamics, system.action_head
        self.cola = system.model()
        for name, part in system.parts().items():
            part.requires_grad_(name in turn.trained)
            part.train(name in turn.trained)
        names = {name for part in system.parts().values() for name in getattr(part, "_no_split_modules", None) or ()}
        self._no_split_modules = sorted(names)  # the blocks that FSDP gathers one by one
        self.frozen = [part for name, part in system.parts().items() if name not in turn.trained]

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser sees."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> "StageModel":
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def forward(
        self, batch: Batch, step: int, generator: Chance, labelled: Batch | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of step ``step`` of the stage; every random draw comes from ``generator``.

        ``labelled``: more clips, with actions, for the action head.
        """
        frames = random_shift(batch.frames, self.config.shift, generator)
        if self.turn.stage == "codec":
            # Neighbouring frames are nearly the same picture: a few far apart, of more clips, teach more.
            return self.codec(frames[:, ::CODEC_STRIDE], generator)
        with torch.no_grad():
            latents = frame_latents(self.codec, frames)
            seen = latents
            if self.config.own_crop and "inverse_dynamics" in self.turn.trained:
                seen = frame_latents(self.codec, random_shift(batch.frames, self.config.shift, generator))
        imagined = self.imagines(step)
        if self.turn.reads == "actions":
            return self._real_action_loss(batch, latents, imagined, generator)
        if self.turn.stage == "adapter":
            return self._adapter_loss(batch, latents, imagined, generator)
        if self.turn.stage == "lam":
            loss, metrics = self._two_stage_loss(frames, latents, seen, step, generator)
        else:
            loss, metrics = self.cola(
                latents,
                generator,
                use_actions=self.turn.stage != "pretrain",
                seen=seen,
                imagined=imagined,
                commitment=self.commitment(step),
                flow_to_lam=self.turn.flow_to_lam,
                flow_to_video=self.turn.flow_to_video,
            )
        if labelled is not None and self.config.action_weight and "inverse_dynamics" in self.turn.trained:
            with torch.no_grad():
                shifted = random_shift(labelled.frames, self.config.shift, generator)
                clips = frame_latents(self.codec, shifted)
            read = self.action_head.loss(self.cola.latent_actions(clips).latents, labelled.actions)
            loss, metrics = loss + self.config.action_weight * read, {**metrics, "action": read.detach()}
        return loss, metrics

    def _two_stage_loss(
        self, frames: Tensor, latents: Tensor, seen: Tensor, step: int, generator: Chance
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The latent action model through its own forward dynamics model."""
        latent = self.cola.latent_actions(seen, generator, commitment=self.commitment(step))
        pixels = self.forward_dynamics.config.output == "pixel"
        target, weight = (to_signed(frames), PIXEL_WEIGHT) if pixels else (latents, LATENT_WEIGHT)
        error = F.mse_loss(self.forward_dynamics(target[:, :-1], latent.latents), target[:, 1:])
        return weight * error + latent.loss, {"reconstruction": error.detach(), **latent.parts}

    def _real_action_loss(
        self, batch: Batch, latents: Tensor, imagined: bool, generator: Chance
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The world model on real actions; clips whose actions are not known teach it without."""
        unknown = ~labelled_steps(batch.actions)
        actions = self.adapter(batch.actions.nan_to_num(), None)
        latent = Bottlenecked(latents=actions, indices=None, loss=actions.new_zeros(()), parts={})
        return self.cola.world_loss(latents, latent, generator, imagined=imagined, dropped=unknown)

    def _adapter_loss(
        self, batch: Batch, latents: Tensor, imagined: bool, generator: Chance
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The adapter on the inverse dynamics model's codes; the world model on those codes, or on the adapter's
        own."""
        bottleneck, frames = self.cola.bottleneck, self.adapter.config.context_frames
        with torch.no_grad():
            codes = self.cola.latent_actions(latents)
        known, real = labelled_steps(batch.actions), batch.actions.nan_to_num()
        answer = self.adapter(real, context_windows(latents, frames))
        kind = self.adapter.config.kind
        adapted, parts = adapter_loss(bottleneck, answer, codes.latents, codes.indices, kind, known)
        drawn = draw(torch.rand, (len(latents), 1, 1), generator, latents.device)
        through = (drawn < self.config.through_adapter) & known.all(dim=1)[:, None, None]
        actions, context = torch.where(through, latents_of(self.adapter, bottleneck, answer), codes.latents), None
        clip, *_ = self.cola.world_clip(latents)
        if imagined:
            context, seen = self.cola.imagined_context(clip, self.cola.world_actions(actions)), None
            if frames:
                seen = context_windows(torch.cat([context, clip[:, -1:]], dim=1), frames)
            actions = torch.where(through, adapt(self.adapter, bottleneck, real, seen), codes.latents)
        flow = self.cola.clip_flow_loss(clip, self.cola.world_actions(actions), generator, context=context)
        return self.cola.flow.weight * flow + self.config.adapter_weight * adapted, {"flow": flow.detach(), **parts}

    def commitment(self, step: int) -> float:
        """The commitment loss grows in over the first steps of latent-action training: before the codes are of use it
        would only herd them together."""
        return min(1.0, (self.steps_before + step) / max(1, self.config.commitment_ramp))

    def imagines(self, step: int) -> bool:
        """Whether step ``step`` lies in the stretch on imagined frames; a stage without one has none when it is
        prolonged either."""
        stretch = round(self.config.steps * self.config.imagined)
        return stretch > 0 and step >= self.config.steps - stretch
