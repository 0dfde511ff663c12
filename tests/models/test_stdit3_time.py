"""OpenSora's timestep transform, in our time: in training, and in sampling by every door."""

import pytest
import torch

from colaworld.models.backbones import OPENSORA
from colaworld.models.engine import Engine
from colaworld.models.flow import FlowConfig, SamplerConfig, integrate, interpolate, training_pairs
from colaworld.models.imagination import Imagination, given
from colaworld.models.stdit3 import STDiT3
from colaworld.models.stdit3_time import noise_ratio, transformed

NOISE = {"source": "noise", "mean_fraction": 0.0}


def published(timestep: torch.Tensor, height: int, width: int, latent_frames: int) -> torch.Tensor:
    """``timestep_transform`` of Open-Sora v1.2 for 1000 timesteps, the number of latent frames as given."""
    t = timestep / 1000
    ratio_space = torch.tensor(height * width / (512 * 512)).sqrt()
    ratio_time = torch.tensor(latent_frames / 1).sqrt()
    ratio = ratio_space * ratio_time * 1.0
    return ratio * t / (1 + (ratio - 1) * t) * 1000


def test_it_is_the_published_formula_in_the_noise_level():
    ratio = noise_ratio(256, 256, 5)
    assert ratio == pytest.approx((256 * 256 / 512**2) ** 0.5 * 5**0.5)
    time = torch.linspace(0.0, 1.0, 11)
    moved = OPENSORA.timestep(transformed(time, ratio))
    torch.testing.assert_close(moved, published(OPENSORA.timestep(time), 256, 256, 5))


def test_larger_clips_get_more_noise_and_the_ends_stay():
    time = torch.linspace(0.0, 1.0, 7)
    small, large = (transformed(time, noise_ratio(512, 512, frames)) for frames in (1, 5))
    torch.testing.assert_close(small, time, rtol=0, atol=0)
    assert large[0] == 0.0 and large[-1] == 1.0
    assert (large[1:-1] < small[1:-1]).all() and (large.diff() > 0.0).all()


def test_frames_are_trained_at_the_published_timesteps():
    last, data = torch.randn(3, 4, 2, 2, 2), torch.randn(3, 4, 2, 2, 2)
    plain, moving = FlowConfig(**NOISE), FlowConfig(**NOISE, ratio=None).of_clips(320, 256, 5)
    (_, drawn, velocity), (noised, time, same) = (
        training_pairs(config, last, data, torch.Generator().manual_seed(0)) for config in (plain, moving)
    )
    assert (time < drawn).all()
    torch.testing.assert_close(OPENSORA.timestep(time), published(OPENSORA.timestep(drawn), 320, 256, 5))
    torch.testing.assert_close(velocity, same)
    torch.testing.assert_close(noised, interpolate(data - velocity, data, time))


@pytest.mark.parametrize("make", [Imagination, Engine])
def test_frames_are_sampled_at_the_published_timesteps_by_the_published_steps(make):
    torch.manual_seed(0)
    video = STDiT3(latent_height=4, latent_width=4, width=16, depth=1, heads=2, max_frames=4).eval()
    asked, steps = [], 5
    video.t_embedder.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[0].max().item()))
    imagination = make(video, None, FlowConfig(**NOISE, ratio=1.5), SamplerConfig(steps=steps))
    with torch.no_grad():
        state = imagination.start(torch.randn(1, 2, 4, 4, 4), torch.zeros(1, 1, 0))
        asked.clear()
        frame = imagination.roll_out(state, given(torch.zeros(1, 1, 0)), 1, torch.Generator().manual_seed(3))
        even = 1000 * (1 - torch.arange(steps) / steps)
        timesteps = published(even, 512, 512, 9 / 4)  # the square root of which is the ratio
        torch.testing.assert_close(torch.tensor(asked), timesteps)
        z = imagination.noise(state, 1, torch.Generator().manual_seed(3))
        for number, timestep in enumerate(timesteps):
            later = timesteps[number + 1] if number + 1 < steps else torch.tensor(0.0)
            velocity = video.next_velocity(z, (1 - timestep / 1000).expand(1, 1), state.cache)
            z = z + velocity * (timestep - later) / 1000
    torch.testing.assert_close(frame, z, rtol=1e-4, atol=1e-5)


def test_moved_steps_arrive_where_even_ones_do():
    source, data = torch.randn(2, 1, 4, 2, 2), torch.randn(2, 1, 4, 2, 2)
    torch.testing.assert_close(integrate(lambda x, time: data - source, source, 6, 2.5), data)

    def curved(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return x * time[..., None, None, None]

    even, moved = integrate(curved, source, 6), integrate(curved, source, 6, 2.5)
    assert (moved - even).abs().max() > 1e-2
    torch.testing.assert_close(integrate(curved, source, 3000), integrate(curved, source, 3000, 2.5), rtol=1e-2, atol=0)


def test_a_ratio_of_one_changes_no_bit():
    time, source = torch.rand(100), torch.randn(2, 1, 4, 2, 2)
    assert transformed(time, 1.0) is time

    def curved(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return x.sin() * time[..., None, None, None]

    x = source
    for step in range(7):
        x = x + curved(x, torch.full((2, 1), step / 7)) / 7
    torch.testing.assert_close(integrate(curved, source, 7), x, rtol=0, atol=0)


def test_sizes_and_ratios_that_are_none_are_refused():
    with pytest.raises(ValueError, match="0x256 and 5"):
        noise_ratio(0, 256, 5)
    for ratio in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match=f"ratio must be positive and finite, got {ratio}"):
            FlowConfig(ratio=ratio)
    with pytest.raises(ValueError, match="the size of the clips .* is not known"):
        training_pairs(FlowConfig(ratio=None), *torch.randn(2, 1, 1, 1, 1, 1), torch.Generator())
