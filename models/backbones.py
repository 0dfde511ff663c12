"""What a video generator must offer to be the world model, and the generators that do.

Recipe, imagination, engine and evaluation call a backbone through ``Backbone`` alone: one velocity pass over frames
that are clean or noised, each with a flow time of its own, under a mask and a cache of clean frames. ``CausalFrames``
makes the three calls they use (``two_streams``, ``remember``, ``next_velocity``) out of ``forward``. Another generator
is one file with one class, and one line in ``BACKBONES``: ``ltx`` is the shortest, made of what ``space_time`` has for
diffusers' generators that attend over space and time at once.

Inside there is one convention (``flow``): time 0 is the source, time 1 the data, velocity = data - source, and a clean
frame is a frame at time 1. What a published generator means by its timestep and its output is said by a ``Convention``,
at its door.

Shapes: latents ``(B, F, C, h, w)``, flow time ``(B, F)``, positions ``(F,)``, action modulation ``(B, F, 6, W)``, cache
entries ``(B, P, heads, T, d)`` with P tokens a frame and T frames.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from colaworld.models.blocks import TemporalCache
from colaworld.models.checkpointed import Checkpointed

BACKBONES = {
    "own": ("colaworld.models.video_transformer", "VideoTransformer"),
    "conv": ("colaworld.models.conv_backbone", "ConvBackbone"),
    "opensora": ("colaworld.models.stdit3", "STDiT3"),
    "wan": ("colaworld.models.wan", "WanBackbone"),
    "ltx": ("colaworld.models.ltx", "LTXBackbone"),
}
"""Name to module and class. Modules are imported when they are asked for."""


class BackboneSizes(Protocol):
    """What is read of ``Backbone.config``, for sizes of memory and of the action conditioner."""

    width: int
    """W of the action modulation, and of the tokens."""
    depth: int
    """How many layers keep keys and values of earlier frames; blocks, where frames are what is remembered."""
    mlp_ratio: float
    max_frames: int
    """Frames (of latents) that a clip may have."""


@runtime_checkable
class Backbone(Protocol):
    """A causal video generator conditioned on actions; also an ``nn.Module`` with diffusers' ``save_pretrained``,
    ``from_pretrained`` and ``device``.

    Laws: a frame's velocity depends on nothing that its mask hides; ``forward`` over all frames at once and frame by
    frame against a cache compute the same; ``action_modulation`` of zeros is as None.
    """

    config: Any
    """Has the fields of ``BackboneSizes``."""
    rows: int
    columns: int
    """Tokens a frame: P = rows x columns."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)`` of one frame's latent."""

    def forward(
        self,
        latents: Tensor,
        time: Tensor,
        positions: Tensor,
        *,
        action_modulation: Tensor | None = None,
        mask: Tensor | None = None,
        cache: TemporalCache | None = None,
    ) -> tuple[Tensor, TemporalCache]:
        """Velocity ``(B, F, C, h, w)`` and the cache with these frames appended (written in place where it is made of
        ``Slots``). ``mask (F, cached + F)`` bool: which frames each may see (None: all).
        """

    def two_streams(
        self, clean: Tensor, noised: Tensor, time: Tensor, *, action_modulation: Tensor | None = None
    ) -> Tensor:
        """See ``CausalFrames``."""

    def remember(self, clean: Tensor, cache: TemporalCache | None = None) -> TemporalCache:
        """See ``CausalFrames``."""

    def next_velocity(
        self, noised: Tensor, time: Tensor, cache: TemporalCache, *, action_modulation: Tensor | None = None
    ) -> Tensor:
        """See ``CausalFrames``."""


