"""Coloured noise: the spectrum that it names, unit variance, one seed one noise."""

import pytest
import torch

from colaworld.planning.coloured_noise import coloured
from colaworld.planning.distributions import ActionPrior

LIKE = torch.zeros(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0])
def test_power_falls_with_the_exponent_it_names(exponent: float) -> None:
    noise = coloured(400, 256, 2, exponent, LIKE.double(), generator())
    power = torch.fft.rfft(noise, dim=1).abs().square().mean(dim=(0, 2))[1:-1]
    frequency = torch.arange(1, 128, dtype=torch.float64).log()
    slope = torch.cov(torch.stack([frequency, power.log()]))[0, 1] / frequency.var()
    assert slope.item() == pytest.approx(-exponent, abs=0.05)


@pytest.mark.parametrize("horizon", [1, 2, 3, 8, 9])
def test_variance_is_one_at_every_step_of_any_horizon(horizon: int) -> None:
    noise = coloured(20_000, horizon, 2, 2.0, LIKE, generator())
    assert noise.shape == (20_000, horizon, 2)
    assert torch.allclose(noise.std(dim=0), torch.ones(horizon, 2), atol=0.04)
    assert torch.corrcoef(noise[:, 0].T)[0, 1].abs() < 0.03, "dimensions do not know of each other"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_generator_decides_and_moves_on(dtype: torch.dtype) -> None:
    like, first = LIKE.to(dtype), generator(1)
    one, two = coloured(3, 8, 2, 1.0, like, first), coloured(3, 8, 2, 1.0, like, first)
    assert one.dtype == dtype and torch.equal(one, coloured(3, 8, 2, 1.0, like, generator(1)))
    assert not torch.equal(one, two) and not torch.equal(one, coloured(3, 8, 2, 1.0, like, generator(2)))


def test_a_gaussian_of_an_exponent_is_smooth_bounded_and_as_wide_as_it_says() -> None:
    wide = {"mean": (0.2, 0.0), "std": (1.0, 0.0), "low": (-99.0, -99.0), "high": (99.0, 99.0)}
    samples = ActionPrior(**wide, exponent=2.0).gaussian(16).sample(4000, generator())
    assert samples[..., 0].std().item() == pytest.approx(1.0, abs=0.05)
    assert samples[..., 0].mean().item() == pytest.approx(0.2, abs=0.05)
    assert (samples[..., 1] == 0).all(), "fixed dimensions stay fixed"
    steps = samples[:, 1:, 0] - samples[:, :-1, 0]
    white = ActionPrior(**wide).gaussian(16).sample(4000, generator())
    assert steps.std() < 0.5 * (white[:, 1:, 0] - white[:, :-1, 0]).std()
    narrow = ActionPrior(**{**wide, "low": (-0.5, -1.0), "high": (0.5, 1.0)}, exponent=2.0).gaussian(16)
    assert narrow.sample(50, generator())[..., 0].abs().max() == 0.5


def test_noise_has_one_kind() -> None:
    good = {"mean": (0.0,), "std": (1.0,), "low": (-1.0,), "high": (1.0,)}
    with pytest.raises(ValueError, match="not both, got 0.5 and 1.0"):
        ActionPrior(**good, beta=0.5, exponent=1.0)
    with pytest.raises(ValueError, match="exponent.*-1"):
        ActionPrior(**good, exponent=-1.0)
