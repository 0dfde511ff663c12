"""Intervals over training seeds that share their evaluation clips.

Two things vary: the seed of a training and the clips it is judged on. Clips are the same for all seeds, so seed and
clip are crossed, and a number for each clip and seed is not as many independent ones. The interval over seeds takes one
mean for each seed and Student's t (with three seeds a bootstrap has ten different resamples and is too narrow); the
clustered one resamples seeds and, across all of them alike, clips.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t

from colaworld.experiments.intervals import Interval


def t_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Mean of ``values (seeds,)`` with Student's interval. ValueError for fewer than two."""
    values = np.asarray(values, float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval over seeds needs one value for each of at least 2, got shape {values.shape}")
    mean = float(values.mean())
    half = t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(estimate=mean, low=mean - float(half), high=mean + float(half))


def clustered_interval(
    values: np.ndarray, *, confidence: float = 0.95, resamples: int = 4000, seed: int = 0
) -> Interval:
    """Mean of ``values (seeds, clips)`` with a percentile bootstrap that draws rows and columns independently."""
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"a clustered interval needs at least 2 seeds and 2 clips, got shape {values.shape}")
    rng = np.random.default_rng(seed)
    seeds, clips = values.shape
    # How often each row and each column is drawn; the mean of a resample is their weighted sum.
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    columns = rng.multinomial(clips, np.full(clips, 1 / clips), resamples) / clips
    means = ((rows @ values) * columns).sum(axis=1)
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(estimate=float(values.mean()), low=float(low), high=float(high))
