"""Room for a whole roll-out's keys and values, allocated once and written in place.

Every pass then has the same shapes, whatever has been imagined so far: nothing is concatenated, and compiled code and
CUDA graphs stay valid. Slot t holds the clean frame t; the frames that are being integrated lie in the last slots and
are overwritten by every pass. One attention call takes one tensor of keys, so the context's, which candidates share as
views until then, are copied to each candidate here: once a roll-out, not once a frame.

Shapes: buffers ``(B, P, heads, slots, d)``, one pair for each temporal block.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from colaworld.models.blocks import Slots, TemporalCache


@dataclass
class StaticCache:
    """Buffers of keys and values."""

    keys: list[Tensor]
    values: list[Tensor]

    @classmethod
    def like(cls, context: TemporalCache, batch: int, slots: int) -> "StaticCache":
        """Empty, for ``batch`` candidates of what ``context`` remembers; its type and device."""

        def room(part: Tensor) -> Tensor:
            _, patches, heads, _, width = part.shape
            return part.new_zeros(batch, patches, heads, slots, width)

        return cls([room(part) for part in context.keys], [room(part) for part in context.values])

    @property
    def batch(self) -> int:
        """B, how many candidates there is room for."""
        return self.keys[0].shape[0]

    @property
    def slots(self) -> int:
        """For how many frames there is room, those that are being integrated included."""
        return self.keys[0].shape[3]

    def tensors(self) -> list[Tensor]:
        """Every buffer."""
        return [*self.keys, *self.values]

    def first(self, batch: int) -> "StaticCache":
        """The room of the first ``batch`` candidates; views."""
        if batch == self.batch:
            return self
        return StaticCache([part[:batch] for part in self.keys], [part[:batch] for part in self.values])

    def load(self, context: TemporalCache) -> None:
        """Begin a roll-out with what ``context`` remembers, for its candidates; the rest is empty.

        Emptied, not only hidden: a hidden NaN of an earlier roll-out would still spread, since 0 * NaN is NaN.
        """
        for buffer, part in zip(self.tensors(), [*context.keys, *context.values], strict=True):
            buffer.zero_()
            buffer[: len(part), :, :, : part.shape[3]] = part

    def at(self, places: Tensor) -> TemporalCache:
        """The cache for a pass that writes its frames at ``places (F,)``."""
        return TemporalCache([Slots(part, places) for part in self.keys], [Slots(part, places) for part in self.values])


def visible(slots: int, done: int, own: Tensor) -> Tensor:
    """Mask bool ``(F, slots)`` of noised frames: each sees the ``done`` clean frames and its ``own (F,)`` slot."""
    every = torch.arange(slots, device=own.device)
    return (every < done) | (every == own[:, None])
