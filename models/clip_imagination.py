"""``Imagination``'s methods, counted in frames where the world model's latents hold several.

Frames of one latent are imagined together, from its actions together. What this means for plans and for single steps:

- A roll-out asks for all its actions first, so that none is chosen in view of another's frame. Where the last latent
  has fewer actions than frames, the last action is held: of what it leads to nothing is shown.
- ``advance`` by one step imagines the present latent from the actions that there are, the last one held, and shows
  that step's frame: what a roll-out of the actions so far ends with, under the same noise. The latent joins the
  memory when it has all its actions. So stepping agrees with imagining a whole sequence in the last frame of every
  latent; the frames before it are as that latent looked while its later actions were not known.

Shapes: frames' latents ``(B, T, C, h, w)``, latent actions ``(B, N, D)``; inside ``(B, K, C', h', w')`` and
``(B, K - 1, size * D)``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from colaworld.models.backbones import Backbone
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.compressed_time import CompressedTime, compressed_time
from colaworld.models.flow import SamplerConfig
from colaworld.models.imagination import Imagination, Imagined, NextAction, given


@dataclass(kw_only=True)
class ImaginedClip(Imagined):
    """``Imagined`` of latents, ``recent`` being all that there are, which decoding wants.

    ``pending``: latent actions ``(B, n, D)`` of the latent that is not whole, n below its size; ``drawn``: its noise
    ``(B or 1, 1, C, h, w)``, where anything is random.
    """

    pending: Tensor
    drawn: Tensor | None = None

    def expand(self, count: int) -> Self:
        """As ``Imagined.expand``."""
        return replace(super().expand(count), pending=self.pending.expand(count, -1, -1))

    def candidates(self, rows: slice) -> Self:
        """As ``Imagined.candidates``."""
        return replace(super().candidates(rows), pending=self.pending[rows])


class ClipImagination:
    """Frames' latents and latent actions around ``inside``, an ``Imagination`` or ``Engine`` of ``time``'s latents."""

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

    def start(self, context: Tensor, actions: Tensor) -> ImaginedClip:
        """As ``Imagination.start``. ValueError for another number of frames than a plan starts from."""
        if context.shape[1] != self.time.context:
            raise ValueError(f"this world starts from {self.time.context} frames, got {context.shape[1]}")
        started = self.inside.start(self.time.compress(context), self.time.group(actions))
        return ImaginedClip(**vars(started), pending=actions[:, :0])

    def noise(
        self, state: ImaginedClip, horizon: int, generator: torch.Generator | None, *, count: int = 1
    ) -> Tensor | None:
        """As ``Imagination.noise``, of the latents that reach ``horizon`` frames ahead. A latent that was begun keeps
        the noise that was drawn for it.
        """
        ahead = self.time.latents_ahead(state.pending.shape[1] + horizon)
        if not state.pending.shape[1]:
            return self.inside.noise(state, ahead, generator, count=count)
        if state.drawn is None or ahead == 1:
            return state.drawn
        fresh = self.inside.noise(state, ahead - 1, generator, count=count)
        count = max(len(fresh), len(state.drawn))
        return torch.cat([part.expand(count, -1, -1, -1, -1) for part in (state.drawn, fresh)], dim=1)

    def roll_out(
        self,
        state: ImaginedClip,
        next_action: NextAction,
        horizon: int,
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> Tensor:
        """As ``Imagination.roll_out``; ``next_action`` is shown the state's latents at every step."""
        return self._expanded(self.inside.roll_out, state, next_action, horizon, generator, noise)[0]

    def roll_out_uncached(
        self,
        state: ImaginedClip,
        next_action: NextAction,
        horizon: int,
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> Tensor:
        """As ``Imagination.roll_out_uncached``."""
        return self._expanded(self.inside.roll_out_uncached, state, next_action, horizon, generator, noise)[0]

    def advance(
        self,
        state: ImaginedClip,
        next_action: NextAction,
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, ImaginedClip]:
        """As ``Imagination.advance``; see the top of this file for what a step inside a latent shows."""
        noise = self.noise(state, 1, generator) if noise is None else noise
        action = next_action(0, state.recent)
        pending = torch.cat([state.pending, action[:, None]], dim=1)
        frame, latent = self._expanded(self.inside.roll_out, state, lambda *_: action, 1, None, noise)
        if pending.shape[1] < self.time.size:
            return frame, replace(state, pending=pending, drawn=noise, taken=state.taken + 1)
        after = ImaginedClip(
            cache=self.inside.remember(latent, state.cache),
            recent=torch.cat([state.recent, latent], dim=1),
            actions=torch.cat([state.actions, self.time.group_ahead(pending)], dim=1),
            taken=state.taken + 1,
            pending=pending[:, :0],
        )
        return frame, after

    def in_chunks(self, piece: Callable[[slice], Tensor], count: int, horizon: int) -> Tensor:
        """As ``Engine.in_chunks``; the memory of what is expanded to frames is not counted."""
        return self.inside.in_chunks(piece, count, self.time.latents_ahead(horizon))

    def _expanded(
        self,
        roll_out: Callable[..., Tensor],
        state: ImaginedClip,
        next_action: NextAction,
        horizon: int,
        generator: torch.Generator | None,
        noise: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The ``horizon`` frames that follow, and the latents that they are of."""
        noise = self.noise(state, horizon, generator) if noise is None else noise
        actions = torch.stack([next_action(step, state.recent) for step in range(horizon)], dim=1)
        grouped = self.time.group_ahead(torch.cat([state.pending, actions], dim=1))
        future = roll_out(state, given(grouped), grouped.shape[1], noise=noise)
        return self.time.expand_ahead(torch.cat([state.recent, future], dim=1), horizon, taken=state.taken), future


def over_frames(imagination: Imagination, codec: nn.Module) -> Imagination | ClipImagination:
    """``imagination`` as it is where ``codec`` makes one latent a frame, else counted in frames."""
    time = compressed_time(codec, CONTEXT_FRAMES)
    return imagination if time is None else ClipImagination(imagination, time)
