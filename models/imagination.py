"""Rolling a world model forward, one cached frame at a time.

The context's keys and values are computed once. Each new frame is integrated from its source (for plans: the last frame
itself, one step), then run once more as a clean frame to join the cache. Latent actions come from a callable, because
an adapter may want to see the frame that was just imagined.

Shapes: latents ``(B, T, C, h, w)``, latent actions ``(B, N, D)``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.blocks import TemporalCache
from colaworld.models.flow import FlowConfig, SamplerConfig, integrate, source_latents
from colaworld.models.video_transformer import VideoTransformer

NextAction = Callable[[int, Tensor], Tensor]
"""``(step, recent frames (B, T, C, h, w)) -> latent action (B, D)`` that leads from the last of them to the next frame."""


@dataclass
class Imagined:
    """A world model's memory while it rolls out: cache, recent clean frames ``(B, T, C, h, w)``, latent actions
    ``(B, T - 1, D)``.
    """

    cache: TemporalCache
    recent: Tensor
    actions: Tensor

    def expand(self, count: int) -> "Imagined":
        """One context for ``count`` candidates."""
        return Imagined(
            self.cache.expand(count), self.recent.expand(count, -1, -1, -1, -1), self.actions.expand(count, -1, -1)
        )


class Imagination:
    """``start`` on real frames, then ``roll_out``. A conditioner of None rolls out an action-free model."""

    def __init__(
        self,
        video: VideoTransformer,
        conditioner: ActionConditioner | None,
        flow: FlowConfig,
        sampler: SamplerConfig = SamplerConfig(),
    ) -> None:
        if sampler.guidance != 1.0 and conditioner is None:
            raise ValueError(f"guidance={sampler.guidance} needs an action conditioner")
        self.video, self.conditioner, self.flow, self.sampler = video, conditioner, flow, sampler

    def start(self, context: Tensor, actions: Tensor) -> Imagined:
        """``context (B, T, C, h, w)`` and the latent actions ``(B, T - 1, D)`` between its frames."""
        return Imagined(self.video.remember(context), context, actions)

    def roll_out(
        self, state: Imagined, next_action: NextAction, horizon: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """The ``horizon`` frames ``(B, horizon, C, h, w)`` that follow; ``state`` is left as it was."""
        cache, recent, actions, frames = state.cache, state.recent, state.actions, []
        for step in range(horizon):
            actions = torch.cat([actions, next_action(step, recent)[:, None]], dim=1)
            frame = self._next_frame(cache, recent[:, -1:], actions, generator)
            frames.append(frame)
            recent = torch.cat([recent[:, 1:], frame], dim=1)
            if step + 1 < horizon:
                cache = self.video.remember(frame, cache)
        return torch.cat(frames, dim=1)

    def _next_frame(
        self, cache: TemporalCache, last: Tensor, actions: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        std, guidance = self.sampler.std, self.sampler.guidance
        noise = torch.zeros_like(last)
        if std > 0.0 or self.flow.source == "noise":
            # One frame of noise for the whole batch: candidates of a plan then differ by their actions alone.
            # It is drawn where its generator lives.
            where = last.device if generator is None else generator.device
            noise = torch.randn(last[:1].shape, generator=generator, device=where).to(last).expand_as(last)
        source = source_latents(self.flow, last, noise, std)
        modulation = None if self.conditioner is None else self.conditioner(actions)[:, -1:]
        free = None
        if guidance != 1.0:
            dropped = torch.zeros(actions.shape[:2], dtype=torch.bool, device=last.device)
            dropped[:, -1] = True
            free = self.conditioner(actions, dropped=dropped)[:, -1:]

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            guided = self.video.next_velocity(x, time, cache, action_modulation=modulation)
            if free is None:
                return guided
            unguided = self.video.next_velocity(x, time, cache, action_modulation=free)
            return unguided + guidance * (guided - unguided)

        return integrate(velocity, source, self.sampler.steps)


def given(actions: Tensor) -> NextAction:
    """The next-action callable of latent actions ``(B, H, D)`` known beforehand."""
    return lambda step, recent: actions[:, step]
