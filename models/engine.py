"""Imagination at planning's speed: what ``Imagination`` computes, in fewer and fixed passes.

- A pass carries up to three frames side by side, as training's two streams do: the frame imagined last as a clean one,
  which joins the cache on the way, and the noised next frame, for guidance twice, with its action and without. So a
  frame costs ``steps`` passes, not ``steps + 1`` (twice that with guidance), and the last one is never remembered.
  Exactly the same sums, since the mask says who sees whom: no clean frame sees a noised one, and clean frames carry no
  action. A backbone whose memory is the frames themselves is spared the clean one.
- Keys and values are written in place into room for the whole roll-out (``StaticCache``), under a mask. A pass has the
  same shapes at every frame, so with ``compile`` there are two graphs for each batch size, with and without the clean
  frame, and on a GPU each is one CUDA graph.
- ``in_chunks`` keeps to a memory budget. All noise is drawn before (see ``Imagination.noise``), so chunks change
  nothing.

Nothing here is decoded, and no gradient passes: where one is wanted frames are made the plain way. In bfloat16 the
networks' weights, the cache and the velocities are; frames, flow time and the sum over a frame's steps stay float32.

Shapes: latents ``(B, T, C, h, w)``, latent actions ``(B, N, D)``, modulation ``(B, F, 6, W)``.
"""