class CausalFrames(Checkpointed):
    """Most of a ``Backbone``, for a module with ``config``, whose ``forward`` is ``Backbone.forward`` and runs its
    blocks through ``_run``.
    """

    remembers_frames = False
    """Whether what is remembered of a clean frame is the frame, and ``remember`` runs no network."""

    def _lay_out(self, height: int, width: int, patch: int) -> None:
        """``rows`` and ``columns`` of latents ``height`` x ``width``. ValueError where they do not divide."""
        if height % patch or width % patch:
            raise ValueError(f"latents of {height}x{width} do not divide by patch {patch}")
        self.rows, self.columns = height // patch, width // patch

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)``."""
        return self.config.latent_channels, self.config.latent_height, self.config.latent_width

    def two_streams(
        self, clean: Tensor, noised: Tensor, time: Tensor, *, action_modulation: Tensor | None = None
    ) -> Tensor:
        """Training in parallel: velocity ``(B, N, C, h, w)`` of the noised frames 1..N given clean frames 0..N-1 ``(B,
        N, ...)``. ``time (B, N)``, ``action_modulation (B, N, 6, W)``: of the noised frames.
        """
        count = clean.shape[1]
        steps = torch.arange(count, device=clean.device)
        causal = steps[:, None] >= steps  # clean i sees clean j <= i; noised i + 1 sees clean j <= i too, and itself
        alone = torch.eye(count, dtype=torch.bool, device=clean.device)
        mask = torch.cat([torch.cat([causal, torch.zeros_like(alone)], 1), torch.cat([causal, alone], 1)], 0)
        if action_modulation is not None:
            action_modulation = torch.cat([torch.zeros_like(action_modulation), action_modulation], dim=1)
        velocity, _ = self(
            torch.cat([clean, noised], dim=1),
            torch.cat([torch.ones_like(time), time], dim=1),
            torch.cat([steps, steps + 1]),
            action_modulation=action_modulation,
            mask=mask,
        )
        return velocity[:, count:]

    def remember(self, clean: Tensor, cache: TemporalCache | None = None) -> TemporalCache:
        """Append clean frames ``(B, F, C, h, w)`` to the cache (causally)."""
        done = cache.frames if cache is not None else 0
        count = clean.shape[1]
        steps = torch.arange(count, device=clean.device)
        mask = torch.arange(done + count, device=clean.device) <= (steps + done)[:, None]
        time = torch.ones(clean.shape[:2], device=clean.device, dtype=clean.dtype)
        return self(clean, time, steps + done, mask=mask, cache=cache)[1]

    def next_velocity(
        self, noised: Tensor, time: Tensor, cache: TemporalCache, *, action_modulation: Tensor | None = None
    ) -> Tensor:
        """Velocity ``(B, 1, C, h, w)`` of the one noised frame that follows the cached frames; ``time (B, 1)``."""
        position = torch.tensor([cache.frames], device=noised.device)
        return self(noised, time, position, action_modulation=action_modulation, cache=cache)[0]


@dataclass(frozen=True, kw_only=True)
class Convention:
    """What a published rectified flow means by its timestep (``scale`` is noise, 0 the data) and by its velocity
    (``sign`` 1: data - noise, as here; -1: noise - data).
    """

    sign: Literal[1, -1]
    scale: float = 1000.0

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise ValueError(f"sign must be 1 or -1, got {self.sign!r}")
        if not self.scale > 0.0:
            raise ValueError(f"scale must be positive, got {self.scale}")

    def timestep(self, time: Tensor) -> Tensor:
        """Our flow time to the generator's timestep."""
        return self.scale * (1.0 - time)

    def velocity(self, predicted: Tensor) -> Tensor:
        """What the generator predicts to our velocity (and back)."""
        return self.sign * predicted


OPENSORA = Convention(sign=1)
"""OpenSora's ``RFLOW``: velocity target x0 - noise."""
DIFFUSERS = Convention(sign=-1)
"""diffusers' flow-matching schedulers: velocity target noise - x0."""


def backbone_class(name: str) -> type:
    """The class of a backbone's ``name``. ValueError for names that are not in ``BACKBONES``."""
    if name not in BACKBONES:
        raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}")
    module, found = BACKBONES[name]
    return getattr(import_module(module), found)


def build_backbone(name: str, sizes: Mapping[str, Any]) -> Backbone:
    """A fresh backbone; ``sizes`` are the keyword arguments of its class."""
    return backbone_class(name)(**sizes)


def load_backbone(folder: str | Path) -> Backbone:
    """What a backbone's ``save_pretrained`` wrote. The class is looked up in ``BACKBONES`` by the name in
    ``config.json``; no code of the folder is run. ValueError names the file and what it says.
    """
    path = Path(folder) / "config.json"
    written = json.loads(path.read_text()).get("_class_name")
    for name, (_, found) in BACKBONES.items():
        if found == written:
            return backbone_class(name).from_pretrained(folder)
    known = ", ".join(found for _, found in BACKBONES.values())
    raise ValueError(f"{path}: _class_name must be one of {known}, got {written!r}")
