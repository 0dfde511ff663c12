"""The stages of the recipe: what each trains, on which loss.

codec -> pretrain (action-free) -> warmup (video frozen; the latent action model learns through it) -> joint
(everything) -> adapter (real actions to codes, and a short fine-tune of the world model on the inverse dynamics model's
codes).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from colaworld.adapters.action_adapter import adapt, adapter_loss, context_windows
from colaworld.adapters.system import ColaSystem
from colaworld.experiments.batches import Batch, random_shift

StageName = Literal["codec", "pretrain", "warmup", "joint", "adapter"]
STAGES: tuple[StageName, ...] = ("codec", "pretrain", "warmup", "joint", "adapter")
TRAINED: dict[StageName, tuple[str, ...]] = {
    "codec": ("codec",),
    "pretrain": ("video",),
    "warmup": ("conditioner", "inverse_dynamics", "bottleneck"),
    "joint": ("video", "conditioner", "inverse_dynamics", "bottleneck"),
    "adapter": ("video", "conditioner", "adapter"),
}

TRAINED_BY: dict[StageName, tuple[str, ...]] = {
    stage: tuple(dict.fromkeys(name for earlier in STAGES[: number + 1] for name in TRAINED[earlier]))
    for number, stage in enumerate(STAGES)
}
"""What is trained when a stage ends; nothing else is worth saving."""
CODEC_STRIDE = 3


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage's budget and optimiser. Not stated in the paper for models this small: found by trial on training
    clips.
    """

    steps: int
    """Optimiser steps."""
    batch_size: int = 6
    """Clips in a batch, over all processes."""
    learning_rate: float = 8e-4
    """AdamW's, at its peak; it decays along a cosine."""
    learning_rate_warmup: int = 50
    """Steps in which the learning rate grows in."""
    weight_decay: float = 0.01
    """AdamW's."""
    shift: int = 4
    """Random crop: clips are shifted by up to this many pixels."""
    imagined: float = 0.0
    """The last share of the steps that trains on the model's own imagined frames as context."""

    through_adapter: float = 0.0
    """Adapter stage: share of clips on which the world model is run on the adapter's codes (and the adapter learns through
    it) instead of the inverse dynamics model's. Differs from the paper (0)."""

    adapter_weight: float = 1.0
    """Adapter stage: weight of agreeing with the inverse dynamics model's codes, beside the flow loss."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1:
            raise ValueError(f"a stage needs steps >= 0 and batch_size >= 1, got {self.steps} and {self.batch_size}")
        if not 0.0 <= self.imagined <= 1.0:
            raise ValueError(f"imagined must lie in [0, 1], got {self.imagined}")
        if not 0.0 <= self.through_adapter <= 1.0:
            raise ValueError(f"through_adapter must lie in [0, 1], got {self.through_adapter}")


class StageModel(nn.Module):
    """A system under one stage's loss: ``forward(batch, step)`` -> (loss, metrics). Freezes what the stage does not
    train.
    """

    def __init__(self, system: ColaSystem, stage: StageName, config: StageConfig) -> None:
        super().__init__()
        self.stage, self.config = stage, config
        self.codec, self.adapter, self.cola = system.codec, system.adapter, system.model()
        for name, part in system.parts().items():
            part.requires_grad_(name in TRAINED[stage])
            part.train(name in TRAINED[stage])
        self.frozen = [part for name, part in system.parts().items() if name not in TRAINED[stage]]

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser sees."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> "StageModel":
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def forward(self, batch: Batch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of step ``step`` of the stage; every random draw comes from ``generator``."""
        frames = random_shift(batch.frames, self.config.shift, generator)
        if self.stage == "codec":
            # Neighbouring frames are nearly the same picture: a few far apart, of more clips, teach more.
            return self.codec(frames[:, ::CODEC_STRIDE], generator)
        with torch.no_grad():
            latents = self.codec.encode(frames)
        imagined = self.imagines(step)
        if self.stage != "adapter":
            return self.cola(
                latents,
                generator,
                use_actions=self.stage != "pretrain",
                imagined=imagined,
                commitment=self.commitment(step),
            )
        return self._adapter_loss(batch, latents, imagined, generator)

    def _adapter_loss(
        self, batch: Batch, latents: Tensor, imagined: bool, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The adapter on the inverse dynamics model's codes; the world model on those codes, or on the adapter's own."""
        bottleneck, frames = self.cola.bottleneck, self.adapter.config.context_frames
        with torch.no_grad():
            codes = self.cola.latent_actions(latents)
        predicted = self.adapter(batch.actions, context_windows(latents, frames))
        adapted, parts = adapter_loss(bottleneck, predicted, codes.latents, codes.indices)
        given = bottleneck.snap(predicted).latents if self.adapter.config.snap else predicted
        draw = torch.rand(len(latents), 1, 1, generator=generator, device=latents.device)
        through = draw < self.config.through_adapter
        actions, context = torch.where(through, given, codes.latents), None
        if imagined:
            context = self.cola.imagined_context(latents, actions)
            seen = context_windows(torch.cat([context, latents[:, -1:]], dim=1), frames)
            actions = torch.where(through, adapt(self.adapter, bottleneck, batch.actions, seen), codes.latents)
        flow = self.cola.flow_loss(latents, actions, generator, context=context)
        return self.cola.flow.weight * flow + self.config.adapter_weight * adapted, {"flow": flow.detach(), **parts}

    def commitment(self, step: int) -> float:
        """The commitment loss grows in over the warm-up: before the codes are of use it would only herd them together."""
        return min(1.0, step / max(1, self.config.steps)) if self.stage == "warmup" else 1.0

    def imagines(self, step: int) -> bool:
        """Whether step ``step`` lies in the stretch on imagined frames."""
        return step >= self.config.steps * (1.0 - self.config.imagined)
