"""Intervals and tests against values known from elsewhere."""

import math

import numpy as np
import pytest

from colaworld.experiments.intervals import bootstrap_mean, exact_mcnemar, wilson


def test_wilson_against_the_formula() -> None:
    successes, n, z = 7, 20, 1.959963984540054
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    interval = wilson(successes, n)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((share, centre - half, centre + half))


@pytest.mark.parametrize(("successes", "low", "high"), [(0, 0.0, 0.1611), (20, 0.8389, 1.0)])
def test_wilson_at_the_ends_stays_in_range(successes: int, low: float, high: float) -> None:
    interval = wilson(successes, 20)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("successes", "episodes"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_rate(successes: int, episodes: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} of {episodes}"):
        wilson(successes, episodes)


def test_exact_mcnemar_is_a_binomial_test_of_the_discordant_pairs() -> None:
    first = [True] * 6 + [True] * 3 + [False] * 11
    second = [False] * 6 + [True] * 3 + [False] * 11
    result = exact_mcnemar(first, second)
    assert (result.both, result.only_first, result.only_second, result.neither) == (3, 6, 0, 11)
    assert result.p_value == pytest.approx(2 * 0.5**6)
    assert exact_mcnemar(second, first).p_value == pytest.approx(result.p_value)


def test_exact_mcnemar_without_a_difference_is_one() -> None:
    assert exact_mcnemar([True, False], [True, False]).p_value == 1.0
    assert exact_mcnemar([True, False], [False, True]).p_value == 1.0


def test_exact_mcnemar_refuses_unpaired_outcomes() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        exact_mcnemar([True, False], [True])


def test_bootstrap_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)
    assert interval.excludes_zero
    assert bootstrap_mean(values) == interval, "the seed decides it"


def test_bootstrap_of_equal_values_has_no_width() -> None:
    interval = bootstrap_mean([0.5, 0.5, 0.5])
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_bootstrap_refuses_too_little_and_nan() -> None:
    with pytest.raises(ValueError, match="got 1"):
        bootstrap_mean([1.0])
    with pytest.raises(ValueError, match="1 are not"):
        bootstrap_mean([1.0, math.nan])
