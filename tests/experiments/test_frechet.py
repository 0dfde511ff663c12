"""The Frechet distance against the closed form, and what extrapolation in 1/n is for."""

import numpy as np
import pytest
import torch
from torch import Tensor

from colaworld.experiments.frechet import FEWEST, frechet_distance, frechet_estimate


def normal(n: int, seed: int, *, shift: float = 0.0, scale: float = 1.0, d: int = 6) -> Tensor:
    """``n`` rows of independent normal features with mean ``shift`` and standard deviation ``scale``."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double() * scale + shift


def with_moments(features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """``features`` brought to exactly this mean, these deviations and no correlation."""
    centred = features - features.mean(dim=0)
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(centred.T))).T
    return white * std + mean


def test_known_moments_give_the_closed_form() -> None:
    mean, std = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([1.0, 3.0, 0.2]).double()
    first = with_moments(normal(40, 0, d=3), torch.zeros(3).double(), torch.ones(3).double())
    second = with_moments(normal(40, 1, d=3), mean, std)
    expected = float(mean.square().sum() + (std - 1).square().sum())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_identical_sets_are_at_no_distance_at_any_n() -> None:
    features = normal(64, 0, shift=1e4)  # a mean far from zero must not drown the differences
    estimate = frechet_estimate(features, features.clone(), torch.Generator().manual_seed(0))
    assert estimate.plain == pytest.approx(0.0, abs=1e-5) and estimate.value == pytest.approx(0.0, abs=1e-5)
    assert estimate.as_dict() == {"value": estimate.value, "plain": estimate.plain, "n": 64, "features": 6}


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_plain_is_biased_in_n_and_extrapolation_removes_most_of_it(shift: float) -> None:
    true = 6 * shift**2

    def means(n: int, repeats: int) -> np.ndarray:
        pairs = []
        for seed in range(repeats):
            generator = torch.Generator().manual_seed(seed)
            estimate = frechet_estimate(normal(n, 2 * seed), normal(n, 2 * seed + 1, shift=shift), generator)
            pairs.append((estimate.plain - true, estimate.value - true))
        return np.mean(pairs, axis=0)

    (small_plain, small_value), (large_plain, _) = means(24, 12), means(384, 2)
    assert small_plain > 4 * abs(large_plain)  # equal n or no comparison
    assert abs(small_value) < 0.4 * small_plain


def test_the_generator_decides_the_subsets() -> None:
    sets = normal(24, 0), normal(24, 1)
    values = [frechet_estimate(*sets, torch.Generator().manual_seed(seed)).value for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_subsets_keep_clips_paired() -> None:
    # Row by row the second set is the first, moved: every paired subset is at exactly the same distance.
    features = normal(32, 0)
    estimate = frechet_estimate(features, features + 0.5, torch.Generator().manual_seed(0))
    assert estimate.plain == pytest.approx(1.5) and estimate.value == pytest.approx(1.5)


def test_too_few_clips_give_no_extrapolation() -> None:
    few = FEWEST - 1
    estimate = frechet_estimate(normal(few, 0), normal(few, 1), torch.Generator().manual_seed(0))
    assert estimate.value is None and estimate.plain > 0


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (normal(1, 0), normal(1, 0), "truth has \\(1, 6\\)"),
        (normal(8, 0), torch.full((8, 6), torch.nan), "imagined: 48 features are not finite"),
        (normal(8, 0), normal(8, 0, d=5), "truth has 6, imagined 5"),
    ],
)
def test_bad_features_are_named(first: Tensor, second: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(first, second)


def test_unequal_n_is_refused() -> None:
    with pytest.raises(ValueError, match="equal n"):
        frechet_estimate(normal(16, 0), normal(17, 0), torch.Generator())
