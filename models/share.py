"""Random draws that belong to a batch, whoever computes which part of it.

A process that trains on its rows of a global batch draws for the whole batch and keeps those rows. So one process and
several see the same noise for the same clips, and a run may go on with another number of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Share:
    """Equal part number ``part`` of ``parts`` of a batch; ``generator`` is seeded alike in all of them.

    ValueError for a part that is not there.
    """

    generator: torch.Generator
    part: int
    parts: int

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part must lie in 0..{self.parts - 1}, got {self.part}")

    @property
    def device(self) -> torch.device:
        """Of the generator."""
        return self.generator.device


Chance = torch.Generator | Share
"""What random draws come from."""


def draw(sample: Callable[..., Tensor], shape: Sequence[int], chance: Chance, device: torch.device) -> Tensor:
    """``sample(shape)``, as ``torch.randn`` and the like; of a share, its rows of what is drawn for the whole batch."""
    if isinstance(chance, torch.Generator):
        return sample(tuple(shape), generator=chance, device=device)
    whole = sample((shape[0] * chance.parts, *shape[1:]), generator=chance.generator, device=device)
    return whole.chunk(chance.parts)[chance.part]
