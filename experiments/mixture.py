"""Several data sets in one batch, each with its share, however many clips it has.

A batch of B clips holds of a data set whose share is s either the whole number below B s or the one above, and B s on
average (systematic sampling): steadier than drawing each clip's data set alone. Within a data set all clips are alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from colaworld.envs.demos import ClipDataset


@dataclass(frozen=True, eq=False)
class Mixture:
    """Of each data set its ``weights`` entry, above 0, and the numbers of its ``clips``, of which there is one."""

    weights: np.ndarray
    clips: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, dataset: ClipDataset, weights: Sequence[float]) -> "Mixture | None":
        """Of the data sets that ``dataset`` was made of; None without weights. Data sets without a clip, as those of
        which no action is known, leave their share to the others. ValueError when no clip is left.
        """
        if not weights:
            return None
        numbers = dataset.clips_by_origin()
        chosen = [origin for origin, weight in enumerate(weights) if weight > 0 and len(numbers[origin])]
        if not chosen:
            raise ValueError(f"--weights {' '.join(f'{each:g}' for each in weights)}: no clip is left to draw from")
        return cls(np.array([weights[origin] for origin in chosen]), tuple(numbers[origin] for origin in chosen))

    def only(self, numbers: Sequence[int]) -> "Mixture":
        """The same shares of those clips that are among ``numbers``. ValueError when there are none."""
        left = [clips[np.isin(clips, np.asarray(numbers))] for clips in self.clips]
        kept = [index for index, clips in enumerate(left) if len(clips)]
        if not kept:
            raise ValueError("--weights: none of the clips whose actions are known is in a data set above 0")
        return replace(self, weights=self.weights[kept], clips=tuple(left[index] for index in kept))

    def draw(self, draw: np.random.Generator, count: int) -> list[int]:
        """``count`` clip numbers, in no order."""
        bounds = np.cumsum(self.weights) / self.weights.sum()
        points = (draw.random() + np.arange(count)) / count
        which = draw.permutation(np.searchsorted(bounds[:-1], points, side="right"))
        places = draw.integers(np.array([len(clips) for clips in self.clips])[which])
        return [int(self.clips[origin][place]) for origin, place in zip(which, places, strict=True)]


def check_shares(dataset: ClipDataset, weights: Sequence[float]) -> None:
    """ValueError naming --weights and the data set that shall have a share of the clips and has no clip."""
    for path, weight, numbers in zip(dataset.paths, weights, dataset.clips_by_origin(), strict=False):
        if weight > 0 and not len(numbers):
            raise ValueError(f"--weights {weight:g}: {path} has no training clip of {dataset.length} frames")
