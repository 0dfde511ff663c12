"""OpenSora's timestep transform, in our time."""

import pytest
import torch

from colaworld.models.flow import integrate
from colaworld.models.stdit3_time import integrate_over, noise_ratio, sampling_times, transformed


def test_it_is_the_published_formula_in_the_noise_level():
    ratio = noise_ratio(256, 256, 5)
    assert ratio == pytest.approx((256 * 256 / 512**2) ** 0.5 * 5**0.5)
    time = torch.linspace(0.0, 1.0, 11)
    level = 1.0 - time
    torch.testing.assert_close(1.0 - transformed(time, ratio), ratio * level / (1.0 + (ratio - 1.0) * level))


def test_larger_clips_get_more_noise_and_the_ends_stay():
    time = torch.linspace(0.0, 1.0, 7)
    small, large = (transformed(time, noise_ratio(512, 512, frames)) for frames in (1, 5))
    torch.testing.assert_close(small, time)
    assert large[0] == 0.0 and large[-1] == 1.0
    assert (large[1:-1] < small[1:-1]).all() and (large.diff() > 0.0).all()


def test_a_sampler_over_moved_times_arrives_and_starts_as_the_even_one():
    source, data = torch.randn(2, 1, 4, 2, 2), torch.randn(2, 1, 4, 2, 2)
    found = integrate_over(lambda x, time: data - source, source, sampling_times(6, 2.5))
    torch.testing.assert_close(found, data)

    def curved(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return x * time[..., None, None, None]

    even = integrate_over(curved, source, sampling_times(6, 1.0))
    torch.testing.assert_close(even, integrate(curved, source, 6))
    assert (integrate_over(curved, source, sampling_times(6, 2.5)) - even).abs().max() > 1e-2


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="0x256 and 5"):
        noise_ratio(0, 256, 5)
    with pytest.raises(ValueError, match="steps must be 1 or more, got 0"):
        sampling_times(0, 1.0)
