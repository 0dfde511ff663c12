"""What is the convolutional backbone's own: what it remembers, and that imagining with it is as with any other."""

import pytest
import torch
from torch import Tensor

from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.backbones import CausalFrames
from colaworld.models.conv_backbone import ConvBackbone
from colaworld.models.engine import Engine, EngineConfig
from colaworld.models.flow import FlowConfig, SamplerConfig
from colaworld.models.imagination import Imagination, given

LATENT = {"latent_channels": 3, "latent_height": 4, "latent_width": 4}


def filled(context: int = 2) -> ConvBackbone:
    """A small model whose zero-initialised parts are filled, so that everything has an effect."""
    torch.manual_seed(0)
    model = ConvBackbone(**LATENT, width=16, depth=2, groups=4, context=context, max_frames=12).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def frames(count: int, seed: int = 1, batch: int = 2) -> Tensor:
    return torch.randn(batch, count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("context", [1, 2, 3])
def test_as_many_of_the_latest_frames_count_as_it_was_made_for(context):
    video = filled(context)
    clean, noised, time = frames(6), frames(6, seed=2), torch.rand(2, 6)
    before = video.two_streams(clean, noised, time)
    for changed in range(6):
        other = clean.clone()
        other[:, changed] += 1.0
        difference = (video.two_streams(other, noised, time) - before).abs().amax(dim=(0, 2, 3, 4))
        counts = torch.zeros(6, dtype=torch.bool)
        counts[changed : changed + context] = True
        assert ((difference > 1e-4) == counts).all() and difference[~counts].sum() == 0.0


@pytest.mark.parametrize("context", [3, 4])
@pytest.mark.parametrize("count", [1, 2])
def test_fewer_frames_than_it_looks_back(context, count):
    video = filled(context)
    streams = frames(count), frames(count, seed=2), torch.rand(2, count)
    torch.testing.assert_close(video.two_streams(*streams), CausalFrames.two_streams(video, *streams))


def test_the_short_way_through_training_is_the_long_one():
    video, modulation = filled(), 0.3 * torch.randn(2, 5, 6, 16)
    streams = frames(5), frames(5, seed=2), torch.rand(2, 5)
    short = video.two_streams(*streams, action_modulation=modulation)
    long = CausalFrames.two_streams(video, *streams, action_modulation=modulation)
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-6)


def test_the_latest_frame_is_told_from_the_one_before():
    video = filled()
    clean, noised, time = frames(2), frames(1, seed=2), torch.rand(2, 1)
    found = video.next_velocity(noised, time, video.remember(clean))
    turned = video.next_velocity(noised, time, video.remember(clean.flip(1)))
    assert (found - turned).abs().max() > 1e-2


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("compiled", [False, True])
def test_engine_plain_cache_and_no_cache_agree(guidance, compiled, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    video = filled()
    conditioner = ActionConditioner(latent_action_dim=6, width=16, depth=1, heads=2, video_width=16, max_steps=12).eval()
    torch.nn.init.normal_(conditioner.out[-1].weight, std=0.2)
    arguments = video, conditioner, FlowConfig(), SamplerConfig(steps=2, std=0.5, guidance=guidance)
    plain, engine = Imagination(*arguments), Engine(*arguments, EngineConfig(compile=compiled))
    with torch.no_grad():
        context, actions = frames(3, batch=1), torch.randn(3, 6, 6)
        state = plain.start(context, actions[:1, :2]).expand(3)
        noise = plain.noise(state, 4, torch.Generator().manual_seed(3))
        found = [each.roll_out(state, given(actions[:, 2:]), 4, noise=noise) for each in (plain, engine)]
        uncached = plain.roll_out_uncached(state, given(actions[:, 2:]), 4, noise=noise)
    torch.testing.assert_close(found[0], uncached, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], uncached, rtol=1e-4, atol=1e-5)


def test_no_pass_is_spent_on_remembering():
    video, frames_run = filled(), []
    engine = Engine(video, None, FlowConfig(), SamplerConfig(steps=2))
    video.register_forward_pre_hook(lambda module, inputs: frames_run.append(inputs[0].shape[1]))
    with torch.no_grad():
        state = engine.start(frames(2), torch.zeros(2, 1, 6))
        engine.roll_out(state, given(torch.zeros(2, 3, 6)), 3)
    assert frames_run == [1] * 6, "three frames of two sampling steps"


def test_what_moves_is_learned_in_every_place():
    # A bright spot goes one cell to the right a step: shown in three of the four rows, it moves in the other one too.
    def clip(row: int, batch: int) -> Tensor:
        spot = torch.zeros(batch, 4, 3, 4, 4)
        for step in range(4):
            spot[:, step, :, row, step] = 1.0
        return spot

    torch.manual_seed(0)
    video = ConvBackbone(**LATENT, width=16, depth=2, groups=4)
    optimiser = torch.optim.Adam(video.parameters(), lr=1e-2)
    for step in range(90):
        shown = clip((0, 1, 3)[step % 3], 1)
        found = shown[:, :-1] + video.two_streams(shown[:, :-1], shown[:, :-1], torch.zeros(1, 3))
        loss = (found - shown[:, 1:])[:, 1:].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        unseen = clip(2, 1)
        found = unseen[:, :-1] + video.two_streams(unseen[:, :-1], unseen[:, :-1], torch.zeros(1, 3))
    copied = (unseen[:, 1:-1] - unseen[:, 2:]).square().mean()
    assert (found - unseen[:, 1:])[:, 1:].square().mean() < 0.3 * copied


def test_impossible_sizes_are_named():
    with pytest.raises(ValueError, match="context must be 1 or more, got 0"):
        ConvBackbone(**LATENT, context=0)
    with pytest.raises(ValueError, match="width 12 and the 18 channels within a block must divide by 4 groups"):
        ConvBackbone(**LATENT, width=12, mlp_ratio=1.5, groups=4)
    with pytest.raises(ValueError, match="frame 12 of a clip, but the model was made for 12"):
        filled().remember(frames(13))
