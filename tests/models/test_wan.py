"""Wan as a backbone: diffusers' names, shapes, count and sums; causal; rotary places; engine; trained; whole recipe."""

from collections.abc import Callable

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

from colaworld.models.cola import ColaModel
from colaworld.models.engine import Engine, EngineConfig
from colaworld.models.flow import FlowConfig, SamplerConfig, integrate
from colaworld.models.frame_groups import GroupedConditioner
from colaworld.models.imagination import Imagination, given
from colaworld.models.wan import WAN_1_3B, WanBackbone
from colaworld.models.wan_weights import is_text

NARROW = {
    "latent_channels": 4, "latent_height": 4, "latent_width": 4, "width": 16, "depth": 2, "heads": 2,
    "mlp_ratio": 2.0, "max_frames": 12, "freq_dim": 16,
}  # fmt: skip
THEIRS = {
    "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "text_dim": 10,
    "freq_dim": 16, "ffn_dim": 32, "num_layers": 2,
}  # fmt: skip
NOISE = FlowConfig(source="noise", mean_fraction=0.0)


def stirred(make: Callable[..., torch.nn.Module], **sizes) -> torch.nn.Module:
    """With noise on all weights, so that everything has an effect."""
    torch.manual_seed(0)
    model = make(**sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def video() -> WanBackbone:
    return stirred(WanBackbone, **NARROW)


@pytest.fixture(scope="module")
def theirs() -> WanTransformer3DModel:
    return stirred(WanTransformer3DModel, **THEIRS)


@pytest.fixture(scope="module")
def with_text(theirs) -> WanBackbone:
    model = WanBackbone(**NARROW, text=True, text_dim=10).eval()
    model.load_state_dict(theirs.state_dict())
    return model


def conditioner(std: float = 0.2) -> GroupedConditioner:
    torch.manual_seed(1)
    model = GroupedConditioner(
        latent_action_dim=3, chunk=None, width=16, depth=1, heads=2, video_width=16, max_steps=12
    ).eval()
    torch.nn.init.normal_(model.single.out[-1].weight, std=std)
    return model


def clip(batch: int, frames: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(batch, frames, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_names_shapes_and_count_are_those_of_the_published_1_3b():
    with torch.device("meta"):
        whole, bare = WanBackbone(**WAN_1_3B, text=True), WanBackbone(**WAN_1_3B)
        published = WanTransformer3DModel(
            num_layers=30, num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, text_dim=4096, freq_dim=256
        ).state_dict()
    shapes = {name: tensor.shape for name, tensor in published.items()}
    assert {name: tensor.shape for name, tensor in whole.state_dict().items()} == shapes
    kept = {name: shape for name, shape in shapes.items() if not is_text(name)}
    assert {name: tensor.shape for name, tensor in bare.state_dict().items()} == kept
    assert len(shapes) - len(kept) == 30 * 12 + 4  # four layers, two norms and norm2's two weights a block; the text's
    assert sum(parameter.numel() for parameter in whole.parameters()) == 1_418_996_800
    assert sum(parameter.numel() for parameter in bare.parameters()) == 1_126_858_816
    assert (
        {name: bare.config[name] for name in WAN_1_3B}
        == WAN_1_3B
        == {name: WanBackbone.__init__.__wrapped__.__kwdefaults__[name] for name in WAN_1_3B}
    )


def test_with_text_and_no_mask_it_computes_what_diffusers_does_with_the_sign_turned(with_text, theirs):
    frames, caption = clip(2, 3), torch.randn(2, 5, 10)
    for told, theirs_told in ((caption, caption), (None, torch.zeros(2, 7, 10))):
        with torch.no_grad():
            ours = with_text(frames, torch.full((2, 3), 0.4), torch.arange(3), caption=told)[0]
            expected = theirs(frames.transpose(1, 2), torch.full((2,), 600.0), theirs_told).sample.transpose(1, 2)
        torch.testing.assert_close(ours, -expected, rtol=1e-4, atol=1e-5)


def test_our_sampler_ends_where_diffusers_scheduler_does(with_text, theirs):
    # The scheduler steps from noise at timestep 1000 towards data at 0 along noise - data: the sign must be right.
    noise, caption, scheduler = clip(1, 2), torch.randn(1, 5, 10), FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    sample = noise.transpose(1, 2)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            sample = scheduler.step(theirs(sample, timestep[None], caption).sample, timestep, sample).prev_sample
        ours = integrate(lambda x, time: with_text(x, time, torch.arange(2), caption=caption)[0], noise, 4)
    assert (ours - noise).abs().max() > 1e-2
    torch.testing.assert_close(ours, sample.transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_a_network_that_outputs_diffusers_target_arrives_at_the_data():
    video, data, noise = WanBackbone(**NARROW).eval(), torch.full((1, 1, 4, 4, 4), 2.0), torch.zeros(1, 1, 4, 4, 4)
    torch.nn.init.constant_(video.proj_out.bias, float((noise - data).mean()))
    with torch.no_grad():
        reached = integrate(lambda x, time: video(x, time, torch.tensor([0]))[0], noise, 4)
    torch.testing.assert_close(reached, data)


def test_attention_is_over_space_and_time_at_once():
    # One layer: the corner of a frame sees the opposite corner of the frame before.
    video, frames = stirred(WanBackbone, **(NARROW | {"depth": 1})), clip(1, 2)
    other = frames.clone()
    other[:, 0, :, :2, :2] += 1.0
    inputs = torch.ones(1, 2), torch.arange(2)
    change = (video(frames, *inputs)[0] - video(other, *inputs)[0])[0, 1, :, 2:, 2:]
    assert change.abs().max() > 1e-4


def test_a_later_frame_or_action_changes_nothing_earlier(video):
    clean, noised, time, actions = clip(2, 6), clip(2, 6, seed=3), torch.rand(2, 6), torch.randn(2, 6, 12)
    modulation = conditioner()(actions)
    before = video.two_streams(clean, noised, time, action_modulation=modulation)
    for changed in (clean, noised, actions):
        changed[:, 4] += 1.0
        after = video.two_streams(clean, noised, time, action_modulation=conditioner()(actions))
        changed[:, 4] -= 1.0
        torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
        assert (before[:, 4:] - after[:, 4:]).abs().max() > 1e-3


def test_rotary_places_are_the_frames_numbers_in_the_clip(video):
    frames, time = clip(1, 3), torch.rand(1, 3)
    at = [video(frames, time, torch.tensor(places))[0] for places in ([0, 1, 2], [5, 6, 7], [0, 1, 6])]
    torch.testing.assert_close(at[0], at[1], rtol=1e-4, atol=1e-5)  # only distances matter
    assert (at[0] - at[2]).abs().max() > 1e-4
    # A cached frame keeps its place: the third frame sees the first at distance 2, whether or not it was cached.
    cache = video.remember(frames[:, :2])
    found = video.next_velocity(frames[:, 2:], time[:, 2:], cache)
    mask = torch.ones(3, 3).tril().bool()
    at_once = video(frames, torch.cat([torch.ones(1, 2), time[:, 2:]], dim=1), torch.arange(3), mask=mask)[0]
    torch.testing.assert_close(found, at_once[:, 2:], rtol=1e-4, atol=1e-5)


def test_engine_and_imagination_run_on_it_unchanged(video):
    actions, sampler = torch.randn(3, 4, 12), SamplerConfig(steps=2, std=1.0, guidance=2.0)
    noise, found = clip(1, 3, seed=5), []
    with torch.no_grad():
        for make in (Imagination, Engine):
            imagination = make(video, conditioner(), NOISE, sampler)
            start = imagination.start(clip(1, 2), actions[:1, :1]).expand(3)
            found.append(imagination.roll_out(start, given(actions[:, 1:]), 3, noise=noise))
        uncached = Imagination(video, conditioner(), NOISE, sampler)
        start = uncached.start(clip(1, 2), actions[:1, :1]).expand(3)
        found.append(uncached.roll_out_uncached(start, given(actions[:, 1:]), 3, noise=noise))
        half = Engine(video, conditioner(), NOISE, sampler, EngineConfig(dtype="bfloat16", max_memory_mib=1))
        start = half.start(clip(1, 2), actions[:1, :1]).expand(3)
        rounded = half.roll_out(start, given(actions[:, 1:]), 3, noise=noise)
    assert half.limit(3) >= 1
    assert (found[0][0] - found[0][1]).abs().max() > 1e-3
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[2], found[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rounded, found[0], rtol=0.1, atol=0.3)


def test_steps_on_one_clip_lower_the_recipes_loss():
    torch.manual_seed(0)
    model = ColaModel(WanBackbone(**NARROW), conditioner(0.0), None, None, NOISE)
    model.video.enable_gradient_checkpointing()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    data, actions, losses = clip(4, 4), torch.randn(4, 3, 12), []
    for _ in range(40):
        loss = model.flow_loss(data, actions, torch.Generator().manual_seed(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert model.conditioner.single.out[-1].weight.abs().max() > 0.0


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointed in (False, True):
        model = stirred(WanBackbone, **NARROW).train()
        if checkpointed:
            model.enable_gradient_checkpointing()
        model.two_streams(clip(1, 3), clip(1, 3, seed=3), torch.full((1, 3), 0.5)).square().mean().backward()
        gradients.append(model.blocks[0].attn1.to_k.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("sizes", "words"),
    [({"latent_height": 5}, "5x4"), ({"heads": 3}, "16 .*3 heads"), ({"heads": 4}, "width of 6 or more")],
)
def test_sizes_that_do_not_divide_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        WanBackbone(**(NARROW | sizes))


def test_too_long_a_clip_and_a_caption_without_text_are_refused(video):
    with pytest.raises(ValueError, match="frame 12 .* 12 frames"):
        video.remember(clip(1, 13))
    with pytest.raises(ValueError, match="text=True"):
        video(clip(1, 1), torch.ones(1, 1), torch.tensor([0]), caption=torch.zeros(1, 2, 10))
