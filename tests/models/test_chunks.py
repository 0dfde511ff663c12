"""Pieces that fit into memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from colaworld.models.chunks import Chunks

FAILURES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
]


class Room:
    """Squares of its rows, of at most ``fits`` at once."""

    def __init__(self, fits: int, failure: Exception = FAILURES[0]) -> None:
        self.fits, self.failure, self.asked, self.released = fits, failure, [], 0

    def piece(self, rows: slice) -> Tensor:
        self.asked.append((rows.start, rows.stop))
        if rows.stop - rows.start > self.fits:
            raise self.failure
        return torch.arange(rows.start, rows.stop).square()

    def release(self) -> None:
        self.released += 1

    def run(self, chunks: Chunks, count: int, limit: int | None = None) -> Tensor:
        return chunks.run(self.piece, count, limit=limit, release=self.release)


@pytest.mark.parametrize(("limit", "asked"), [(None, [(0, 7)]), (9, [(0, 7)]), (3, [(0, 3), (3, 6), (6, 7)])])
def test_rows_come_in_order_whatever_the_limit(limit, asked):
    room = Room(fits=100)
    assert torch.equal(room.run(Chunks(), 7, limit), torch.arange(7).square())
    assert room.asked == asked and room.released == 0


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_piece_that_does_not_fit_is_halved_and_that_is_remembered(failure):
    chunks, room = Chunks(), Room(fits=3, failure=failure)
    assert torch.equal(room.run(chunks, 10), torch.arange(10).square())
    assert room.asked == [(0, 10), (0, 5), (0, 2), (2, 4), (4, 6), (6, 8), (8, 10)] and room.released == 2
    room.asked.clear()
    assert torch.equal(room.run(chunks, 4), torch.arange(4).square())
    assert room.asked == [(0, 2), (2, 4)]


def test_what_is_finished_is_not_computed_again():
    room = Room(fits=4)

    def piece(rows: slice) -> Tensor:  # memory gets scarce on the way
        room.fits = 4 if rows.start < 4 else 2
        return room.piece(rows)

    assert torch.equal(Chunks().run(piece, 8, limit=4, release=room.release), torch.arange(8).square())
    assert room.asked == [(0, 4), (4, 8), (4, 6), (6, 8)]


def test_other_errors_and_single_rows_are_not_hidden():
    def raises(error: Exception) -> Callable[[slice], Tensor]:
        def piece(rows: slice) -> Tensor:
            raise error

        return piece

    for error in (RuntimeError("shapes do not match"), ValueError("out of memory")):
        with pytest.raises(type(error), match=str(error)):
            Chunks().run(raises(error), 4, release=lambda: None)
    with pytest.raises(torch.OutOfMemoryError):
        Room(fits=0).run(Chunks(), 4)
