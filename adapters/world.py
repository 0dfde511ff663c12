"""A trained system as the world that planning asks for: real actions in, imagined latents out.

Held actions ``(A,)`` become chunks ``(frame_skip, A)``, the adapter turns them into latent actions (seeing the frames
imagined so far; snapped to codes if it was made so), and the video model imagines. See ``planning.protocols.World``.

Latents stay latents until ``decode`` is asked for frames. ``refined`` is the door for ranking elites again with more
sampling steps, ``with_gradients`` the one for planners that descend; both understand this world's states.

Where the codec compresses time, plans are still made of one action a frame and imagined as one latent a frame;
``ClipImagination`` says what that means for single steps.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import replace

import torch
from einops import repeat
from torch import Tensor, nn

from colaworld.adapters.action_adapter import adapt, codes_of, context_windows
from colaworld.adapters.system import ColaSystem
from colaworld.models.clip_imagination import over_frames
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.engine import Engine, EngineConfig
from colaworld.models.flow import SamplerConfig
from colaworld.models.imagination import Imagined, NextAction, given


class ColaWorld:
    """``snap`` (None: as the adapter was made) decides whether latent actions are snapped to codes; ``sampler`` and
    ``engine`` say how frames are sampled and computed.

    ValueError when the system has no adapter.
    """

    def __init__(
        self,
        system: ColaSystem,
        sampler: SamplerConfig = SamplerConfig(),
        *,
        snap: bool | None = None,
        engine: EngineConfig = EngineConfig(),
    ) -> None:
        if system.adapter is None:
            raise ValueError(f"a system of stage {system.info.stage!r} has no adapter: it cannot imagine real actions")
        self.system, self.snap = system, snap
        self.model = system.model().eval()
        self.adapter = system.adapter.eval()
        self.device = next(system.video.parameters()).device
        made = Engine(system.video, system.conditioner, system.info.flow, sampler, engine)
        self.imagination = over_frames(made, system.codec)
        self.gradients = False

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
        clip, most, time = self.system.info.clip, self.system.video.config.max_frames, self.model.compressed
        if time is None:
            return min(clip, most) - CONTEXT_FRAMES
        ahead = (most - time.groups.latents(CONTEXT_FRAMES)) * time.size
        return min(time.used(clip) - CONTEXT_FRAMES, ahead)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """uint8 ``(N, 3, height, width) -> (N, C, h, w)``."""
        return self.system.codec.encode(frames.to(self.device))

    def decode(self, latents: Tensor) -> Tensor:
        """``(N, C, h, w) -> float32 (N, 3, height, width)`` in [0, 1]."""
        with self._edge(latents):
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
                f"a start needs at least {CONTEXT_FRAMES} frames and an action between each two, got {len(frames)} and "
                f"{len(actions)}"
            )
        latents = self.encode(frames[-CONTEXT_FRAMES:])[None]
        return self.imagination.start(latents, self._led(actions[None, -(CONTEXT_FRAMES - 1) :], latents))

    def _led(self, actions: Tensor, latents: Tensor) -> Tensor:
        """The latent actions ``(1, N, D)`` that led through the context ``latents (1, N + 1, C, h, w)``."""
        return self.latent_actions(self._chunks(actions), latents)

    def imagine(self, state: Imagined, actions: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``(S, H, A) -> (S, H, C, h, w)``, in chunks that fit the engine's memory budget (one, where gradients pass).

        ValueError when H is beyond ``max_horizon``.
        """
        with self._edge(actions):
            state, chunks, noise = self._prepared(state, actions, generator)
            engine, horizon = self.imagination, actions.shape[1]

            def piece(rows: slice) -> Tensor:
                own = noise if noise is None or len(noise) == 1 else noise[rows]
                return engine.roll_out(state.candidates(rows), self.adapted(chunks[rows]), horizon, noise=own)

            if torch.is_grad_enabled():
                return piece(slice(None))
            return engine.in_chunks(piece, len(actions), horizon)

    @torch.no_grad()
    def codes(self, frames: Tensor, actions: Tensor, imagined: Tensor) -> Tensor | None:
        """The codes ``(H, tokens)`` of one plan, as people read it: the nearest to what the adapter makes of ``actions
        (H, A)``, seeing the last two of ``frames uint8 (T, 3, height, width)`` and then ``imagined (H, C, h, w)``. None
        of a continuous bottleneck.
        """
        if not self.system.bottleneck.codes:
            return None
        latents = torch.cat([self.encode(frames[-CONTEXT_FRAMES:]), imagined])[None]
        windows = context_windows(latents, self.adapter.config.context_frames)
        windows = None if windows is None else windows[:, -len(actions) :]
        return codes_of(self.adapter, self.model.bottleneck, self.adapter(self._chunks(actions[None]), windows))[0]

    @torch.no_grad()
    def imagine_uncached(
        self, state: Imagined, actions: Tensor, generator: torch.Generator | None = None, *, batch: int = 1
    ) -> Tensor:
        """``imagine`` the slow way, for comparison: ``batch`` candidates at a time, all frames anew at every step.

        ``state`` as ``start`` returns it; ValueError for one that has been advanced.
        """
        state, chunks, noise = self._prepared(state, actions, generator)
        futures = []
        for first in range(0, len(actions), batch):
            rows = slice(first, first + batch)
            own = noise if noise is None or len(noise) == 1 else noise[rows]
            adapt = self.adapted(chunks[rows])
            futures.append(
                self.imagination.roll_out_uncached(state.candidates(rows), adapt, actions.shape[1], noise=own)
            )
        return torch.cat(futures)

    def refined(self, steps: int | None = None) -> "ColaWorld":
        """The same world, weights and memory with ``steps`` sampling steps a frame (None: the engine's ``final_steps``,
        or as many as now). States and, given an equal generator, noise are the same.
        """
        sampler = self.imagination.sampler
        steps = self.imagination.config.final_steps if steps is None else steps
        other = copy(self)
        other.imagination = self.imagination.sampled(sampler if steps is None else replace(sampler, steps=steps))
        return other

    def with_gradients(self) -> "ColaWorld":
        """The same world, through whose ``imagine`` and ``decode`` gradients reach the actions, where they are wanted;
        straight through where they are snapped to codes. None reach the weights.
        """
        other = copy(self)
        other.gradients = True
        return other

    @torch.no_grad()
    def advance(
        self, state: Imagined, actions: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Imagined]:
        """One step of ``imagine``: ``(S, A) -> (S, C, h, w)`` and the state after it, ``state`` left as it was.

        ValueError when ``state`` is ``max_horizon`` steps beyond its context already.
        """
        if state.taken >= self.max_horizon:
            raise ValueError(f"the state is {self.max_horizon} steps beyond its context, as far as the world reaches")
        state, chunks, noise = self._prepared(state, actions[:, None], generator)
        frame, after = self.imagination.advance(state, self.adapted(chunks), noise=noise)
        return frame[:, 0], after

    def by_codes(self) -> "ColaCodeWorld":
        """The same world with codes for actions. ValueError when its latent actions are continuous."""
        coded = ColaCodeWorld(self.system, self.imagination.sampler)
        coded.imagination, coded.gradients = self.imagination, self.gradients
        return coded

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

    def _prepared(
        self, state: Imagined, actions: Tensor, generator: torch.Generator | None
    ) -> tuple[Imagined, Tensor, Tensor | None]:
        """The candidates' state, their action chunks, and all the noise of their frames."""
        count, horizon, _ = actions.shape
        if horizon > self.max_horizon:
            raise ValueError(f"a horizon of {horizon} steps is beyond the world's {self.max_horizon}")
        drawn = 1 if self.imagination.config.common_noise else count
        noise = self.imagination.noise(state, horizon, generator, count=drawn)
        return state.expand(count), self._chunks(actions.to(self.device)), noise

    def _edge(self, entering: Tensor) -> AbstractContextManager:
        """Inside, nothing has a gradient, unless this world passes them and one is wanted for what is ``entering``;
        never for weights.
        """
        if not (self.gradients and torch.is_grad_enabled() and entering.requires_grad):
            return torch.no_grad()
        engine = self.imagination
        parts = [*self.system.parts().values(), engine.video, engine.conditioner]
        return without_gradient([weight for part in parts for weight in part.parameters()])

    def _chunks(self, actions: Tensor) -> Tensor:
        held = actions.to(self.device, torch.float32)
        return repeat(held, "s h a -> s h k a", k=self.system.info.frame_skip)


