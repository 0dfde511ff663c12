"""Frames of an episode that are read when they are asked for: looks like a uint8 array ``(T, 3, height, width)``.

``FrameStream`` is decoded or read anew and keeps what was read last; ``MappedFrames`` lie unpacked in a file that is
mapped into memory. Both can be sent to other processes: no frame, no open file goes along.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

CACHED_BYTES = 2**29


class FrameCache:
    """The frames that were read last, up to ``limit`` bytes, of any number of streams."""

    def __init__(self, limit: int = CACHED_BYTES) -> None:
        self.limit, self._held, self._frames = limit, 0, OrderedDict()
        self._numbers = count()

    def __reduce__(self) -> tuple[Callable[..., "FrameCache"], tuple[int]]:
        return (_shared if self is SHARED else FrameCache), (self.limit,)

    def new_stream(self) -> int:
        """A number for one more stream, the first half of its frames' keys."""
        return next(self._numbers)

    def get(self, key: tuple[int, int]) -> np.ndarray | None:
        """The frame kept under ``key``."""
        if key in self._frames:
            self._frames.move_to_end(key)
        return self._frames.get(key)

    def put(self, key: tuple[int, int], frame: np.ndarray) -> None:
        """Keep ``frame``; what was used longest ago goes when there is no room."""
        self._frames[key] = frame
        self._held += frame.nbytes
        while self._held > self.limit:
            self._held -= self._frames.popitem(last=False)[1].nbytes


SHARED = FrameCache()
"""One for all sources of a process: a folder may hold hundreds."""


def _shared(limit: int) -> FrameCache:
    return SHARED


class FrameStream:
    """T frames that ``read`` finds by their numbers: ``read(numbers) -> uint8 (len(numbers), 3, height, width)``.

    Indexing with a number or a slice reads just those frames; ``np.asarray`` reads all.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, read: Callable[[Sequence[int]], np.ndarray], shape: tuple[int, int, int, int], cache: FrameCache
    ) -> None:
        self.shape, self._read, self._cache = shape, read, cache
        self._number = cache.new_stream()

    def __reduce__(self) -> tuple[Any, ...]:
        return FrameStream, (self._read, self.shape, self._cache)  # which gives it a number there

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> np.ndarray:
        if not isinstance(index, slice):
            number = range(len(self))[index]
            return self[number : number + 1][0]
        numbers = range(len(self))[index]
        frames = {number: self._cache.get((self._number, number)) for number in numbers}
        missing = [number for number, frame in frames.items() if frame is None]
        if missing:
            for number, frame in zip(missing, self._read(missing), strict=True):
                frames[number] = frame.copy()
                self._cache.put((self._number, number), frames[number])
        if not frames:
            return np.empty((0, *self.shape[1:]), np.uint8)
        return np.stack([frames[number] for number in numbers])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class MappedFile:
    """The ``.npy`` file at ``path`` with an array of ``shape``, mapped into memory in each process that reads it."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self._array: np.ndarray | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedFile, (self.path, self.shape)

    @property
    def array(self) -> np.ndarray:
        """The array, read only."""
        if self._array is None:
            self._array = np.load(self.path, mmap_mode="r")
        return self._array

    def check(self) -> None:
        """ValueError when the file holds something else."""
        if self.array.shape != self.shape:
            raise ValueError(f"{self.path}: shape is {self.array.shape}, expected {self.shape}; delete this file")


class MappedFrames:
    """Frames ``start`` to ``stop`` of the array ``(N, 3, height, width)`` in a mapped file."""

    dtype = np.dtype(np.uint8)

    def __init__(self, file: MappedFile, start: int, stop: int) -> None:
        self.file, self.start, self.stop = file, start, stop
        self.shape = (stop - start, *file.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> np.ndarray:
        return np.array(self.file.array[self.start : self.stop][index])  # a copy: whoever reads may write to it

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)
