"""A batch in pieces that fit into memory: halved when memory runs out, and what is finished is kept.

Every row must come out the same whichever rows it is computed with.
"""

from collections.abc import Callable

import torch
from torch import Tensor

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory")
"""How PyTorch says so where it has no exception of its own (on a CPU)."""


class Chunks:
    """``size`` is the most rows that a piece may have as far as is known (None: nothing failed yet)."""

    def __init__(self) -> None:
        self.size: int | None = None

    def run(
        self, piece: Callable[[slice], Tensor], count: int, *, limit: int | None = None, release: Callable[[], None]
    ) -> Tensor:
        """``piece(rows)`` for all ``count`` rows, at most ``limit`` (None: all) at once, concatenated.

        When a piece runs out of memory ``release()`` frees what it can, and the piece is tried again with half its
        rows; that size is kept for later calls. Raises what ``piece`` raises when a single row does not fit, and every
        other error.
        """
        results: list[Tensor] = []
        done = 0
        while done < count:
            rows = min(count - done, *(size for size in (limit, self.size) if size is not None), count)
            result = None
            try:
                result = piece(slice(done, done + rows))
            except (RuntimeError, MemoryError) as error:
                if rows == 1 or not out_of_memory(error):
                    raise
            # Only here, after the exception has let go of the failed piece's tensors, is there anything to free.
            if result is None:
                self.size = rows // 2
                release()
                continue
            results.append(result)
            done += rows
        return torch.cat(results)


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that an allocation failed."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
