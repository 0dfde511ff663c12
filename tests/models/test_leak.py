"""A planted leak trips the check, the inverse dynamics model as it is built passes."""

import pytest
import torch
from torch import Tensor

from colaworld.models.inverse_dynamics import InverseDynamics
from colaworld.models.leak import LeakReport, future_leak

LATENT = {"latent_channels": 3, "latent_height": 4, "latent_width": 4}


def clip(frames: int = 7) -> Tensor:
    return torch.randn(3, frames, 3, 4, 4, generator=torch.Generator().manual_seed(5))


def inverse_dynamics(history: int = 0) -> InverseDynamics:
    torch.manual_seed(0)
    return InverseDynamics(output_dim=8, **LATENT, width=16, depth=2, heads=2, history=history).eval()


def check(read, *, history: int = 0, latents: Tensor | None = None) -> LeakReport:
    latents = clip() if latents is None else latents
    return future_leak(read, latents, history=history, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("history", [0, 2])
def test_the_inverse_dynamics_model_passes(history):
    report = check(inverse_dynamics(history), history=history)
    assert report.passed and str(report).startswith("no leak")
    assert report.reach.shape == (6, 7)


@pytest.mark.parametrize("strength", [1.0, 1e-4])
def test_a_planted_leak_from_frame_t_plus_2_trips_it(strength):
    model = inverse_dynamics()

    def leaky(latents: Tensor) -> Tensor:
        ahead = torch.cat([latents[:, 2:], latents[:, -1:]], dim=1).mean(dim=(2, 3, 4))
        return model(latents) + strength * ahead[..., None]

    report = check(leaky)
    assert not report.passed and report.blind == []
    # The last step has no frame t + 2: what it is given there is its own.
    assert sorted(report.leaks) == [(step, 2) for step in range(5)]
    assert "with frame t+2" in str(report)


def test_a_history_that_was_not_declared_is_a_leak_from_the_past():
    report = check(inverse_dynamics(history=2), history=0)
    assert {offset for _, offset in report.leaks} == {-1, -2}
    assert check(inverse_dynamics(history=1), history=2).passed  # fewer frames than allowed are no leak


def test_the_worst_step_and_offset_come_first():
    model = inverse_dynamics()

    def leaky(latents: Tensor) -> Tensor:
        actions = model(latents).clone()
        actions[:, 1] += latents[:, 5].mean(dim=(1, 2, 3))[:, None]
        actions[:, 4] += 100.0 * latents[:, 0].mean(dim=(1, 2, 3))[:, None]
        return actions

    report = check(leaky)
    assert report.leaks == [(4, -4), (1, 4)]
    assert "step 4" in str(report) and "t-4" in str(report)


def test_an_off_by_one_slip_is_seen_from_both_sides():
    model = inverse_dynamics()
    report = check(lambda latents: model(latents).roll(1, dims=1))
    assert (1, -1) in report.leaks  # one step late: it sees frame t - 1 ...
    assert (1, 1) in report.blind  # ... and not frame t + 1


def test_latent_actions_that_carry_nothing_are_blind():
    report = check(lambda latents: torch.zeros(3, 6, 4))
    assert report.leaks == [] and len(report.blind) == 12 and not report.passed
    assert str(report).startswith("blind")


def test_statistics_over_a_training_batch_are_a_leak():
    norm, model = torch.nn.BatchNorm1d(8), inverse_dynamics()

    def read(latents: Tensor) -> Tensor:
        return norm(model(latents).flatten(0, 1)).unflatten(0, (3, 6))

    assert not check(read).passed
    norm.eval()
    assert check(read).passed


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="history=2 needs at least 5 frames, got 4"):
        check(inverse_dynamics(2), history=2, latents=clip(4))
    with pytest.raises(ValueError, match=r"shape \(3, 6, D\), got \(3, 7, 8\)"):
        check(lambda latents: torch.zeros(3, 7, 8))
    with pytest.raises(ValueError, match="not finite"):
        check(lambda latents: torch.full((3, 6, 4), torch.nan))
