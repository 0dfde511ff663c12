"""Laws of the adapter."""

import pytest
import torch

from colaworld.adapters.action_adapter import (
    ActionAdapter,
    adapt,
    adapter_loss,
    codes_of,
    context_windows,
    latents_of,
)
from colaworld.adapters.system import load_system, weights_path
from colaworld.models.bottleneck import Bottleneck

LATENT = {"latent_channels": 4, "latent_height": 2, "latent_width": 2}
SHIPPED = [[-0.807249, 0.969731, -0.932532, -2.088635], [-0.505731, -1.024049, -0.020057, -0.081106]]
"""What the shipped adapter answered to two chunks when it was packed: the first four of 64 numbers."""
KINDS = ("nearest", "regress", "classify")


def codebook(kind: str = "vq") -> Bottleneck:
    """Two tokens of four codes, spread by a first batch."""
    torch.manual_seed(0)
    bottleneck = Bottleneck(kind=kind, entries=4, width=8).eval()
    bottleneck(torch.randn(2, 64, bottleneck.input_dim))
    return bottleneck.requires_grad_(False)


def made(kind: str, bottleneck: Bottleneck, *, context_frames: int = 0, snap: bool = True) -> ActionAdapter:
    torch.manual_seed(1)
    return ActionAdapter(
        kind=kind,
        code_sizes=bottleneck.code_sizes if kind == "classify" else (),
        latent_action_dim=bottleneck.dim,
        context_frames=context_frames,
        snap=snap,
        hidden=32,
        depth=2,
        dropout=0.0,
        **LATENT,
    )


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


