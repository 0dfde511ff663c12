"""Laws of the causal video transformer and of imagining with it."""

import pytest
import torch

from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.flow import FlowConfig, SamplerConfig, source_latents
from colaworld.models.imagination import Imagination, given
from colaworld.models.video_transformer import VideoTransformer

LATENT = {"latent_channels": 3, "latent_height": 4, "latent_width": 4}


@pytest.fixture
def video() -> VideoTransformer:
    """A small model whose zero-initialised parts are filled, so that everything has an effect."""
    torch.manual_seed(0)
    model = VideoTransformer(**LATENT, width=16, depth=2, heads=2, max_frames=12).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture
def conditioner() -> ActionConditioner:
    torch.manual_seed(1)
    model = ActionConditioner(latent_action_dim=6, width=16, depth=2, heads=2, video_width=16, max_steps=12).eval()
    torch.nn.init.normal_(model.out[-1].weight, std=0.2)
    return model


def clip(batch: int, frames: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(batch, frames, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_a_later_frame_changes_nothing_earlier(video):
    clean, noised, time = clip(2, 6), clip(2, 6, seed=3), torch.rand(2, 6)
    before = video.two_streams(clean, noised, time)
    later_clean, later_noised = clean.clone(), noised.clone()
    later_clean[:, 4] += 1.0
    later_noised[:, 4] += 1.0
    after = video.two_streams(later_clean, later_noised, time)
    # Noised frame n (place n + 1 of the clip) sees clean frames 0..n: changing clean frame 4 may reach velocities 4 and
    # 5 only.
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
    assert (before[:, 4] - after[:, 4]).abs().max() > 1e-3
    assert (before[:, 5] - after[:, 5]).abs().max() > 1e-3


def test_a_noised_frame_is_seen_by_itself_alone(video):
    clean, noised, time = clip(1, 5), clip(1, 5, seed=3), torch.rand(1, 5)
    other = noised.clone()
    other[:, 1] += 1.0
    before, after = video.two_streams(clean, noised, time), video.two_streams(clean, other, time)
    changed = (before - after).abs().amax(dim=(0, 2, 3, 4))
    assert changed[1] > 1e-3
    assert changed[[0, 2, 3, 4]].max() == 0.0


def test_flow_times_are_each_frames_own(video):
    clean, noised, time = clip(1, 4), clip(1, 4, seed=3), torch.full((1, 4), 0.3)
    other = time.clone()
    other[:, 2] = 0.9
    changed = (
        (video.two_streams(clean, noised, time) - video.two_streams(clean, noised, other)).abs().amax(dim=(0, 2, 3, 4))
    )
    assert changed[2] > 1e-4
    assert changed[[0, 1, 3]].max() == 0.0


def test_parallel_training_equals_cached_imagining(video, conditioner):
    clean, noised, time = clip(2, 11), clip(2, 11, seed=3), torch.rand(2, 11)
    modulation = conditioner(torch.randn(2, 11, 6))
    parallel = video.two_streams(clean, noised, time, action_modulation=modulation)
    cache = video.remember(clean[:, :2])
    for frame in range(1, 11):
        one = video.next_velocity(
            noised[:, frame : frame + 1],
            time[:, frame : frame + 1],
            cache,
            action_modulation=modulation[:, frame : frame + 1],
        )
        torch.testing.assert_close(one[:, 0], parallel[:, frame], rtol=1e-4, atol=1e-5)
        if frame + 1 < 11:
            cache = video.remember(clean[:, frame + 1 : frame + 2], cache)


def test_a_fresh_conditioner_leaves_the_video_model_as_it_was(video):
    fresh = ActionConditioner(latent_action_dim=6, width=16, depth=1, heads=2, video_width=16)
    clean, noised, time = clip(1, 4), clip(1, 4, seed=3), torch.rand(1, 4)
    conditioned = video.two_streams(clean, noised, time, action_modulation=fresh(torch.randn(1, 4, 6)))
    torch.testing.assert_close(conditioned, video.two_streams(clean, noised, time))


def test_action_s_leaves_frames_up_to_s_unchanged_and_moves_the_next(video, conditioner):
    imagination = Imagination(video, conditioner, FlowConfig())
    start = imagination.start(clip(1, 2), torch.randn(1, 1, 6))
    actions = torch.randn(1, 5, 6)
    other = actions.clone()
    other[:, 2] += 1.0
    before = imagination.roll_out(start, given(actions), 5)
    after = imagination.roll_out(start, given(other), 5)
    torch.testing.assert_close(before[:, :2], after[:, :2], rtol=0, atol=0)
    assert all((before[:, step] - after[:, step]).abs().max() > 1e-4 for step in (2, 3, 4))


def test_rolling_out_leaves_the_start_reusable(video, conditioner):
    imagination = Imagination(video, conditioner, FlowConfig())
    start = imagination.start(clip(1, 2), torch.randn(1, 1, 6))
    actions = torch.randn(3, 4, 6)
    together = imagination.roll_out(start.expand(3), given(actions), 4)
    again = imagination.roll_out(start.expand(1), given(actions[1:2]), 4)
    torch.testing.assert_close(together[1:2], again, rtol=1e-4, atol=1e-5)


def test_candidates_share_their_noise(video, conditioner):
    imagination = Imagination(video, conditioner, FlowConfig(), SamplerConfig(steps=2, std=0.5))
    start = imagination.start(clip(1, 2), torch.randn(1, 1, 6)).expand(2)
    same = torch.randn(1, 3, 6).expand(2, -1, -1)
    frames = imagination.roll_out(start, given(same), 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(frames[0], frames[1])
    other = imagination.roll_out(start, given(same), 3, torch.Generator().manual_seed(1))
    assert (frames - other).abs().max() > 1e-3


def test_guidance_moves_away_from_no_action(video, conditioner):
    actions, context, known = torch.randn(1, 1, 6), clip(1, 2), torch.randn(1, 1, 6)

    def frame(guidance: float) -> torch.Tensor:
        imagination = Imagination(video, conditioner, FlowConfig(), SamplerConfig(guidance=guidance))
        return imagination.roll_out(imagination.start(context, known), given(actions), 1)

    none, one, four = frame(0.0), frame(1.0), frame(4.0)
    torch.testing.assert_close(four - none, 4.0 * (one - none), rtol=1e-3, atol=1e-4)


def test_too_long_a_clip_is_named(video):
    with pytest.raises(ValueError, match="frame 12 .* made for 12 frames"):
        video.two_streams(clip(1, 12), clip(1, 12), torch.rand(1, 12))


def test_weights_survive_save_and_load(video, tmp_path):
    video.save_pretrained(tmp_path)
    loaded = VideoTransformer.from_pretrained(tmp_path)
    clean, noised, time = clip(1, 3), clip(1, 3, seed=3), torch.rand(1, 3)
    torch.testing.assert_close(loaded.two_streams(clean, noised, time), video.two_streams(clean, noised, time))


def test_sources_are_what_they_say():
    last, noise = torch.ones(1, 1, 3, 4, 4), torch.full((1, 1, 3, 4, 4), 2.0)
    assert (source_latents(FlowConfig(), last, noise, 0.5) == 2.0).all()
    assert (source_latents(FlowConfig(source="noise", mean_fraction=0.0), last, noise, 0.5) == 2.0).all()
    assert (source_latents(FlowConfig(), last, noise, 0.0) == last).all()