class ColaCodeWorld(ColaWorld):
    """The system driven by codes: an "action" is the code indices of one latent action, int64 ``(tokens,)``. Those that
    led to a start are read off its frames: what was planned need not be what happened.

    ValueError when the bottleneck is continuous, and for indices beyond the codebook.
    """

    def __init__(
        self, system: ColaSystem, sampler: SamplerConfig = SamplerConfig(), *, engine: EngineConfig = EngineConfig()
    ) -> None:
        super().__init__(system, sampler, engine=engine)
        if not system.bottleneck.codes:
            raise ValueError("a system with a continuous bottleneck has no codes")

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """How many codes each token has."""
        return self.system.bottleneck.code_sizes

    @property
    def action_dim(self) -> int:
        """Tokens of one latent action."""
        return self.system.bottleneck.config.tokens

    def latent_actions(self, actions: Tensor, context: Tensor) -> Tensor:
        """Codes ``(B, N, tokens) -> (B, N, D)``; the frames between which they lead do not matter."""
        return self.system.bottleneck.from_indices(actions)

    def _led(self, actions: Tensor, latents: Tensor) -> Tensor:
        self._chunks(actions)  # what they are is not read, but codes they must be
        return self.model.latent_actions(latents).latents

    def adapted(self, chunks: Tensor) -> NextAction:
        """The next-action callable of codes ``(S, H, tokens)``."""
        return given(self.latent_actions(chunks, chunks))

    def _chunks(self, actions: Tensor) -> Tensor:
        codes = actions.to(self.device, torch.int64)
        if codes.shape[-1] != self.action_dim or codes.min() < 0 or codes.max() >= self.code_sizes[0]:
            raise ValueError(f"codes must be {self.action_dim} indices of 0..{self.code_sizes[0] - 1} a step")
        return codes


@contextmanager
def without_gradient(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """What is computed inside has no gradient for ``weights``; gradients pass through it."""
    learning = [weight for weight in weights if weight.requires_grad]
    for weight in learning:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)
