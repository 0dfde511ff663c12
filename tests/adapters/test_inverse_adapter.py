"""From codes and frames to the real action: it learns a law of both, and knows how codes were used."""

import pytest
import torch

from colaworld.adapters.goal_models import (
    LATENT_ACTIONS,
    codec_digest,
    latent_action_digest,
    load_goal_models,
    save_goal_model,
)
from colaworld.adapters.inverse_adapter import InverseAdapter

SIZE = {"latent_channels": 4, "latent_height": 2, "latent_width": 2, "width": 8, "hidden": 32, "dropout": 0.0}


def made(**changes) -> InverseAdapter:
    torch.manual_seed(0)
    return InverseAdapter(**{"latent_action_dim": 16, "code_sizes": (8, 8), **SIZE, **changes})


def transitions(count: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """The action is where the latent action says the arm ends up, less where the frame has it and how it moved."""
    latent_actions = torch.randn(count, 16, generator=generator)
    before, now = torch.randn(2, count, 4, 2, 2, generator=generator)
    place, motion = now[:, 0, 0, :1], (now - before)[:, 1, 0, :1]
    actions = torch.zeros(count, 7)
    actions[:, :1] = (0.5 * latent_actions[:, :1] - 0.3 * place - 0.2 * motion).tanh()
    return latent_actions, before, now, actions


def test_it_learns_from_the_latent_action_and_both_frames() -> None:
    inverse, generator = made(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(inverse.parameters(), 3e-3)
    for _ in range(300):
        loss, _ = inverse.loss(*transitions(128, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    latent_actions, before, now, actions = transitions(512, generator)

    def error(*inputs: torch.Tensor) -> float:
        return float(inverse.loss(*inputs, actions)[0].detach())

    right = error(latent_actions, before, now)
    assert right < 0.15 * float(actions.square().mean())
    for wrong in (
        (latent_actions.roll(1, 0), before, now),
        (latent_actions, before, now.roll(1, 0)),
        (latent_actions, before.roll(1, 0), now),
    ):
        assert error(*wrong) > 1.5 * right


def test_codes_are_counted_and_the_commonest_of_standing_still_is_rest() -> None:
    inverse = made()
    inverse.count(torch.tensor([[0, 3], [0, 3], [0, 5], [7, 5]]), torch.tensor([[2, 6], [2, 1], [0, 6]]))
    assert inverse.usage[0].tolist() == [0.75, 0, 0, 0, 0, 0, 0, 0.25]
    assert inverse.usage[1, [3, 5]].tolist() == [0.5, 0.5] and inverse.rest_codes.tolist() == [2, 6]
    assert not hasattr(made(code_sizes=()), "usage"), "continuous latent actions have no codes to count"


def test_answers_are_actions_and_another_width_is_named() -> None:
    frames = torch.randn(3, 4, 2, 2)
    answer = made()(9 * torch.randn(3, 16), frames, frames)
    assert answer.shape == (3, 7) and answer.abs().max() <= 1
    with pytest.raises(ValueError, match="latent actions have 8 numbers, the inverse adapter was made for 16"):
        made()(torch.randn(3, 8), frames, frames)


def test_it_is_stored_in_bf16_and_bound_to_its_latent_actions(system, tmp_path) -> None:
    inverse, digest = made().eval(), codec_digest(system.codec)
    inverse.count(torch.tensor([[1, 2]]), torch.tensor([[3, 4]]))
    about = {LATENT_ACTIONS: latent_action_digest(system)}
    save_goal_model(tmp_path, "inverse", inverse, about, digest, dtype=torch.bfloat16)
    weights = tmp_path / "inverse" / "diffusion_pytorch_model.safetensors"
    count = sum(parameter.numel() for parameter in inverse.parameters())
    assert weights.stat().st_size < 2.5 * count + 4096 and inverse.read[0].weight.dtype == torch.float32
    models = load_goal_models(tmp_path, system.codec)
    back = models.inverse_of(system)
    assert back.rest_codes.tolist() == [3, 4] and back.rest_codes.dtype == torch.int64
    latent_actions, before, now, _ = transitions(5, torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        back(latent_actions, before, now), inverse(latent_actions, before, now), rtol=0.05, atol=0.02
    )
    with torch.no_grad():
        system.inverse_dynamics.readout.bias.add_(0.1)
    with pytest.raises(ValueError, match="another latent action model than the system's"):
        models.inverse_of(system)
    system.inverse_dynamics = None
    with pytest.raises(ValueError, match="'cola' has no latent action model"):
        latent_action_digest(system)
