"""Laws of the rectified flow."""

import pytest
import torch

from colaworld.models.flow import FlowConfig, SamplerConfig, integrate, interpolate, training_pairs


def test_euler_on_a_field_with_a_known_answer():
    # dx/dt = -x from x0 has x(1) = x0 / e; Euler with n steps gives x0 (1 - 1/n)^n exactly.
    source = torch.full((1, 1, 1, 1, 1), 2.0, dtype=torch.float64)
    for steps in (1, 4, 100):
        reached = integrate(lambda x, time: -x, source, steps)
        assert reached.item() == pytest.approx(2.0 * (1.0 - 1.0 / steps) ** steps)
    assert integrate(lambda x, time: -x, source, 4000).item() == pytest.approx(2.0 / torch.e, rel=1e-3)


def test_the_field_is_asked_at_the_right_times():
    asked = []

    def field(x, time):
        asked.append(time.flatten().tolist())
        return x

    integrate(field, torch.zeros(2, 1, 1, 1, 1), 4)
    assert asked == [[0.0, 0.0], [0.25, 0.25], [0.5, 0.5], [0.75, 0.75]]


def test_a_straight_field_needs_one_step():
    source, data = torch.randn(2, 3, 1, 2, 2), torch.randn(2, 3, 1, 2, 2)
    torch.testing.assert_close(integrate(lambda x, time: data - source, source, 1), data)


def test_training_pairs_lie_on_the_line_from_source_to_data():
    last, data = torch.randn(64, 11, 2, 2, 2), torch.randn(64, 11, 2, 2, 2)
    noised, time, velocity = training_pairs(FlowConfig(mean_fraction=0.5), last, data, torch.Generator().manual_seed(0))
    # Wherever on the line, going on with the velocity for the time that is left ends at the data.
    torch.testing.assert_close(noised + (1.0 - time)[..., None, None, None] * velocity, data, rtol=1e-4, atol=1e-5)
    mean = time == 0.0
    assert 0.4 < mean.float().mean() < 0.6
    torch.testing.assert_close(noised[mean], last[mean])
    started = (data - velocity - last)[~mean]
    assert started.std() == pytest.approx(0.5, abs=0.02)


def test_frames_have_times_of_their_own():
    last = torch.zeros(4, 8, 1, 1, 1)
    _, time, _ = training_pairs(FlowConfig(mean_fraction=0.0), last, last, torch.Generator().manual_seed(0))
    assert len(time.unique()) == time.numel()


def test_noise_source_forgets_the_last_frame():
    config = FlowConfig(source="noise", mean_fraction=0.0)
    draws = [
        training_pairs(
            config, torch.full((1, 2, 1, 1, 1), value), torch.zeros(1, 2, 1, 1, 1), torch.Generator().manual_seed(0)
        )[0]
        for value in (0.0, 9.0)
    ]
    torch.testing.assert_close(*draws)


def test_interpolation_ends():
    source, data = torch.randn(1, 2, 1, 1, 1), torch.randn(1, 2, 1, 1, 1)
    torch.testing.assert_close(
        interpolate(source, data, torch.tensor([[0.0, 1.0]])), torch.cat([source[:, :1], data[:, 1:]], 1)
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"source": "middle"}, "'middle'"),
        ({"std": -1.0}, "-1.0"),
        ({"mean_fraction": 2.0}, "2.0"),
        ({"source": "noise"}, "mean_fraction=0.9"),
    ],
)
def test_a_bad_flow_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        FlowConfig(**arguments)


def test_a_bad_sampler_is_named():
    with pytest.raises(ValueError, match="steps must be 1 or more, got 0"):
        SamplerConfig(steps=0)
