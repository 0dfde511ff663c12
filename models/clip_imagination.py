"""``Imagination``'s methods, counted in frames where the world model's latents hold several.

States are those of the imagination inside, in compressed latents. A roll-out asks for all its latent actions first:
those of one latent lead to frames that are imagined together, so that none can be chosen in view of another.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from colaworld.models.backbones import Backbone
from colaworld.models.compressed_time import CompressedTime, compressed_time
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.flow import SamplerConfig
from colaworld.models.imagination import Imagination, Imagined, NextAction, given


class ClipImagination:
    """Frames' latents ``(B, T, C, h, w)`` and latent actions ``(B, N, D)`` around ``inside``, an ``Imagination`` (or
    ``Engine``) of latents of ``time``.
    """

    def __init__(self, inside: Imagination, time: CompressedTime) -> None:
        self.inside, self.time = inside, time

    @property
    def video(self) -> Backbone:
        """Of the imagination inside."""
        return self.inside.video

    @property
    def conditioner(self) -> nn.Module | None:
        """Of the imagination inside."""
        return self.inside.conditioner

    @property
    def sampler(self) -> SamplerConfig:
        """Of the imagination inside."""
        return self.inside.sampler

    @property
    def config(self) -> Any:
        """The engine's."""
        return self.inside.config

    def sampled(self, sampler: SamplerConfig) -> "ClipImagination":
        """As ``Engine.sampled``."""
        return ClipImagination(self.inside.sampled(sampler), self.time)

    def start(self, context: Tensor, actions: Tensor) -> Imagined:
        """As ``Imagination.start``. ValueError for another number of frames than a plan starts from."""
        if context.shape[1] != self.time.context:
            raise ValueError(f"this world starts from {self.time.context} frames, got {context.shape[1]}")
        return self.inside.start(self.time.compress(context), self.time.group(actions))

    def noise(
        self, last: Tensor, horizon: int, generator: torch.Generator | None, *, count: int = 1
    ) -> Tensor | None:
        """As ``Imagination.noise``, for the latents that reach ``horizon`` frames ahead."""
        return self.inside.noise(last, self.time.latents_ahead(horizon), generator, count=count)

    def roll_out(
        self,
        state: Imagined,
        next_action: NextAction,
        horizon: int,
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> Tensor:
        """As ``Imagination.roll_out``; ``next_action`` is shown the state's latents at every step."""
        return self._expanded(self.inside.roll_out, state, next_action, horizon, generator, noise)

    def roll_out_uncached(
        self,
        state: Imagined,
        next_action: NextAction,
        horizon: int,
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> Tensor:
        """As ``Imagination.roll_out_uncached``."""
        return self._expanded(self.inside.roll_out_uncached, state, next_action, horizon, generator, noise)

    def in_chunks(self, piece: Callable[[slice], Tensor], count: int, horizon: int) -> Tensor:
        """As ``Engine.in_chunks``; the memory of what is expanded to frames is not counted."""
        return self.inside.in_chunks(piece, count, self.time.latents_ahead(horizon))

    def _expanded(
        self,
        roll_out: Callable[..., Tensor],
        state: Imagined,
        next_action: NextAction,
        horizon: int,
        generator: torch.Generator | None,
        noise: Tensor | None,
    ) -> Tensor:
        actions = torch.stack([next_action(step, state.recent) for step in range(horizon)], dim=1)
        grouped = self.time.group_ahead(actions)
        future = roll_out(state, given(grouped), grouped.shape[1], generator, noise=noise)
        return self.time.expand_ahead(torch.cat([state.recent, future], dim=1), horizon)


def over_frames(imagination: Imagination, codec: nn.Module) -> Imagination | ClipImagination:
    """``imagination`` as it is where ``codec`` makes one latent a frame, else counted in frames."""
    time = compressed_time(codec, CONTEXT_FRAMES)
    return imagination if time is None else ClipImagination(imagination, time)
