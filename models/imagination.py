"""Rolling a world model forward, one cached frame at a time.

The context's keys and values are computed once. Each new frame is integrated from its source (for plans: the last frame
itself, one step), then run once more as a clean frame to join the cache. Latent actions come from a callable, because
an adapter may want to see the frame that was just imagined.

This is the plain form, through which gradients pass. ``Engine`` does the same in fewer passes and in place;
``roll_out_uncached`` does it without any memory, for tests and as what a benchmark compares with.

Shapes: latents ``(B, T, C, h, w)``, latent actions ``(B, N, D)``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.backbones import Backbone
from colaworld.models.blocks import TemporalCache
from colaworld.models.flow import FlowConfig, SamplerConfig, integrate, source_latents

NextAction = Callable[[int, Tensor], Tensor]
"""``(step, recent frames (B, T, C, h, w)) -> latent action (B, D)`` that leads from the last of them to the next
frame."""

NextFrame = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""``(step, recent frames, where the flow starts (B, 1, C, h, w), latent actions so far) -> frame (B, 1, C, h, w)``, one
step after the other."""


@dataclass
class Imagined:
    """A world model's memory while it rolls out: cache, recent clean frames ``(B, T, C, h, w)``, latent actions
    ``(B, T - 1, D)``, and how many steps were ``taken`` since it was started.
    """

    cache: TemporalCache
    recent: Tensor
    actions: Tensor
    taken: int = 0

    def expand(self, count: int) -> Self:
        """One context for ``count`` candidates."""
        return replace(
            self,
            cache=self.cache.expand(count),
            recent=self.recent.expand(count, -1, -1, -1, -1),
            actions=self.actions.expand(count, -1, -1),
        )

    def candidates(self, rows: slice) -> Self:
        """Some of the candidates; views."""
        cache = TemporalCache([key[rows] for key in self.cache.keys], [value[rows] for value in self.cache.values])
        return replace(self, cache=cache, recent=self.recent[rows], actions=self.actions[rows])


