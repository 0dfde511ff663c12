"""A trained system as the world that planning asks for: real actions in, imagined latents out.

Held actions ``(A,)`` become chunks ``(frame_skip, A)``, the adapter turns them into latent actions (seeing the frames
imagined so far; snapped to codes if it was made so), and the video model imagines. See ``planning.protocols.World``.
"""

import torch
from einops import repeat
from torch import Tensor

from colaworld.adapters.action_adapter import adapt, context_windows
from colaworld.adapters.system import ColaSystem
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.flow import SamplerConfig
from colaworld.models.imagination import Imagination, Imagined, NextAction


class ColaWorld:
    """``snap`` (None: as the adapter was made) decides whether latent actions are snapped to codes.

    ValueError when the system has no adapter.
    """

    def __init__(
        self, system: ColaSystem, sampler: SamplerConfig = SamplerConfig(), *, snap: bool | None = None
    ) -> None:
        if system.adapter is None:
            raise ValueError(f"a system of stage {system.info.stage!r} has no adapter: it cannot imagine real actions")
        self.system, self.snap = system, snap
        self.model = system.model().eval()
        self.adapter = system.adapter.eval()
        self.device = next(system.video.parameters()).device
        self.imagination = Imagination(system.video, system.conditioner, system.info.flow, sampler)

    @property
    def action_dim(self) -> int:
        """A, of one held action."""
        return self.system.info.action_dim

    @property
    def context_frames(self) -> int:
        """VP2's two."""
        return CONTEXT_FRAMES

    @property
    def max_horizon(self) -> int:
        """How far a clip as it was trained on reaches beyond its context."""
        return min(self.system.info.clip, self.system.video.config.max_frames) - CONTEXT_FRAMES

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """uint8 ``(N, 3, height, width) -> (N, C, h, w)``."""
        return self.system.codec.encode(frames.to(self.device))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """``(N, C, h, w) -> float32 (N, 3, height, width)`` in [0, 1]."""
        return self.system.codec.decode(latents).add(1.0).div(2.0)

    def latent_actions(self, actions: Tensor, context: Tensor) -> Tensor:
        """Chunks ``(B, N, frame_skip, A)`` and the clip's latents ``(B, N + 1, C, h, w)``, the last not read ->
        ``(B, N, D)``.
        """
        windows = context_windows(context, self.adapter.config.context_frames)
        return adapt(self.adapter, self.model.bottleneck, actions, windows, snap=self.snap)

    @torch.no_grad()
    def start(self, frames: Tensor, actions: Tensor) -> Imagined:
        """uint8 ``(T, 3, height, width)`` (the last two are used) and the held actions ``(T - 1, A)`` between them."""
        if len(frames) < CONTEXT_FRAMES or len(actions) != len(frames) - 1:
            raise ValueError(
                f"a start needs at least {CONTEXT_FRAMES} frames and an action between each two, got {len(frames)} and {len(actions)}"
            )
        latents = self.encode(frames[-CONTEXT_FRAMES:])[None]
        chunks = self._chunks(actions[None, -(CONTEXT_FRAMES - 1) :])
        return self.imagination.start(latents, self.latent_actions(chunks, latents))

    @torch.no_grad()
    def imagine(self, state: Imagined, actions: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``(S, H, A) -> (S, H, C, h, w)``. ValueError when H is beyond ``max_horizon``."""
        count, horizon, _ = actions.shape
        if horizon > self.max_horizon:
            raise ValueError(f"a horizon of {horizon} steps is beyond the world's {self.max_horizon}")
        adapt = self.adapted(self._chunks(actions.to(self.device)))
        return self.imagination.roll_out(state.expand(count), adapt, horizon, generator)

    def adapted(self, chunks: Tensor) -> NextAction:
        """The next-action callable of action chunks ``(S, H, frame_skip, A)``: each adapted in view of the frames
        before it.
        """

        def next_action(step: int, recent: Tensor) -> Tensor:
            frames = self.adapter.config.context_frames
            window = recent[:, None, -frames:] if frames else None
            chunk = chunks[:, step : step + 1]
            return adapt(self.adapter, self.model.bottleneck, chunk, window, snap=self.snap)[:, 0]

        return next_action

    def _chunks(self, actions: Tensor) -> Tensor:
        held = actions.to(self.device, torch.float32)
        return repeat(held, "s h a -> s h k a", k=self.system.info.frame_skip)
