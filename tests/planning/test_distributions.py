"""Laws of the action distribution: bounds, fixed dimensions, correlated noise, seeds."""

import math

import pytest
import torch

from colaworld.planning.distributions import ActionPrior, Gaussian, correlate

PRIOR = ActionPrior(mean=(0.0, 0.2, 0.0), std=(5.0, 0.0, 0.1), low=(-1.0, -1.0, -0.5), high=(1.0, 1.0, 2.0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_samples_stay_inside_each_dimensions_bounds_and_fixed_dimensions_stay_fixed() -> None:
    samples = PRIOR.gaussian(4).sample(500, generator())
    assert samples.shape == (500, 4, 3)
    assert samples.amin(dim=(0, 1)).ge(torch.tensor(PRIOR.low)).all()
    assert samples.amax(dim=(0, 1)).le(torch.tensor(PRIOR.high)).all()
    assert (samples[..., 0].abs() == 1).any(), "a wide std must reach the bounds"
    assert (samples[..., 1] == torch.tensor(0.2)).all()


def test_the_same_seed_draws_the_same_actions() -> None:
    gaussian = PRIOR.gaussian(4)
    assert torch.equal(gaussian.sample(9, generator(3)), gaussian.sample(9, generator(3)))
    assert not torch.equal(gaussian.sample(9, generator(3)), gaussian.sample(9, generator(4)))


def test_mode_is_clamped_and_recentring_keeps_the_spread() -> None:
    moved = PRIOR.gaussian(2).recentred(torch.full((2, 3), 9.0))
    assert moved.mode().tolist() == [[1.0, 1.0, 2.0]] * 2
    assert moved.spread() == pytest.approx((5.0 + 0.0 + 0.1) / 3)


def test_correlated_noise_by_hand() -> None:
    noise = torch.tensor([1.0, 2.0, -4.0]).reshape(1, 3, 1)
    assert correlate(noise, 0.25).flatten().tolist() == [1.0, 0.25 + 1.5, 0.25 * 1.75 - 3.0]
    assert torch.equal(correlate(noise, 0.0), noise)


def test_correlated_noise_has_the_autocorrelation_it_names() -> None:
    wide = ActionPrior(mean=(0.0,), std=(1.0,), low=(-99.0,), high=(99.0,), beta=0.5)
    samples = wide.gaussian(30).sample(20_000, generator())[..., 0]
    late = samples[:, -2:]
    correlation = torch.corrcoef(late.T)[0, 1].item()
    assert correlation == pytest.approx(0.5, abs=0.03)
    assert late.std().item() == pytest.approx(math.sqrt((1 - 0.5) / (1 + 0.5)), abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": (1.0,), "high": (-1.0,)}, r"bounds 0 .*\[1.0, -1.0\]"),
        ({"high": (float("nan"),)}, "nan"),
        ({"std": (-0.5,)}, "-0.5"),
        ({"beta": 1.0}, "1.0"),
        ({"mean": (0.0, 0.0)}, "one length"),
    ],
)
def test_bad_priors_are_named(change: dict, message: str) -> None:
    good = {"mean": (0.0,), "std": (1.0,), "low": (-1.0,), "high": (1.0,), "beta": 0.0}
    with pytest.raises(ValueError, match=message):
        ActionPrior(**{**good, **change})


def test_shapes_that_disagree_are_refused() -> None:
    ones = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"\(H, A\)"):
        Gaussian(mean=ones, std=ones[:1], low=-ones[0], high=ones[0])
    with pytest.raises(ValueError, match=r"\(A,\)"):
        Gaussian(mean=ones, std=ones, low=-ones[0, :2], high=ones[0, :2])
    with pytest.raises(ValueError, match="horizon"):
        PRIOR.gaussian(0)
