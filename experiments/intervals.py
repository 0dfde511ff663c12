"""Intervals and tests for small numbers of episodes: Wilson, exact McNemar and its power, the paired difference, sign
flips, bootstrap of a mean and of a ratio. Counting is ours, the mathematics is statsmodels' and scipy's.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import binom, bootstrap, norm, permutation_test
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

MCNEMAR, SIGN_FLIPS = "exact McNemar", "sign flips of instances"
"""What the two paired tests are called."""
RESAMPLES = 99_999
"""Sign patterns that a test by sign flips draws where there are more."""


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


def wilson(successes: float, episodes: int, confidence: float = 0.95) -> Interval:
    """Share of successes with Wilson's score interval; raises ValueError for no episodes or more successes than
    episodes. Successes may be fractions: means over what is not independent.
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


def bootstrap_ratio(
    above: Sequence[float] | np.ndarray, below: Sequence[float] | np.ndarray, *, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of ``above (n,)`` over mean of ``below (n,)`` with its BCa bootstrap interval of 95 %: pairs are resampled
    whole, and the ratio is taken anew of each resample, so that what both have in common does not widen it.

    Raises ValueError for fewer than two pairs and for a ``below`` that is not positive.
    """
    above, below = np.asarray(above, float).ravel(), np.asarray(below, float).ravel()
    if len(above) != len(below) or len(below) < 2 or not (below > 0).all():
        least = f"{below.min()}" if len(below) else "nothing"
        raise ValueError(
            f"a ratio's interval needs at least 2 pairs, below them numbers above 0, got {len(above)} and "
            f"{len(below)}, the least {least}"
        )
    estimate = float(above.mean() / below.mean())
    if np.ptp(above - estimate * below) <= 1e-12 * np.abs(below).max():
        return Interval(estimate=estimate, low=estimate, high=estimate)
    interval = bootstrap(
        (above, below),
        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
        batch=1000,  # bounds memory
    ).confidence_interval
    return Interval(estimate=estimate, low=float(interval.low), high=float(interval.high))


def paired_difference(only_first: float, only_second: float, pairs: int, confidence: float = 0.95) -> Interval:
    """Difference of two rates on the same ``pairs`` (first minus second), by Bonett and Price's adjusted Wald interval.

    The counts are of pairs that only one of them won, and may be fractions of pairs. One pair is added to each
    of them, so that no discordant pair at all still leaves a width. Source: Bonett and Price, "Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data", 2012; recommended by Fagerland,
    Lydersen and Laake, "Recommended tests and confidence intervals for paired binomial proportions", 2014. Near the
    border of significance it may disagree with the exact test. Raises ValueError for counts that cannot be.
    """
    if pairs < 1 or min(only_first, only_second) < 0 or only_first + only_second > pairs:
        raise ValueError(f"{only_first} and {only_second} discordant pairs of {pairs} cannot be")
    first, second = (only_first + 1) / (pairs + 2), (only_second + 1) / (pairs + 2)
    centre = first - second
    half = norm.ppf((1 + confidence) / 2) * np.sqrt((first + second - centre**2) / (pairs + 2))
    return Interval(
        estimate=(only_first - only_second) / pairs,
        low=float(max(-1.0, centre - half)),
        high=float(min(1.0, centre + half)),
    )


def sign_flip_test(differences: Sequence[float] | np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p value that ``differences (n,)`` scatter around zero: their sum against sums with signs at random.

    One difference for each independent unit; of differences -1, 0, 1 it is the exact McNemar test. All sign patterns
    when they are at most ``resamples``, else so many random ones (then p is at least 1 / (resamples + 1)).
    """
    values = np.asarray(differences, float)
    values = values[values != 0]
    if len(values) < 2:  # of one both signs are as likely
        return 1.0
    test = permutation_test(
        (values,),
        lambda each, axis: each.sum(axis=axis),
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=True,
        batch=10_000,  # bounds memory
        rng=np.random.default_rng(seed),
    )
    return min(1.0, float(test.pvalue))


def mcnemar_power(share_first: float, share_second: float, pairs: int, alpha: float = 0.05) -> float:
    """Chance that the exact McNemar test of ``pairs`` gives p < ``alpha``, when a pair is won by the first or by the
    second alone with these probabilities. Exact: over the number of discordant pairs (all but the unlikely ones), and
    of those that the first won.
    """
    discordant = share_first + share_second
    if not 0 < discordant <= 1:
        return 0.0
    unlikely = 1e-9
    counts = np.arange(*binom.interval(1 - 2 * unlikely, pairs, discordant) + np.array([0, 1]), dtype=int)
    # The largest number of wins of the loser that is still significant; -1 where none is.
    border = binom.ppf(alpha / 2, counts, 0.5).astype(int)
    border = np.where(2 * binom.cdf(border, counts, 0.5) < alpha, border, border - 1)
    share = share_first / discordant
    rejects = binom.cdf(border, counts, share) + binom.sf(counts - border - 1, counts, share)
    return float((binom.pmf(counts, pairs, discordant) * rejects).sum())


def instances_needed(
    differences: Sequence[float], *, alpha: float = 0.05, power: float = 0.8, most: int = 100_000
) -> int | None:
    """How many instances ``sign_flip_test`` needs to find such a mean difference with this ``power``, where single ones
    differ as these do (their episodes averaged); by the normal approximation. None for no difference or more than
    ``most``.
    """
    values = np.asarray(differences, dtype=float)
    effect = abs(values.mean())
    if effect == 0.0:
        return None
    by_chance, as_found = np.sqrt(np.square(values).mean()), values.std()
    needed = ((norm.isf(alpha / 2) * by_chance + norm.isf(1.0 - power) * as_found) / effect) ** 2
    least = math.ceil(math.log2(2.0 / alpha))  # fewer have no signs that are rare enough
    return max(least, math.ceil(needed)) if needed <= most else None


def pairs_needed(
    share_first: float, share_second: float, *, alpha: float = 0.05, power: float = 0.8, most: int = 100_000
) -> int | None:
    """How many pairs the exact McNemar test needs to find such a difference with this ``power``; None for no difference
    or more than ``most``.
    """
    if share_first == share_second or mcnemar_power(share_first, share_second, most, alpha) < power:
        return None
    low, high = 0, 1
    while mcnemar_power(share_first, share_second, high, alpha) < power:
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        if mcnemar_power(share_first, share_second, middle, alpha) < power:
            low = middle
        else:
            high = middle
    return high
