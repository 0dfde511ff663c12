"""Intervals and tests against values known from elsewhere."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from colaworld.experiments.intervals import (
    bootstrap_mean,
    bootstrap_ratio,
    exact_mcnemar,
    mcnemar_power,
    paired_difference,
    instances_needed,
    pairs_needed,
    sign_flip_test,
    wilson,
)


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


def test_paired_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, truth, pairs = np.random.default_rng(0), 0.35 - 0.1, 24
    draws = rng.multinomial(pairs, [0.35, 0.1, 0.55], 2000)
    intervals = [paired_difference(first, second, pairs) for first, second, _ in draws]
    assert 0.93 < np.mean([each.low <= truth <= each.high for each in intervals]) < 0.98
    assert intervals[0].estimate == pytest.approx((draws[0][0] - draws[0][1]) / pairs)
    nothing = paired_difference(0, 0, 12)
    assert -1 < nothing.low < nothing.estimate == 0 < nothing.high < 1, "no difference seen is not none there"
    assert paired_difference(12, 0, 12).high <= 1
    for counts in ((3, 2, 4), (-1, 0, 4), (0, 0, 0)):
        with pytest.raises(ValueError, match="cannot be"):
            paired_difference(*counts)


@pytest.mark.parametrize(("first", "second"), [(6, 0), (8, 2), (3, 3), (0, 0), (1, 7)])
def test_sign_flips_of_ones_are_the_exact_mcnemar_test(first: int, second: int) -> None:
    a, b = [True] * first + [False] * (second + 5), [False] * first + [True] * second + [False] * 5
    assert sign_flip_test([1] * first + [-1] * second + [0] * 5) == pytest.approx(exact_mcnemar(a, b).p_value)


def test_sign_flips_of_one_unit_tell_nothing() -> None:
    assert sign_flip_test([0.0, 0.5, 0.0]) == sign_flip_test([]) == 1.0


def test_sign_flips_of_many_units_are_drawn() -> None:
    values = np.full(60, 0.5)
    assert 0 < sign_flip_test(values, resamples=999) <= 0.002 + 1e-9
    assert sign_flip_test(np.r_[values, -values], resamples=999) == 1.0


def test_power_is_how_often_the_test_rejects() -> None:
    draws = np.random.default_rng(0).multinomial(60, [0.3, 0.1, 0.6], 20_000)
    least, both = draws[:, :2].min(axis=1), draws[:, :2].sum(axis=1)
    rejected = np.minimum(1, 2 * binom.cdf(least, both, 0.5)) < 0.05
    assert mcnemar_power(0.3, 0.1, 60) == pytest.approx(rejected.mean(), abs=0.01)
    assert mcnemar_power(0.0, 0.0, 60) == 0.0 and mcnemar_power(1.0, 0.0, 5) == 0.0
    assert mcnemar_power(1.0, 0.0, 6) == pytest.approx(1.0), "six wins of six are p = 0.03, five of five 0.06"


def test_pairs_needed_have_the_power_and_fewer_do_not() -> None:
    needed = pairs_needed(0.25, 0.1)
    assert mcnemar_power(0.25, 0.1, needed) >= 0.8 > mcnemar_power(0.25, 0.1, needed - 1)
    assert needed == pairs_needed(0.1, 0.25)
    assert pairs_needed(0.2, 0.2) is None and pairs_needed(0.2, 0.199, most=1000) is None
    assert pairs_needed(1.0, 0.0) == 6


def test_instances_needed_have_the_power_of_sign_flips_and_half_as_many_do_not() -> None:
    """Two trainings a goal, averaged: the test of so many goals finds the difference in about four of five draws."""
    draw = np.random.default_rng(0)

    def goals(count: int) -> np.ndarray:
        return draw.choice([1, -1, 0], p=[0.2, 0.1, 0.7], size=(count, 2)).mean(axis=1)

    needed = instances_needed(goals(100_000))
    assert 100 < needed < 140, "fewer than the 249 of one training"
    tries = {count: [sign_flip_test(goals(count), resamples=499) < 0.05 for _ in range(150)] for count in (needed, needed // 2)}
    found = [float(np.mean(each)) for each in tries.values()]
    assert 0.7 < found[0] < 0.9 and found[1] < 0.65
    assert instances_needed([0.5, -0.5]) is None and instances_needed([1.0] * 9) == 6


def test_a_ratio_has_an_interval_of_its_own() -> None:
    rng = np.random.default_rng(0)
    below = rng.uniform(1.0, 9.0, 200)
    above = 0.5 * below + rng.normal(0.0, 0.1, 200)
    found = bootstrap_ratio(above, below)
    assert found.estimate == pytest.approx(above.mean() / below.mean()) and found.low < 0.5 < found.high
    assert found.high - found.low < 0.2 * (bootstrap_mean(above).high - bootstrap_mean(above).low) / below.mean()
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        below = rng.uniform(1.0, 3.0, 30)
        each = bootstrap_ratio(0.5 * below + rng.normal(0.0, 0.3, 30), below, resamples=500)
        covered += each.low <= 0.5 <= each.high
    assert 0.88 <= covered / 200 <= 0.99
    exact = bootstrap_ratio(0.5 * below, below)
    assert (exact.low, exact.high) == (exact.estimate, exact.estimate) == (0.5, 0.5)
    for a, b in (([1.0], [1.0]), ([1.0, 2.0], [1.0, 0.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="a ratio's interval needs"):
            bootstrap_ratio(a, b)
