"""The laws of ``Backbone``, for every one that is registered; conventions; the registry."""

import json

import pytest
import torch

from colaworld.models.backbones import (
    BACKBONES,
    DIFFUSERS,
    OPENSORA,
    Backbone,
    Convention,
    build_backbone,
    load_backbone,
)

FRAMES = {"latent_channels": 4, "latent_height": 4, "latent_width": 4}
SIZES = {
    "own": FRAMES | {"width": 16, "depth": 2, "heads": 2},
    "conv": FRAMES | {"width": 16, "depth": 2, "groups": 4},
    "opensora": FRAMES | {"width": 16, "depth": 2, "heads": 2, "max_frames": 16},
    "wan": FRAMES | {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "max_frames": 16},
    "ltx": FRAMES | {"patch": 2, "width": 16, "depth": 2, "heads": 2, "max_frames": 16},
}


@pytest.fixture(params=SIZES)
def video(request) -> Backbone:
    torch.manual_seed(0)
    model = build_backbone(request.param, SIZES[request.param]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def clip(video: Backbone, frames: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(2, frames, *video.latent_shape, generator=torch.Generator().manual_seed(seed))


def test_it_has_what_recipe_imagination_and_engine_ask_for(video):
    assert isinstance(video, Backbone)
    tokens = video.rows * video.columns
    assert tokens in (4, 16) and video.latent_shape == (4, 4, 4)
    assert (video.config.width, video.config.depth, video.config.max_frames) == (16, 2, 16)
    assert video.config.mlp_ratio > 0.0
    cache = video.remember(clip(video, 3))
    assert cache.frames == 3 and 1 <= len(cache.keys) <= video.config.depth
    assert all(part.shape[:2] == (2, tokens) and part.shape[3] == 3 for part in [*cache.keys, *cache.values])
    assert video.next_velocity(clip(video, 1), torch.rand(2, 1), cache).shape == (2, 1, 4, 4, 4)


def test_frames_see_what_their_mask_shows_and_nothing_else(video):
    frames, time, places = clip(video, 4), torch.rand(2, 4), torch.arange(4)
    mask = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], dtype=torch.bool)
    before = video(frames, time, places, mask=mask)[0]
    for changed in range(4):
        other = frames.clone()
        other[:, changed] += 1.0
        difference = (before - video(other, time, places, mask=mask)[0]).abs().amax(dim=(0, 2, 3, 4))
        assert ((difference > 1e-4) == mask[:, changed]).all() and difference[~mask[:, changed]].sum() == 0.0


def test_at_once_and_frame_by_frame_are_the_same(video):
    clean, noised, time = clip(video, 4), clip(video, 4, seed=3), torch.rand(2, 4)
    modulation = 0.3 * torch.randn(2, 4, 6, 16)
    at_once, cache = video.two_streams(clean, noised, time, action_modulation=modulation), None
    for step in range(4):
        now = slice(step, step + 1)
        cache = video.remember(clean[:, now], cache)
        found = video.next_velocity(noised[:, now], time[:, now], cache, action_modulation=modulation[:, now])
        torch.testing.assert_close(found, at_once[:, now], rtol=1e-4, atol=1e-5)


def test_actions_are_heard_and_zeros_say_nothing(video):
    inputs = clip(video, 3), clip(video, 3, seed=3), torch.rand(2, 3)
    free = video.two_streams(*inputs)
    torch.testing.assert_close(video.two_streams(*inputs, action_modulation=torch.zeros(2, 3, 6, 16)), free)
    one = torch.zeros(2, 3, 6, 16)
    one[:, 1] = 0.5
    change = (video.two_streams(*inputs, action_modulation=one) - free).abs().amax(dim=(0, 2, 3, 4))
    assert change[1] > 1e-3 and change[[0, 2]].sum() == 0.0


def test_what_is_computed_again_in_the_backward_pass_has_the_same_gradients(video):
    found = []
    for _ in range(2):
        video.zero_grad()
        video.two_streams(clip(video, 2), clip(video, 2, seed=3), torch.full((2, 2), 0.5)).square().mean().backward()
        found.append({name: each.grad.clone() for name, each in video.named_parameters() if each.grad is not None})
        video.enable_gradient_checkpointing()
    assert video.gradient_checkpointing and len(found[0]) > 10
    torch.testing.assert_close(found[1], found[0])


def test_latents_that_do_not_divide_are_refused(video):
    name = next(name for name, (_, found) in BACKBONES.items() if found == type(video).__name__)
    if name == "conv":  # has no patches: takes any size
        assert type(video)(**(SIZES[name] | {"latent_height": 5})).latent_shape == (4, 5, 4)
    else:
        with pytest.raises(ValueError, match="latents of 5x4 do not divide by patch 2"):
            type(video)(**(SIZES[name] | {"latent_height": 5}))
    with pytest.raises(ValueError, match="frame 16 of a clip, but the model was made for 16"):
        video(clip(video, 1), torch.ones(2, 1), torch.tensor([16]))


def test_it_comes_back_from_its_folder_by_name(video, tmp_path):
    video.save_pretrained(tmp_path)
    again = load_backbone(tmp_path).eval()
    assert type(again) is type(video)
    inputs = clip(video, 2), torch.rand(2, 2), torch.arange(2)
    torch.testing.assert_close(dict(again.state_dict()), dict(video.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(again(*inputs)[0], video(*inputs)[0], rtol=1e-4, atol=1e-4)


def test_names_that_are_not_registered_are_refused(tmp_path):
    with pytest.raises(ValueError, match="own, conv, opensora, wan, ltx, got 'sora'"):
        build_backbone("sora", {})
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "os.system"}))
    with pytest.raises(ValueError, match="config.json: _class_name must be .*STDiT3.*got 'os.system'"):
        load_backbone(tmp_path)
    assert set(SIZES) == set(BACKBONES)


@pytest.mark.parametrize("convention", [OPENSORA, DIFFUSERS])
def test_a_generator_of_either_convention_is_followed_from_noise_to_data(convention):
    # A generator that knows the answer, in its own terms: at timestep t a sample is (1 - t) data + t noise.
    noise, data = torch.randn(5), torch.randn(5)
    predicted = data - noise if convention is OPENSORA else noise - data
    x, steps = noise.clone(), 4
    for step in range(steps):
        timestep = convention.timestep(torch.tensor(step / steps))
        torch.testing.assert_close(x, (1.0 - timestep / 1000.0) * data + timestep / 1000.0 * noise)
        x = x + convention.velocity(predicted) / steps
    torch.testing.assert_close(x, data)
    assert convention.timestep(torch.tensor(1.0)) == 0.0


def test_a_sign_that_is_none_is_refused():
    with pytest.raises(ValueError, match="sign must be 1 or -1, got 0"):
        Convention(sign=0)
    with pytest.raises(ValueError, match="scale must be positive, got 0.0"):
        Convention(sign=1, scale=0.0)
