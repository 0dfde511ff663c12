"""Frames of an episode that are read when they are asked for: looks like a uint8 array ``(T, 3, height, width)``."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np

CACHED_BYTES = 2**29


class FrameCache:
    """The frames that were read last, up to ``limit`` bytes; one for all the episodes of a source."""

    def __init__(self, limit: int = CACHED_BYTES) -> None:
        self.limit, self._held, self._frames = limit, 0, OrderedDict()
        self._numbers = count()

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
