"""Laws of the adapter."""

import pytest
import torch

from colaworld.adapters.action_adapter import ActionAdapter, adapter_loss, context_windows
from colaworld.models.bottleneck import Bottleneck

LATENT = {"latent_channels": 4, "latent_height": 2, "latent_width": 2}


def test_context_windows_end_at_each_steps_first_frame():
    latents = torch.arange(5.0).reshape(1, 5, 1, 1, 1)
    windows = context_windows(latents, 2)
    assert windows.flatten(2).tolist() == [[[0, 0], [0, 1], [1, 2], [2, 3]]]
    assert context_windows(latents, 0) is None


def test_units_do_not_matter_once_normalised():
    torch.manual_seed(0)
    adapter = ActionAdapter(latent_action_dim=16, context_frames=0, hidden=16, depth=2).eval()
    actions = torch.randn(4, 3, 5, 7)
    adapter.normalise_by(actions)
    before = adapter(actions)
    adapter.normalise_by(100.0 * actions + 3.0)
    torch.testing.assert_close(adapter(100.0 * actions + 3.0), before, rtol=1e-3, atol=1e-4)


def test_the_papers_adapter_has_two_layers_and_no_context():
    adapter = ActionAdapter(latent_action_dim=16, context_frames=0, depth=2)
    assert sum(isinstance(layer, torch.nn.Linear) for layer in adapter.mlp) == 2


def test_cross_entropy_teaches_the_codes():
    torch.manual_seed(0)
    bottleneck = Bottleneck(entries=4, width=8).eval()
    bottleneck(torch.randn(2, 64, 16))
    adapter = ActionAdapter(latent_action_dim=16, context_frames=0, hidden=32, depth=2, dropout=0.0)
    actions = torch.randn(8, 6, 5, 7)
    indices = (actions[:, :, 0, :2] > 0).long()
    target = bottleneck.from_indices(indices).detach()
    optimizer = torch.optim.AdamW(adapter.parameters(), 1e-2)
    for _ in range(150):
        loss, metrics = adapter_loss(bottleneck, adapter(actions), target, indices)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["adapter_accuracy"] > 0.95
    assert (bottleneck.snap(adapter(actions)).indices == indices).float().mean() > 0.95


def test_a_continuous_target_is_regressed():
    bottleneck = Bottleneck(kind="continuous", width=8)
    loss, _ = adapter_loss(bottleneck, torch.zeros(1, 1, 16), torch.full((1, 1, 16), 2.0), None)
    assert loss == 4.0


def test_wrong_shapes_are_named():
    adapter = ActionAdapter(latent_action_dim=16, **LATENT, hidden=16)
    with pytest.raises(ValueError, match=r"\(4, 7\).*\(5, 7\)"):
        adapter(torch.zeros(1, 1, 4, 7), torch.zeros(1, 1, 2, 4, 2, 2))
    with pytest.raises(ValueError, match="sees 2 context frames, got None"):
        adapter(torch.zeros(1, 1, 5, 7))
    with pytest.raises(ValueError, match="depth=1"):
        ActionAdapter(depth=1)
