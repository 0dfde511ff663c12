"""Which frames one latent holds where a video codec compresses time, and how their actions enter it.

Codecs such as OpenSora's and Wan's make one latent of ``size`` frames, the first frame of a clip (OpenSora: of each
chunk) being a latent of its own: 17 frames are latents of 1, 4, 4, 4, 4. Latent actions are still one a frame, since
inverse dynamics reads frames, so that one latent has up to ``size`` of them: those that lead to its frames. They travel
side by side as one step of the world model, ``(B, K - 1, size * D)``: recipe, imagination and planner then count in
latents and are otherwise as they were.

``GroupedConditioner`` takes them apart again: causal attention over all single actions, then the mean of the actions'
outputs of each latent. A latent depends on actions up to its last frame, and on none later.

Not stated in the paper: all of this. Classifier-free guidance drops a latent's actions together, as it does when it
samples; dropped one by one, four at once would never be trained.

Shapes: latent actions ``(B, T - 1, D)`` of T frames, grouped ``(B, K - 1, size * D)`` of K latents, modulation
``(B, K - 1, 6, W)``.
"""

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor

from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.share import Chance, draw


@dataclass(frozen=True, kw_only=True)
class FrameGroups:
    """How frames lie in latents: ``chunk`` frames are encoded at a time (None: the whole clip), each chunk filled up in
    front to a multiple of ``size``. With a ``lead`` (and no chunks) the first frame of any clip is a latent of its own,
    and the others up to that number another: 14 frames with a lead of 2 are latents of 1, 1, 4, 4, 4.
    """

    size: int = 4
    chunk: int | None = 17
    lead: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be 1 or more, got {self.size}")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be 1 or more, got {self.chunk}")
        if self.lead is not None and (self.chunk is not None or not 1 <= self.lead <= self.size):
            raise ValueError(
                f"a lead must lie in 1..{self.size} and chunk be None, got lead={self.lead} and chunk={self.chunk}"
            )

    def lengths(self, frames: int) -> list[int]:
        """How many frames each latent of a clip holds. ValueError for clips of a length that no latents make up."""
        if frames < 1:
            raise ValueError(f"a clip has 1 frame or more, got {frames}")
        if self.lead is not None:
            return self._led(frames)
        found, left = [], frames
        while left > 0:
            part = left if self.chunk is None else min(left, self.chunk)
            first = part % self.size or self.size
            found += [first] + [self.size] * ((part - first) // self.size)
            left -= part
        return found

    def latents(self, frames: int) -> int:
        """How many latents a clip of ``frames`` has."""
        return len(self.lengths(frames))

    def frames(self, latents: int) -> int:
        """The longest clip of ``latents`` whose first latent, and that of each chunk, is as short as chunks allow: 5
        latents are 17 frames.
        """
        return sum(self._usual(number) for number in range(latents))

    def given(self, latents: int) -> Tensor:
        """Which places of the groups of latents 1.. ``latents - 1`` hold an action, bool ``(latents - 1, size)``; the
        last ones do.
        """
        usual = torch.tensor([self._usual(number) for number in range(1, latents)], dtype=torch.long)
        return torch.arange(self.size) >= self.size - usual[:, None]

    def group(self, actions: Tensor) -> Tensor:
        """Actions ``(B, T - 1, D)`` between T frames to ``(B, K - 1, size * D)``; empty places are zero. Those within
        the first latent lead to nothing that is predicted and are left out. ValueError for a clip whose last chunk
        begins otherwise than the others.
        """
        lengths = self.lengths(actions.shape[1] + 1)
        usual = [self._usual(number) for number in range(1, len(lengths))]
        if lengths[1:] != usual:
            raise ValueError(f"{actions.shape[1] + 1} frames lie in latents of {lengths}, not of {lengths[:1] + usual}")
        batch, _, width = actions.shape
        places = self.given(len(lengths)).flatten().nonzero()[:, 0].to(actions.device)
        empty = actions.new_zeros(batch, len(usual) * self.size, width)
        grouped = empty.index_copy(1, places, actions[:, lengths[0] - 1 :])
        return rearrange(grouped, "b (k size) d -> b k (size d)", size=self.size)

    def _led(self, frames: int) -> list[int]:
        """``lengths`` with a ``lead``."""
        found = []
        while sum(found) < frames:
            found.append(self._usual(len(found)))
        if sum(found) != frames:
            raise ValueError(f"a clip has 1 or {self.lead} + {self.size} n frames, got {frames}")
        return found

    def _usual(self, number: int) -> int:
        """Frames in latent ``number`` where every chunk is whole, or the clip goes on."""
        if number == 1 and self.lead is not None and self.lead > 1:
            return self.lead - 1
        first = 1 if self.chunk is None else self.chunk % self.size or self.size
        each = None if self.chunk is None else -(-self.chunk // self.size)
        return first if number == 0 or (each is not None and number % each == 0) else self.size


class GroupedConditioner(ModelMixin, ConfigMixin):
    """``ActionConditioner`` of grouped actions; as there, a fresh one returns zeros and too many steps a ValueError.

    ``max_steps`` counts latents.
    """

    @register_to_config
    def __init__(
        self,
        *,
        latent_action_dim: int = 64,
        size: int = 4,
        chunk: int | None = 17,
        lead: int | None = None,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        video_width: int = 192,
        max_steps: int = 16,
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0.0 <= drop < 1.0:
            raise ValueError(f"action drop must lie in [0, 1), got {drop}")
        self.groups = FrameGroups(size=size, chunk=chunk, lead=lead)
        self.single = ActionConditioner(
            latent_action_dim=latent_action_dim,
            width=width,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            video_width=video_width,
            max_steps=size * max_steps,
            drop=0.0,
        )

    def forward(
        self, latent_actions: Tensor, *, dropped: Tensor | None = None, generator: Chance | None = None
    ) -> Tensor:
        """``latent_actions (B, N, size * D)`` -> modulation ``(B, N, 6, W)``. ``dropped (B, N)`` bool marks latents
        without actions; in training mode more are drawn from ``generator``.
        """
        batch, steps = latent_actions.shape[:2]
        size = self.config.size
        empty = ~self.groups.given(steps + 1).to(latent_actions.device).expand(batch, -1, -1)
        absent = empty if dropped is None else empty | dropped[..., None]
        if self.training and generator is not None and self.config.drop:
            drawn = draw(torch.rand, (batch, steps), generator, latent_actions.device) < self.config.drop
            absent = absent | drawn[..., None]
        modulation = self.single(
            rearrange(latent_actions, "b n (size d) -> b (n size) d", size=size),
            dropped=rearrange(absent, "b n size -> b (n size)"),
        )
        modulation = rearrange(modulation, "b (n size) six w -> b n size six w", size=size)
        weight = (~empty).to(modulation.dtype)[..., None, None]
        return (modulation * weight).sum(dim=2) / weight.sum(dim=2)
