"""A global batch in the equal parts that processes, and one process one after another, work off.

Parts of a batch draw their noise as rows of what the whole batch draws (``models/share.py``), so that losses and
weights are the same, but for rounding, whatever the number of processes and of parts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from colaworld.experiments.batches import Batch
from colaworld.models.share import Share


@dataclass(frozen=True, kw_only=True)
class Part:
    """Clips, and what their random draws come from."""

    batch: Batch
    chance: Share


def parts_of(batch: Batch, accelerator: Accelerator, accumulate: int, seed: int) -> Iterator[Part]:
    """This process's share of a batch in ``accumulate`` parts; ``seed`` is the whole batch's."""
    parts = accelerator.num_processes * accumulate
    pieces = zip(*(value.chunk(accumulate) for value in vars(batch).values()), strict=True)
    for number, tensors in enumerate(pieces, start=accelerator.process_index * accumulate):
        generator = torch.Generator(accelerator.device).manual_seed(seed)
        part = Batch(**dict(zip(vars(batch), tensors, strict=True)))
        yield Part(batch=part, chance=Share(generator=generator, part=number, parts=parts))


def check_divisible(batch_size: int, accelerator: Accelerator, accumulate: int, flag: str) -> None:
    """ValueError when a batch has no equal parts."""
    if batch_size % (accelerator.num_processes * accumulate):
        raise ValueError(
            f"{flag} {batch_size} cannot be divided by {accelerator.num_processes} processes times "
            f"--loop.accumulate {accumulate}"
        )


def means(parts: Sequence[Mapping[str, Tensor]], accelerator: Accelerator) -> dict[str, float]:
    """Each number's mean over parts and processes."""
    names = list(parts[0])
    own = torch.stack([torch.stack([part[name].float() for name in names]) for part in parts]).mean(dim=0)
    return dict(zip(names, accelerator.reduce(own, "mean").tolist(), strict=True))


def agreed(said: bool, accelerator: Accelerator) -> bool:
    """What the main process says, for all: clocks differ, and who saves while others go on waits for ever."""
    if accelerator.num_processes == 1:
        return said
    vote = torch.tensor(float(said and accelerator.is_main_process), device=accelerator.device)
    return bool(accelerator.reduce(vote, "sum") > 0)