@pytest.mark.parametrize("quantiser", ["vq", "residual_vq"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_a_law_from_actions_to_codes(kind, quantiser):
    bottleneck = codebook(quantiser)
    adapter = made(kind, bottleneck)
    actions = torch.randn(8, 12, 5, 7)
    indices = (actions[:, :, 0, :2] > 0).long()
    target = bottleneck.from_indices(indices)
    optimizer = torch.optim.AdamW(adapter.parameters(), 1e-2)
    for _ in range(300):
        loss, metrics = adapter_loss(bottleneck, adapter(actions), target, indices, kind)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["adapter_accuracy"] > 0.95
    assert (codes_of(adapter, bottleneck, adapter(actions)) == indices).float().mean() > 0.95
    right = (adapt(adapter, bottleneck, actions, None) - target).abs().amax(dim=-1) < 1e-3
    assert right.float().mean() > 0.9


@pytest.mark.parametrize("snap", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_the_actions_snapped_or_not(kind, snap):
    bottleneck, actions = codebook(), torch.randn(2, 3, 5, 7, requires_grad=True)
    adapter = made(kind, bottleneck, snap=snap).eval()
    latents = adapt(adapter, bottleneck, actions, None)
    weights = torch.randn(latents.shape)
    (reached,) = torch.autograd.grad((weights * latents).sum(), actions)
    assert (reached.abs().amax(dim=(2, 3)) > 0).all()
    between = adapt(adapter, bottleneck, actions, None, snap=False)
    torch.testing.assert_close(torch.autograd.grad((weights * between).sum(), actions)[0], reached)


@pytest.mark.parametrize("kind", KINDS)
def test_snapped_answers_are_codes_and_others_are_not(kind):
    bottleneck, actions = codebook(), torch.randn(4, 3, 5, 7)
    adapter = made(kind, bottleneck).eval()
    codes = codes_of(adapter, bottleneck, adapter(actions))
    snapped = adapt(adapter, bottleneck, actions, None)
    torch.testing.assert_close(snapped, bottleneck.from_indices(codes))
    assert (adapt(adapter, bottleneck, actions, None, snap=False) - snapped).abs().max() > 1e-2


@pytest.mark.parametrize("quantiser", ["vq", "residual_vq", "fsq"])
def test_a_classifier_between_codes_answers_with_the_expected_latent_action(quantiser):
    bottleneck = codebook(quantiser)
    adapter = made("classify", bottleneck)
    answer = torch.randn(1, 1, 8)
    first, second = (token.softmax(dim=-1) for token in answer[0, 0].view(2, 4))
    by_hand = sum(
        first[i] * second[j] * bottleneck.from_indices(torch.tensor([[[i, j]]])) for i in range(4) for j in range(4)
    )
    torch.testing.assert_close(latents_of(adapter, bottleneck, answer, snap=False), by_hand)
    certain = torch.full((1, 1, 8), -40.0)
    certain[..., 2], certain[..., 5] = 40.0, 40.0
    sure = latents_of(adapter, bottleneck, certain, snap=False)
    torch.testing.assert_close(sure, bottleneck.from_indices(torch.tensor([[[2, 1]]])))


@pytest.mark.parametrize("kind", KINDS)
def test_the_context_counts_only_for_an_adapter_that_sees_it(kind):
    bottleneck, actions = codebook(), torch.randn(2, 3, 5, 7)
    one, other = torch.randn(2, 2, 3, 2, 4, 2, 2)
    blind, seeing = (made(kind, bottleneck, context_frames=frames, snap=False).eval() for frames in (0, 2))
    with pytest.raises(ValueError, match="sees 2 context frames, got None"):
        adapt(seeing, bottleneck, actions, None)
    assert (adapt(seeing, bottleneck, actions, one) - adapt(seeing, bottleneck, actions, other)).abs().max() > 1e-3
    assert torch.equal(adapt(blind, bottleneck, actions, one), adapt(blind, bottleneck, actions, other))
    assert torch.equal(adapt(blind, bottleneck, actions, one), adapt(blind, bottleneck, actions, None))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_is_loaded(kind, tmp_path):
    bottleneck, actions = codebook(), torch.randn(2, 3, 5, 7)
    adapter = made(kind, bottleneck).eval()
    adapter.normalise_by(3.0 * actions + 1.0)
    adapter.save_pretrained(tmp_path)
    loaded = ActionAdapter.from_pretrained(tmp_path).eval()
    assert loaded.config.kind == kind
    assert torch.equal(loaded(actions), adapter(actions))
    assert torch.equal(adapt(loaded, bottleneck, actions, None), adapt(adapter, bottleneck, actions, None))


def test_the_adapter_that_ships_answers_as_it_did():
    system = load_system(weights_path())
    assert (system.adapter.config.kind, system.adapter.config.snap) == ("regress", False)
    actions = torch.linspace(-1.0, 1.0, 70).reshape(1, 2, 5, 7)
    said = adapt(system.adapter, system.bottleneck, actions, None)
    assert torch.equal(said, system.adapter(actions))
    torch.testing.assert_close(said[0, :, :4], torch.tensor(SHIPPED), rtol=1e-4, atol=1e-4)


def test_a_loss_is_over_the_kept_steps_alone():
    bottleneck, indices = codebook(), torch.tensor([[[0, 1], [2, 3], [1, 1]]])
    latents, answer = bottleneck.from_indices(indices), torch.randn(1, 3, 16, requires_grad=True)
    keep = torch.tensor([[True, False, True]])
    for kind in ("nearest", "regress"):
        loss, parts = adapter_loss(bottleneck, answer, latents, indices, kind, keep)
        alone, same = adapter_loss(bottleneck, answer[:, ::2], latents[:, ::2], indices[:, ::2], kind)
        torch.testing.assert_close((loss, parts), (alone, same))
    assert not torch.autograd.grad(loss, answer)[0][0, 1].any()
    loss, parts = adapter_loss(bottleneck, answer, latents, indices, "nearest", torch.zeros(1, 3, dtype=torch.bool))
    assert (loss, parts) == (0.0, {}) and not torch.autograd.grad(loss, answer)[0].any()


def test_a_continuous_target_is_regressed_and_cannot_be_classified():
    bottleneck = Bottleneck(kind="continuous", width=8)
    loss, parts = adapter_loss(bottleneck, torch.zeros(1, 1, 16), torch.full((1, 1, 16), 2.0), None)
    assert loss == 4.0 and list(parts) == ["adapter_error"]
    actions = torch.zeros(1, 1, 5, 7)
    regress = ActionAdapter(kind="regress", latent_action_dim=16, context_frames=0)
    assert torch.equal(adapt(regress.eval(), bottleneck, actions, None), regress(actions))
    for kind, sizes in (("nearest", ()), ("classify", (4, 4))):
        adapter = ActionAdapter(kind=kind, code_sizes=sizes, latent_action_dim=16, context_frames=0)
        with pytest.raises(ValueError, match=f"no codes, which an adapter of kind '{kind}' is taught; use .*'regress'"):
            adapt(adapter, bottleneck, actions, None)
        with pytest.raises(ValueError, match="no codes"):
            adapter_loss(bottleneck, adapter(actions), torch.zeros(1, 1, 16), None, kind)


def test_kinds_and_sizes_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="nearest, regress, classify, got 'nearby'"):
        ActionAdapter(kind="nearby")
    with pytest.raises(ValueError, match=r"got \(\) for 'classify'"):
        ActionAdapter(kind="classify")
    with pytest.raises(ValueError, match=r"got \(4, 4\) for 'regress'"):
        ActionAdapter(kind="regress", code_sizes=(4, 4))
    adapter = ActionAdapter(kind="classify", code_sizes=(4, 5), context_frames=0)
    with pytest.raises(ValueError, match=r"answers with 9 logits, the bottleneck has \(4, 4\) codes"):
        adapt(adapter, codebook(), torch.zeros(1, 1, 5, 7), None)


def test_wrong_shapes_are_named():
    adapter = ActionAdapter(latent_action_dim=16, **LATENT, hidden=16)
    with pytest.raises(ValueError, match=r"\(4, 7\).*\(5, 7\)"):
        adapter(torch.zeros(1, 1, 4, 7), torch.zeros(1, 1, 2, 4, 2, 2))
    with pytest.raises(ValueError, match="sees 2 context frames, got None"):
        adapter(torch.zeros(1, 1, 5, 7))
    with pytest.raises(ValueError, match="depth=1"):
        ActionAdapter(depth=1)