class Imagination:
    """``start`` on real frames, then ``roll_out``. A conditioner of None rolls out an action-free model.

    ``dtype``: what both networks compute in, and must be in (None: as their inputs are). Frames stay as they come.
    """

    def __init__(
        self,
        video: Backbone,
        conditioner: ActionConditioner | None,
        flow: FlowConfig,
        sampler: SamplerConfig = SamplerConfig(),
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        if sampler.guidance != 1.0 and conditioner is None:
            raise ValueError(f"guidance={sampler.guidance} needs an action conditioner")
        self.video, self.conditioner, self.flow, self.sampler = video, conditioner, flow, sampler
        self.dtype = dtype

    def start(self, context: Tensor, actions: Tensor) -> Imagined:
        """``context (B, T, C, h, w)`` and the latent actions ``(B, T - 1, D)`` between its frames."""
        return Imagined(self.remember(context), context, actions)

    def remember(self, clean: Tensor, cache: TemporalCache | None = None) -> TemporalCache:
        """``cache`` with the clean frames ``(B, F, C, h, w)`` appended."""
        return self.video.remember(clean.to(self.dtype), cache)

    def noise(
        self, state: Imagined, horizon: int, generator: torch.Generator | None, *, count: int = 1
    ) -> Tensor | None:
        """Noise ``(count, horizon, C, h, w)`` for the frames after ``state``, drawn frame by frame where ``generator``
        lives; None where nothing is random. A ``count`` of 1 is for all candidates, which then differ by their actions
        alone.
        """
        if self.sampler.std == 0.0 and self.flow.source != "noise":
            return None
        last = state.recent
        where = last.device if generator is None else generator.device
        shape = (count, 1, *last.shape[2:])
        frames = [torch.randn(shape, generator=generator, device=where) for _ in range(horizon)]
        return torch.cat(frames, dim=1).to(last)

    def roll_out(
        self,
        state: Imagined,
        next_action: NextAction,
        horizon: int,
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The ``horizon`` frames ``(B, horizon, C, h, w)`` that follow; ``state`` is left as it was. ``noise (B or 1,
        horizon, C, h, w)``: what was drawn already (None: it is drawn from ``generator``, one for all).
        """
        return self._rolled(self._by_cache(state, horizon), state, next_action, horizon, generator, noise)

    def advance(
        self,
        state: Imagined,
        next_action: NextAction,
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Imagined]:
        """The frame ``(B, 1, C, h, w)`` that ``roll_out`` begins with, and the state after it."""
        action = next_action(0, state.recent)
        frame = self.roll_out(state, lambda *_: action, 1, generator, noise=noise)
        after = Imagined(
            self.remember(frame, state.cache),
            torch.cat([state.recent[:, 1:], frame], dim=1),
            torch.cat([state.actions, action[:, None]], dim=1),
            state.taken + 1,
        )
        return frame, after

    def roll_out_uncached(
        self,
        state: Imagined,
        next_action: NextAction,
        horizon: int,
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> Tensor:
        """What ``roll_out`` does, every step of every frame computed from all frames so far, as in training.

        ValueError for a ``state`` that no longer holds all its frames.
        """
        if state.recent.shape[1] != state.actions.shape[1] + 1:
            raise ValueError(f"{state.actions.shape[1] + 1} frames were seen, {state.recent.shape[1]} are left")
        return self._rolled(self._all_anew(state), state, next_action, horizon, generator, noise)

    def _rolled(
        self,
        next_frame: NextFrame,
        state: Imagined,
        next_action: NextAction,
        horizon: int,
        generator: torch.Generator | None,
        noise: Tensor | None,
    ) -> Tensor:
        """Frames one after another, each made by ``next_frame``."""
        noise = self.noise(state, horizon, generator) if noise is None else noise
        recent, actions, frames = state.recent, state.actions, []
        for step in range(horizon):
            actions = torch.cat([actions, next_action(step, recent)[:, None]], dim=1)
            frame = next_frame(step, recent, self._source(recent, noise, step), actions)
            frames.append(frame)
            recent = torch.cat([recent[:, 1:], frame], dim=1)
        return torch.cat(frames, dim=1)

    def _by_cache(self, state: Imagined, horizon: int) -> NextFrame:
        """Frames made from the cache, which each joins before the next."""
        cache = state.cache

        def next_frame(step: int, recent: Tensor, source: Tensor, actions: Tensor) -> Tensor:
            nonlocal cache
            if step:
                cache = self.remember(recent[:, -1:], cache)
            branches = [None if part is None else part[:, -1:] for part in self._modulations(actions)]

            def velocity(x: Tensor, time: Tensor) -> Tensor:
                found = [
                    self.video.next_velocity(x.to(self.dtype), time, cache, action_modulation=modulation)
                    for modulation in branches
                ]
                return self._guided(torch.cat(found, dim=1), x)

            return self._integrated(velocity, source)

        return next_frame

    def _all_anew(self, state: Imagined) -> NextFrame:
        """Frames made from all that were seen, without a cache."""
        seen = state.recent

        def next_frame(step: int, recent: Tensor, source: Tensor, actions: Tensor) -> Tensor:
            nonlocal seen
            if step:
                seen = torch.cat([seen, recent[:, -1:]], dim=1)
            branches = self._modulations(actions)

            def velocity(x: Tensor, time: Tensor) -> Tensor:
                noised = torch.cat([seen[:, 1:], x], dim=1)
                times = torch.cat([torch.ones_like(time).expand(-1, seen.shape[1] - 1), time], dim=1)
                found = [
                    self.video.two_streams(
                        seen.to(self.dtype), noised.to(self.dtype), times, action_modulation=modulation
                    )[:, -1:]
                    for modulation in branches
                ]
                return self._guided(torch.cat(found, dim=1), x)

            return self._integrated(velocity, source)

        return next_frame

    def _integrated(self, velocity: Callable[[Tensor, Tensor], Tensor], source: Tensor) -> Tensor:
        """As the sampler does."""
        return integrate(velocity, source, self.sampler.steps, self.flow.ratio)

    def _source(self, recent: Tensor, noise: Tensor | None, step: int) -> Tensor:
        """Where the flow to the next frame starts ``(B, 1, C, h, w)``."""
        last = recent[:, -1:]
        drawn = torch.zeros_like(last) if noise is None else noise[:, step : step + 1].expand_as(last)
        return source_latents(self.flow, last, drawn, self.sampler.std)

    def _modulations(self, actions: Tensor) -> list[Tensor | None]:
        """Of all steps ``(B, N, 6, W)``: with their actions and, for guidance, with the last one dropped."""
        if self.conditioner is None:
            return [None]
        actions = actions.to(self.dtype)
        if self.sampler.guidance == 1.0:
            return [self.conditioner(actions)]
        dropped = torch.zeros(2, *actions.shape[:2], dtype=torch.bool, device=actions.device)
        dropped[1, :, -1] = True
        return list(self.conditioner(torch.cat([actions, actions]), dropped=dropped.flatten(0, 1)).chunk(2))

    def _guided(self, velocities: Tensor, x: Tensor) -> Tensor:
        """The branches' velocities ``(B, 1 or 2, C, h, w)`` to the one that is followed, in the type of ``x``."""
        velocities = velocities.to(x.dtype)
        if velocities.shape[1] == 1:
            return velocities
        guided, free = velocities.chunk(2, dim=1)
        return free + self.sampler.guidance * (guided - free)


def given(actions: Tensor) -> NextAction:
    """The next-action callable of latent actions ``(B, H, D)`` known beforehand."""
    return lambda step, recent: actions[:, step]
