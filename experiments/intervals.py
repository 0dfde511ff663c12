"""Intervals and tests for small numbers of episodes: Wilson, exact McNemar, bootstrap of a mean. Counting is ours,
the mathematics is statsmodels' and scipy's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and where it probably lies."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Exact McNemar test of two policies on the same episodes; counts of pairs, and the two-sided p value."""

    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def wilson(successes: int, episodes: int, confidence: float = 0.95) -> Interval:
    """Share of successes with Wilson's score interval; raises ValueError for no episodes or more successes than
    episodes.
    """
    if episodes < 1 or not 0 <= successes <= episodes:
        raise ValueError(f"a rate needs an episode and 0 <= successes <= episodes, got {successes} of {episodes}")
    low, high = proportion_confint(successes, episodes, alpha=1 - confidence, method="wilson")
    return Interval(estimate=successes / episodes, low=float(low), high=float(high))


def exact_mcnemar(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """Compare ``first[i]`` with ``second[i]``, the outcomes of two policies on episode i; raises ValueError for
    unequal lengths.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"a paired test needs as many outcomes of both, got {len(first)} and {len(second)}")
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    # Without a discordant pair there is nothing to test: p is 1 by definition, and the library's 0/0 is avoided.
    discordant = table[0][1] + table[1][0]
    p_value = float(mcnemar(table, exact=True).pvalue) if discordant else 1.0
    return PairedTest(
        both=table[0][0],
        only_first=table[0][1],
        only_second=table[1][0],
        neither=table[1][1],
        p_value=min(1.0, p_value),
    )


def bootstrap_mean(
    values: Sequence[float] | np.ndarray, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of ``values (n,)`` with its BCa bootstrap interval; pass differences for a paired comparison.

    Values are resampled as they are given: average over what is not independent (frames of one clip) before. Values
    that are all equal give an interval of no width. Raises ValueError for fewer than two values or any that is not
    finite.
    """
    values = np.asarray(values, float).ravel()
    if len(values) < 2:
        raise ValueError(f"a bootstrap interval needs at least 2 values, got {len(values)}")
    if not np.isfinite(values).all():
        raise ValueError(f"a bootstrap interval needs finite values, {int((~np.isfinite(values)).sum())} are not")
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return Interval(estimate=mean, low=mean, high=mean)
    result = bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
        batch=1000,  # bounds memory: batch x n values at a time
    )
    interval = result.confidence_interval
    return Interval(estimate=mean, low=float(interval.low), high=float(interval.high))
