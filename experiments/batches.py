"""Batches that depend on the seed and the step alone, so that a resumed run sees what an unbroken one would have seen.

Shapes: frames uint8 ``(B, T, 3, height, width)``, of encoded data latents float32 ``(B, T, C, h, w)``; actions ``(B, T
- 1, frame_skip, A)``, ee_pos ``(B, T, 3)``.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Sampler

from colaworld.envs.demos import Clip, ClipDataset, Cropped
from colaworld.experiments.mixture import Mixture
from colaworld.models.codec import FrameCodec
from colaworld.models.compressed_time import ClipCodec
from colaworld.models.share import Chance, draw


@dataclass
class Batch:
    """Clips as tensors."""

    frames: Tensor
    actions: Tensor
    ee_pos: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(self.frames.to(device), self.actions.to(device), self.ee_pos.to(device))


def derived_seed(*parts: object) -> int:
    """One 63-bit seed from any parts, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class StepBatches(Sampler[list[int | Cropped]]):
    """The clip numbers of every step from ``start`` to ``stop``; step k's are drawn from (seed, stage, k).

    ``half_of``: clip numbers that half of every batch is drawn from (rounded up). ``mixture``: how much of a batch each
    data set has (None: every clip is drawn alike). ``copies``: of encoded clips, which come under that many crops: a
    step draws one for each. ``part`` of ``parts``: which equal stretch of every batch is given out, to one of so many
    processes. ValueError for a batch without equal parts.
    """

    def __init__(
        self,
        clips: int,
        batch_size: int,
        *,
        seed: int,
        stage: str,
        start: int,
        stop: int,
        half_of: Sequence[int] | None = None,
        mixture: Mixture | None = None,
        copies: int = 0,
        part: int = 0,
        parts: int = 1,
    ) -> None:
        if batch_size % parts or not 0 <= part < parts:
            raise ValueError(f"a batch of {batch_size} clips has no part {part} of {parts} equal ones")
        self.clips, self.batch_size, self.seed, self.stage, self.half_of = clips, batch_size, seed, stage, half_of
        self.start, self.stop, self.mixture, self.copies = start, stop, mixture, copies
        self.part, self.parts = part, parts
        self.mixed_half = mixture.only(half_of) if mixture is not None and half_of is not None else None

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> "_Steps":
        return _Steps(self)

    def of_step(self, step: int) -> list[int | Cropped]:
        """This part's clip numbers in one step."""
        draw = np.random.default_rng(derived_seed(self.seed, self.stage, "clips", step))
        chosen = self._mixed(draw) if self.mixture is not None else self._alike(draw)
        shown = cropped(chosen, self.copies, derived_seed(self.seed, self.stage, "crops", step))
        share = self.batch_size // self.parts
        return shown[self.part * share :][:share]

    def _alike(self, draw: np.random.Generator) -> list[int]:
        chosen = draw.integers(self.clips, size=self.batch_size).tolist()
        if self.half_of is not None:
            count = (self.batch_size + 1) // 2
            chosen[:count] = [self.half_of[index] for index in draw.integers(len(self.half_of), size=count)]
        return chosen

    def _mixed(self, draw: np.random.Generator) -> list[int]:
        if self.mixed_half is None:
            return self.mixture.draw(draw, self.batch_size)
        count = (self.batch_size + 1) // 2
        return self.mixed_half.draw(draw, count) + self.mixture.draw(draw, self.batch_size - count)


def crop_copies(dataset: ClipDataset, shift: int) -> int:
    """How many crops of a clip a stage with ``shift`` chooses from in encoded data; 0: it makes its own, or none."""
    encoded = getattr(dataset, "encoded", None)
    return encoded.copies if encoded is not None and shift else 0


def cropped(chosen: Sequence[int], copies: int, seed: int) -> list[int | Cropped]:
    """Clips ``chosen``, each under one of ``copies`` crops, drawn from ``seed``; as they are where there are none."""
    if not copies:
        return [int(clip) for clip in chosen]
    drawn = np.random.default_rng(seed).integers(copies, size=len(chosen)).tolist()
    return [Cropped(int(clip), copy) for clip, copy in zip(chosen, drawn, strict=True)]


class _Steps(Iterator[list[int | Cropped]]):
    """Gives out one step after another. Its state is the next step's number, as a ``StatefulDataLoader`` asks for it,
    whose workers are ahead of what has been trained on.
    """

    def __init__(self, batches: StepBatches) -> None:
        self.batches, self.step = batches, batches.start

    def __next__(self) -> list[int | Cropped]:
        if self.step >= self.batches.stop:
            raise StopIteration
        self.step += 1
        return self.batches.of_step(self.step - 1)

    def state_dict(self) -> dict[str, int]:
        """Where it stands."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there. ValueError when that is another step than the run goes on from."""
        if state["step"] != self.batches.start:
            raise ValueError(f"the loader stood at step {state['step']}, the run goes on from {self.batches.start}")
        self.step = state["step"]


def collate(clips: Sequence[Clip]) -> Batch:
    """Clips to one batch."""
    return Batch(
        frames=torch.from_numpy(np.stack([clip.frames for clip in clips])),
        actions=torch.from_numpy(np.stack([clip.actions for clip in clips])),
        ee_pos=torch.from_numpy(np.stack([clip.ee_pos for clip in clips])),
    )


def frame_latents(codec: FrameCodec | ClipCodec, frames: Tensor) -> Tensor:
    """One latent a frame ``(B, T, C, h, w)`` of a batch's frames: pictures are encoded, encoded data's are latents."""
    return frames if frames.is_floating_point() else codec.encode(frames)


def fixed_batch(dataset: ClipDataset, count: int, seed: int, mixture: Mixture | None = None) -> Batch:
    """The clips of `fixed_choice`."""
    return collate([dataset[index] for index in fixed_choice(dataset, count, seed, mixture)])


def fixed_choice(dataset: ClipDataset, count: int, seed: int, mixture: Mixture | None = None) -> list[int]:
    """Numbers of the same ``count`` clips every time, spread over the whole data set, or as ``mixture`` has them."""
    draw = np.random.default_rng(derived_seed(seed, "fixed", count))
    return draw.permutation(len(dataset))[:count].tolist() if mixture is None else mixture.draw(draw, count)


def random_shift(frames: Tensor, pixels: int, generator: Chance) -> Tensor:
    """Pad by ``pixels`` (edges repeated) and crop: one offset for each clip, the same for all its frames.

    Latents of encoded data stay as they are: they were encoded under a crop (``StepBatches``).
    """
    if pixels == 0 or frames.is_floating_point():
        return frames
    batch, _, _, height, width = frames.shape
    flat = F.pad(frames.flatten(0, 1).float(), (pixels,) * 4, mode="replicate").to(frames.dtype)
    padded = flat.unflatten(0, frames.shape[:2])
    offsets = draw(partial(torch.randint, 2 * pixels + 1), (batch, 2), generator, generator.device).tolist()
    crops = [clip[..., y : y + height, x : x + width] for clip, (y, x) in zip(padded, offsets, strict=True)]
    return torch.stack(crops)