import functools
import math
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.backbones import Backbone
from colaworld.models.chunks import Chunks
from colaworld.models.flow import FlowConfig, SamplerConfig
from colaworld.models.imagination import Imagination, Imagined, NextFrame
from colaworld.models.static_cache import StaticCache, visible

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GRAPHS = 64
"""At most so many compiled versions of a pass in one process."""
ACTIVATIONS = 4
"""Numbers alive at once in a block, as a multiple of its widest layer's output; measured nowhere, halving mends it."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How imagination is computed; only ``dtype``, ``common_noise`` and ``final_steps`` change what comes out.

    How frames are sampled inside a search (steps, noise, guidance) is ``SamplerConfig``'s.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and cache. bfloat16 is for GPUs; a CPU computes it too, seldom faster."""
    compile: bool = False
    """``torch.compile`` with static shapes: candidates are filled up to a power of two. The first plan waits for it."""
    max_batch: int | None = None
    """At most this many candidates at once."""
    max_memory_mib: int | None = None
    """At most as many candidates at once as by an estimate fit in so many MiB beside the weights."""
    common_noise: bool = True
    """One noise for all candidates, which then differ by their actions alone; else each has its own."""
    final_steps: int | None = None
    """Sampling steps of ``refined`` worlds, that rank the elites again (None: as many as in the search)."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        for name in ("max_batch", "max_memory_mib", "final_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")


class Engine(Imagination):
    """``Imagination`` under an ``EngineConfig``. In bfloat16 it works on a copy of the weights as they are now."""

    def __init__(
        self,
        video: Backbone,
        conditioner: ActionConditioner | None,
        flow: FlowConfig,
        sampler: SamplerConfig = SamplerConfig(),
        config: EngineConfig = EngineConfig(),
    ) -> None:
        dtype = DTYPES[config.dtype]
        if dtype != torch.float32:
            video = nn.Module.to(deepcopy(video), dtype)
            conditioner = None if conditioner is None else nn.Module.to(deepcopy(conditioner), dtype)
        super().__init__(video, conditioner, flow, sampler, dtype=dtype)
        self.config = config
        self._chunks, self._rooms = Chunks(), {}
        self._pass = self._compiled() if config.compile else self._velocity

    def sampled(self, sampler: SamplerConfig) -> "Engine":
        """The same engine (weights, compiled code, memory) with frames sampled otherwise."""
        other = copy(self)
        Imagination.__init__(other, self.video, self.conditioner, self.flow, sampler, dtype=self.dtype)
        return other

    def _by_cache(self, state: Imagined, horizon: int) -> NextFrame:
        """As ``Imagination``'s; where a gradient may pass it is that one."""
        if torch.is_grad_enabled():
            return super()._by_cache(state, horizon)
        return functools.partial(self._frame, self._room(state, horizon), state.cache.frames)

    def in_chunks(self, piece: Callable[[slice], Tensor], count: int, horizon: int) -> Tensor:
        """``piece(rows)``, which rolls out some of ``count`` candidates, within the memory budget; when memory runs out
        all the same, in smaller pieces from then on.
        """
        return self._chunks.run(piece, count, limit=self.limit(horizon), release=self.release)

    def limit(self, horizon: int) -> int | None:
        """How many candidates may be imagined at once (None: any number)."""
        limits = [self.config.max_batch] if self.config.max_batch else []
        if self.config.max_memory_mib:
            limits.append(max(1, self.config.max_memory_mib * 2**20 // self.candidate_bytes(horizon)))
        if not limits:
            return None
        return 1 << (min(limits).bit_length() - 1) if self.config.compile else min(limits)

    def candidate_bytes(self, horizon: int) -> int:
        """About how much memory one candidate of ``horizon`` steps takes."""
        sizes = self.video.config
        tokens, kept = self.video.rows * self.video.columns, min(sizes.max_frames, horizon + 3)
        cache = kept * (math.prod(self.video.latent_shape) if self._frames else 2 * sizes.depth * tokens * sizes.width)
        widest = sizes.width * max(3.0, sizes.mlp_ratio)
        return int((cache + 3 * tokens * widest * ACTIVATIONS) * self.dtype.itemsize)

    def release(self) -> None:
        """Give back the memory that is kept from roll-out to roll-out."""
        self._rooms.clear()
        if self.video.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _frames(self) -> bool:
        """Whether the backbone's memory is frames, and remembering one takes no pass."""
        return getattr(self.video, "remembers_frames", False)

    @property
    def _branches(self) -> int:
        return 1 if self.sampler.guidance == 1.0 else 2

    def _room(self, state: Imagined, horizon: int) -> StaticCache:
        """A cache with the context in it and places for all that will be remembered and integrated.

        Exactly as many places as are asked for: sums over more, hidden ones are rounded otherwise, and what was
        imagined before would have a say in what comes out. Uncompiled code shares one for all batch sizes; compiled
        code has one for each, whose addresses stay and which reaches as far as the network does, for its shapes to
        stay too.
        """
        batch, slots = len(state.recent), state.cache.frames + horizon - 1 + self._branches
        if self.config.compile:
            batch = 1 << (batch - 1).bit_length()
            slots = max(slots, self.video.config.max_frames - 1 + self._branches)
        key = batch if self.config.compile else "any"
        room = self._rooms.pop(key, None)
        if room is None or room.batch < batch or room.slots != slots:
            room = None  # before the other one is made
            room = StaticCache.like(state.cache, batch, slots)
            if self.config.compile:
                for part in room.tensors():
                    torch._dynamo.mark_static_address(part)
        self._rooms[key] = room
        room = room.first(batch)
        room.load(state.cache)
        return room

    def _frame(
        self, room: StaticCache, context: int, step: int, recent: Tensor, source: Tensor, actions: Tensor
    ) -> Tensor:
        """The frame ``(B, 1, C, h, w)`` of ``step``; the first pass also remembers the one before, if imagined."""
        position, branches = context + step, self._branches
        device = source.device
        own = torch.arange(room.slots - branches, room.slots, device=device)
        mask = visible(room.slots, position, own)
        positions = torch.full((branches,), position, device=device)
        parts = [None if part is None else part[:, -1:] for part in self._modulations(actions)]
        modulation = None if self.conditioner is None else torch.cat(parts, dim=1)
        unremembered = [recent[:, -1:]] if step > 0 else []
        if unremembered and self._frames:
            clean = _filled(unremembered.pop().to(self.dtype), room.batch)
            self.video.remember(clean, room.at(positions[:1] - 1))

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            noised = x.expand(-1, branches, -1, -1, -1)
            times = time.expand(-1, branches)
            if not unremembered:
                return self._guided(self._run(noised, times, positions, modulation, mask, room, own), x)
            place = positions[:1] - 1
            found = self._run(
                torch.cat([unremembered.pop(), noised], dim=1),
                torch.cat([torch.ones_like(time), times], dim=1),
                torch.cat([place, positions]),
                None if modulation is None else torch.cat([torch.zeros_like(modulation[:, :1]), modulation], dim=1),
                torch.cat([torch.arange(room.slots, device=device)[None] <= place, mask]),
                room,
                torch.cat([place, own]),
            )
            return self._guided(found[:, 1:], x)

        return self._integrated(velocity, source)

    def _run(
        self,
        latents: Tensor,
        time: Tensor,
        positions: Tensor,
        modulation: Tensor | None,
        mask: Tensor,
        room: StaticCache,
        places: Tensor,
    ) -> Tensor:
        """One pass: velocities ``(B, F, C, h, w)`` of frames whose keys and values go to ``places (F,)``."""
        count = len(latents)
        latents, time = _filled(latents.to(self.dtype), room.batch), _filled(time, room.batch)
        modulation = None if modulation is None else _filled(modulation, room.batch)
        if self.config.compile and latents.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        return self._pass(latents, time, positions, modulation, mask, room.at(places))[:count]

    def _velocity(self, latents, time, positions, modulation, mask, cache) -> Tensor:
        return self.video(latents, time, positions, action_modulation=modulation, mask=mask, cache=cache)[0]

    def _compiled(self) -> Callable[..., Tensor]:
        on_gpu = self.video.device.type == "cuda"
        # Two graphs for each batch size and dtype, of all engines of a process: shapes are few, but above Dynamo's 8.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        return torch.compile(
            self._velocity, dynamic=False, fullgraph=True, mode="reduce-overhead" if on_gpu else "default"
        )


def _filled(rows: Tensor, batch: int) -> Tensor:
    """``rows`` and as many rows of zeros as ``batch`` wants, of which nothing is read. Contiguous, because compiled
    code is bound to how its inputs lie in memory.
    """
    if len(rows) == batch:
        return rows.contiguous()
    return torch.cat([rows, rows.new_zeros(batch - len(rows), *rows.shape[1:])])
