"""Laws of the latent action model: inverse dynamics, bottleneck, conditioner and their composition."""

import pytest
import torch

from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.bottleneck import Bottleneck
from colaworld.models.cola import ColaModel
from colaworld.models.flow import FlowConfig
from colaworld.models.health import codebook_health
from colaworld.models.inverse_dynamics import InverseDynamics
from colaworld.models.video_transformer import VideoTransformer

LATENT = {"latent_channels": 3, "latent_height": 4, "latent_width": 4}


def clip(batch: int = 2, frames: int = 7) -> torch.Tensor:
    return torch.randn(batch, frames, 3, 4, 4, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def cola() -> ColaModel:
    torch.manual_seed(0)
    model = ColaModel(
        VideoTransformer(**LATENT, width=16, depth=1, heads=2),
        ActionConditioner(latent_action_dim=16, width=16, depth=1, heads=2, video_width=16),
        InverseDynamics(output_dim=16, **LATENT, width=16, depth=1, heads=2),
        Bottleneck(entries=8, width=8),
        FlowConfig(),
    )
    torch.nn.init.normal_(model.conditioner.out[-1].weight, std=0.1)
    torch.nn.init.normal_(model.video.unembed.weight, std=0.1)
    for block in model.video.blocks:
        torch.nn.init.normal_(block.scale_shift_table, std=0.5)
    model.latent_actions(clip())  # k-means over a first batch
    return model


@pytest.mark.parametrize("history", [0, 2])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_code_of_step_t_sees_its_window_only(history, depth):
    torch.manual_seed(0)
    model = InverseDynamics(output_dim=8, **LATENT, width=16, depth=depth, heads=2, history=history).eval()
    latents, changed_frame = clip(), 4
    other = latents.clone()
    other[:, changed_frame] += 1.0
    changed = (model(latents) - model(other)).abs().amax(dim=(0, 2)) > 1e-6
    # Step t sees frames t - history .. t + 1, so frame 4 reaches steps 3 (as its last frame) .. 4 + history.
    expected = [changed_frame - 1 <= step <= changed_frame + history for step in range(6)]
    assert changed.tolist() == expected


def test_inverse_dynamics_tells_the_order_of_frames():
    model = InverseDynamics(output_dim=8, **LATENT, width=16, depth=1, heads=2).eval()
    pair = clip(frames=2)
    assert (model(pair) - model(pair.flip(1))).abs().max() > 1e-4


def test_one_frame_has_no_action():
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        InverseDynamics(output_dim=8, **LATENT, width=16, depth=1, heads=2)(clip(frames=1))


def filled(bottleneck: Bottleneck) -> Bottleneck:
    bottleneck(torch.randn(4, 50, bottleneck.input_dim, generator=torch.Generator().manual_seed(1)))
    return bottleneck


def test_quantising_is_idempotent_up_to_the_codes():
    bottleneck = filled(Bottleneck(entries=8, width=4)).eval()
    out = bottleneck(torch.randn(3, 5, 8))
    torch.testing.assert_close(bottleneck.from_indices(out.indices), out.latents)
    assert (bottleneck.snap(out.latents).indices == out.indices).all()
    assert (bottleneck.code_logits(torch.randn(3, 5, 8)).shape) == (3, 5, 2, 8)


def test_logits_agree_with_the_codes_that_are_picked():
    bottleneck = filled(Bottleneck(entries=8, width=4)).eval()
    raw = torch.randn(3, 40, 8)
    assert (bottleneck.code_logits(raw).argmax(dim=-1) == bottleneck.snap(raw).indices).all()


@pytest.mark.parametrize("training", [True, False])
def test_gradients_pass_straight_through_in_training_and_evaluation(training):
    bottleneck = filled(Bottleneck(entries=8, width=4)).train(training)
    raw = torch.randn(2, 3, 8, requires_grad=True)
    bottleneck(raw).latents.square().sum().backward()
    assert raw.grad.abs().max() > 0.0


def test_the_two_losses_move_their_own_side():
    for weights, moved in (((1.0, 0.0), (False, True)), ((0.0, 0.25), (True, False))):
        bottleneck = filled(Bottleneck(entries=8, width=4, codebook_weight=weights[0], commitment_weight=weights[1]))
        raw = torch.randn(2, 3, 8, requires_grad=True)
        bottleneck(raw).loss.backward()
        codebook = bottleneck.quantiser._codebook.embed
        reached = tuple(t.grad is not None and bool(t.grad.abs().max() > 0) for t in (raw, codebook))
        assert reached == moved


def test_commitment_weighs_a_quarter_of_the_codebook_loss():
    out = filled(Bottleneck(entries=8, width=4))(torch.randn(2, 3, 8))
    torch.testing.assert_close(out.loss.detach(), out.parts["codebook"] + 0.25 * out.parts["commitment"])


def test_nearly_equal_tokens_are_spread_over_the_codebook():
    bottleneck = Bottleneck(entries=8, width=4).train()
    raw = 5.0 + 0.01 * torch.randn(8, 50, 8)
    assert all(health.utilisation == 1.0 for health in codebook_health(bottleneck(raw).indices, 8))


def test_a_window_of_one_clip_does_not_reach_another_in_evaluation():
    bottleneck = filled(Bottleneck(entries=8, width=4)).eval()
    raw = torch.randn(2, 5, 8)
    torch.testing.assert_close(bottleneck(raw).latents[:1], bottleneck(raw[:1]).latents)


def test_recalibrating_takes_the_statistics_it_is_given():
    bottleneck = filled(Bottleneck(entries=8, width=4)).eval()
    raw = torch.randn(4, 50, 8)
    bottleneck.recalibrate(raw)
    before = bottleneck(raw).indices
    bottleneck.recalibrate(3.0 * raw + 2.0)
    assert (bottleneck(3.0 * raw + 2.0).indices == before).all()


def test_commitment_can_grow_in():
    bottleneck = filled(Bottleneck(entries=8, width=4)).eval()
    raw = torch.randn(2, 3, 8)
    none, half, whole = (bottleneck(raw, commitment=share).loss for share in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half - none, whole - half)
    assert whole > none


def test_the_continuous_bottleneck_has_the_same_door():
    bottleneck = Bottleneck(kind="continuous", tokens=2, width=4)
    raw = torch.randn(2, 3, bottleneck.input_dim, requires_grad=True)
    out = bottleneck(raw)
    assert out.indices is None
    torch.testing.assert_close(out.latents, raw[..., :8])
    noisy = bottleneck(raw, torch.Generator().manual_seed(0)).latents
    assert (noisy - out.latents).abs().max() > 1e-3
    torch.testing.assert_close(bottleneck.snap(raw[..., :8]).latents, raw[..., :8])
    standard = bottleneck(torch.zeros(1, 1, 16))
    assert standard.parts["kl"] == 0.0


def test_a_bad_bottleneck_is_named():
    with pytest.raises(ValueError, match="'spam'"):
        Bottleneck(kind="spam")
    with pytest.raises(ValueError, match="takes 64 numbers a step, got 3"):
        Bottleneck()(torch.zeros(1, 1, 3))


def test_the_conditioner_is_causal():
    model = ActionConditioner(latent_action_dim=4, width=16, depth=2, heads=2, video_width=8).eval()
    torch.nn.init.normal_(model.out[-1].weight)
    actions = torch.randn(1, 6, 4)
    other = actions.clone()
    other[:, 3] += 1.0
    changed = (model(actions) - model(other)).abs().amax(dim=(0, 2, 3))
    assert (changed[:3] == 0.0).all() and (changed[3:] > 1e-4).all()


def test_actions_are_dropped_step_wise_at_the_given_rate():
    model = ActionConditioner(latent_action_dim=4, width=16, depth=1, heads=2, video_width=8, drop=0.1).train()
    torch.nn.init.normal_(model.out[-1].weight)
    actions = torch.randn(1, 4, generator=torch.Generator().manual_seed(0)).expand(3000, 1, 4)
    free = model(actions[:1], dropped=torch.ones(1, 1, dtype=torch.bool))
    drawn = model(actions, generator=torch.Generator().manual_seed(0))
    dropped = (drawn - free).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert 0.08 < dropped.float().mean() < 0.12
    model.eval()
    assert ((model(actions, generator=torch.Generator().manual_seed(0)) - free).abs().amax(dim=(1, 2, 3)) > 1e-5).all()


def test_the_flow_loss_reaches_inverse_dynamics_through_a_frozen_video_model(cola):
    cola.video.requires_grad_(False)
    cola(clip(), torch.Generator().manual_seed(0))[0].backward()
    assert all(parameter.grad is None for parameter in cola.video.parameters())
    assert cola.inverse_dynamics.readout.weight.grad.abs().max() > 0.0
    assert cola.conditioner.out[-1].weight.grad.abs().max() > 0.0


def test_without_actions_only_the_video_model_learns(cola):
    cola(clip(), torch.Generator().manual_seed(0), use_actions=False)[0].backward()
    assert cola.inverse_dynamics.readout.weight.grad is None
    assert cola.video.unembed.weight.grad.abs().max() > 0.0


def test_imagined_context_begins_with_the_real_frames_and_then_departs(cola):
    latents = clip()
    context = cola.imagined_context(latents, cola.latent_actions(latents).latents)
    assert context.shape == latents[:, :-1].shape
    torch.testing.assert_close(context[:, :2], latents[:, :2])
    assert (context[:, 2:] - latents[:, 2:-1]).abs().max() > 1e-3
    assert not context.requires_grad


def test_imagining_leaves_frozen_parts_in_evaluation(cola):
    latents = clip()
    cola.train()
    cola.bottleneck.eval()
    cola.imagined_context(latents, cola.latent_actions(latents).latents)
    assert not cola.bottleneck.training and cola.video.training


def test_action_use_is_zero_for_a_model_that_ignores_actions(cola):
    latents = clip(batch=6)
    actions = cola.latent_actions(latents).latents
    cola.eval()
    use = cola.action_use(latents, actions, 0, codes=True)
    assert use.shuffled != use.right and use.shuffled_ratio == use.shuffled / use.right
    torch.nn.init.zeros_(cola.conditioner.out[-1].weight)
    use = cola.action_use(latents, actions, 0, codes=True)
    assert use.right == use.shuffled == use.constant and use.use == 0.0


def test_the_constant_of_action_use_is_the_commonest_code_or_the_mean(cola):
    cola.eval()
    latents = clip(batch=6)
    codes = cola.bottleneck.from_indices(torch.randint(8, (6, latents.shape[1] - 1, 2)))
    codes[:2] = codes[0, 0]  # the commonest by far
    alone = codes[0, 0].expand_as(codes)
    expected = cola.flow_loss(latents, alone, torch.Generator().manual_seed(0))
    assert cola.action_use(latents, codes, 0, codes=True).constant == expected
    mean = codes.flatten(0, 1).mean(dim=0).expand_as(codes)
    expected = cola.flow_loss(latents, mean, torch.Generator().manual_seed(0))
    assert cola.action_use(latents, codes, 0, codes=False).constant == expected


def test_equal_codes_are_equal_latent_actions(cola):
    read = cola.latent_actions(clip(batch=6))
    assert torch.equal(read.latents, cola.bottleneck.from_indices(read.indices))


def test_overfits_one_batch():
    torch.manual_seed(0)
    model = ColaModel(
        VideoTransformer(**LATENT, width=32, depth=1, heads=2),
        ActionConditioner(latent_action_dim=16, width=16, depth=1, heads=2, video_width=32, drop=0.0),
        InverseDynamics(output_dim=16, **LATENT, width=16, depth=1, heads=2),
        Bottleneck(entries=8, width=8),
        FlowConfig(mean_fraction=1.0),
    )
    latents, optimizer = clip(frames=4), torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for step in range(150):
        loss, metrics = model(latents, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(metrics["flow"]))
    assert losses[-1] < 0.3 * losses[0]


def test_codebook_health_against_known_answers():
    even = codebook_health(torch.arange(8).repeat(10)[:, None], 8)[0]
    assert (even.utilisation, even.max_usage) == (1.0, 0.125)
    assert even.entropy == pytest.approx(torch.log(torch.tensor(8.0)).item())
    assert not even.collapsed
    tokens = codebook_health(torch.stack([torch.zeros(20, dtype=torch.long), torch.arange(20) % 5], dim=1), 10)
    assert tokens[0].collapsed and tokens[0].entropy == 0.0
    assert tokens[1].utilisation == 0.5
    with pytest.raises(ValueError, match="no codes"):
        codebook_health(torch.zeros(0, 2, dtype=torch.long), 8)
