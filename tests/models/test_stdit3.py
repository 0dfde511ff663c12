"""OpenSora's STDiT3: published names, shapes and count; causal; the same in parallel and from a cache; trained."""

import pytest
import torch
from torch.nn import functional as F

from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.backbones import Backbone, build_backbone, load_backbone
from colaworld.models.cola import ColaModel
from colaworld.models.engine import Engine, EngineConfig
from colaworld.models.flow import FlowConfig, SamplerConfig, integrate
from colaworld.models.frame_groups import GroupedConditioner
from colaworld.models.imagination import Imagination, given
from colaworld.models.stdit3 import XL_2, XL_2_ACTIONS, STDiT3
from colaworld.models.stdit3_blocks import Attention, RotaryEmbedding, patch_positions

NARROW = {"latent_height": 4, "latent_width": 4, "width": 16, "depth": 2, "heads": 2, "max_frames": 12}
CAPTION = {"caption_channels": 10, "model_max_length": 3}


def filled(**sizes) -> STDiT3:
    """A narrow model whose zero-initialised parts are filled, so that everything has an effect."""
    torch.manual_seed(0)
    model = STDiT3(**(NARROW | sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def video() -> STDiT3:
    return filled()


def conditioner(std: float = 0.2) -> GroupedConditioner:
    torch.manual_seed(1)
    model = GroupedConditioner(latent_action_dim=3, width=16, depth=1, heads=2, video_width=16, max_steps=12).eval()
    torch.nn.init.normal_(model.single.out[-1].weight, std=std)
    return model


def clip(batch: int, frames: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(batch, frames, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def on_meta(cls, **sizes):
    with torch.device("meta"):
        return cls(**sizes)


def shapes(module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of STDiT3-XL/2 as the public code makes them (qk_norm, 28 blocks each)."""
    wide = 1152

    def layer(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    found = {"rope.freqs": (36,), "x_embedder.proj.weight": (wide, 4, 1, 2, 2), "x_embedder.proj.bias": (wide,)}
    for name in ("t_embedder", "fps_embedder"):
        found |= layer(f"{name}.mlp.0", wide, 256) | layer(f"{name}.mlp.2", wide, wide)
    found |= layer("t_block.1", 6912, wide) | {"y_embedder.y_embedding": (300, 4096)}
    found |= layer("y_embedder.y_proj.fc1", wide, 4096) | layer("y_embedder.y_proj.fc2", wide, wide)
    for block in [f"{kind}_blocks.{number}" for kind in ("spatial", "temporal") for number in range(28)]:
        found |= {f"{block}.scale_shift_table": (6, wide)}
        found |= layer(f"{block}.attn.qkv", 3456, wide) | layer(f"{block}.attn.proj", wide, wide)
        found |= {f"{block}.attn.q_norm.weight": (72,), f"{block}.attn.k_norm.weight": (72,)}
        found |= layer(f"{block}.cross_attn.q_linear", wide, wide) | layer(f"{block}.cross_attn.proj", wide, wide)
        found |= layer(f"{block}.cross_attn.kv_linear", 2304, wide)
        found |= layer(f"{block}.mlp.fc1", 4608, wide) | layer(f"{block}.mlp.fc2", wide, 4608)
    return found | layer("final_layer.linear", 32, wide) | {"final_layer.scale_shift_table": (2, wide)}


def test_names_shapes_and_count_are_the_published_ones():
    # The hub counts 1.21 B numbers in the file; the paper's figures are those of the blocks alone.
    whole, bare = on_meta(STDiT3, **XL_2, text=True), on_meta(STDiT3, **XL_2)
    published = published_shapes()
    assert shapes(whole) == published
    kept = {name: shape for name, shape in published.items() if "cross_attn" not in name and "y_emb" not in name}
    assert shapes(bare) == kept

    def count(model, part: str = "") -> int:
        return sum(tensor.numel() for name, tensor in model.state_dict().items() if part in name)

    assert round(count(whole) / 1e9, 2) == 1.21 and round(count(bare) / 1e9, 2) == 0.90
    assert round(count(whole, "_blocks.") / 1e9, 2) == 1.19 and round(count(bare, "_blocks.") / 1e9, 2) == 0.89


def test_the_action_branch_adds_about_74_million():
    branch = on_meta(ActionConditioner, **XL_2_ACTIONS)
    assert len(branch.blocks) == 6
    assert sum(parameter.numel() for parameter in branch.parameters()) == pytest.approx(74e6, rel=0.02)


def test_it_is_a_backbone_of_the_registry(tmp_path):
    video = build_backbone("opensora", NARROW)
    assert isinstance(video, Backbone) and isinstance(video, STDiT3)
    video.save_pretrained(tmp_path)
    loaded = load_backbone(tmp_path)
    assert isinstance(loaded, STDiT3) and loaded.config.width == 16
    torch.testing.assert_close(dict(loaded.state_dict()), dict(video.state_dict()), rtol=0, atol=0)


def test_a_later_frame_changes_nothing_earlier(video):
    clean, noised, time = clip(2, 6), clip(2, 6, seed=3), torch.rand(2, 6)
    later_clean, later_noised = clean.clone(), noised.clone()
    later_clean[:, 4] += 1.0
    later_noised[:, 4] += 1.0
    before, after = video.two_streams(clean, noised, time), video.two_streams(later_clean, later_noised, time)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
    assert (before[:, 4:] - after[:, 4:]).abs().amax(dim=(0, 2, 3, 4)).min() > 1e-3


def test_a_later_action_changes_nothing_earlier(video):
    actions = torch.randn(2, 5, 12)
    later = actions.clone()
    later[:, 3] += 1.0
    run = [
        video.two_streams(clip(2, 5), clip(2, 5, seed=3), torch.full((2, 5), 0.3), action_modulation=modulation)
        for modulation in (conditioner()(actions), conditioner()(later))
    ]
    torch.testing.assert_close(run[0][:, :3], run[1][:, :3], rtol=0, atol=0)
    assert (run[0][:, 3] - run[1][:, 3]).abs().max() > 1e-3


def test_a_fresh_action_branch_changes_nothing(video):
    fresh = GroupedConditioner(latent_action_dim=3, width=16, depth=1, heads=2, video_width=16)
    inputs = clip(2, 5), clip(2, 5, seed=3), torch.rand(2, 5)
    with_actions = video.two_streams(*inputs, action_modulation=fresh(torch.randn(2, 5, 12)))
    torch.testing.assert_close(with_actions, video.two_streams(*inputs), rtol=0, atol=0)


def test_the_cache_computes_what_the_clip_at_once_does(video):
    clean, noised, time = clip(2, 5), clip(2, 5, seed=3), torch.rand(2, 5)
    at_once, cache = video.two_streams(clean, noised, time), None
    for step in range(5):
        cache = video.remember(clean[:, step : step + 1], cache)
        found = video.next_velocity(noised[:, step : step + 1], time[:, step : step + 1], cache)
        torch.testing.assert_close(found, at_once[:, step : step + 1], rtol=1e-4, atol=1e-5)


def test_engine_and_imagination_run_on_it_unchanged(video):
    actions, sampler = torch.randn(3, 4, 12), SamplerConfig(steps=2, std=1.0, guidance=2.0)
    flow = FlowConfig(source="noise", mean_fraction=0.0)
    noise = clip(1, 3, seed=5)
    with torch.no_grad():
        found = []
        for make in (Imagination, Engine):
            imagination = make(video, conditioner(), flow, sampler)
            start = imagination.start(clip(1, 2), actions[:1, :1]).expand(3)
            found.append(imagination.roll_out(start, given(actions[:, 1:]), 3, noise=noise))
        uncached = Imagination(video, conditioner(), flow, sampler)
        start = uncached.start(clip(1, 2), actions[:1, :1]).expand(3)
        found.append(uncached.roll_out_uncached(start, given(actions[:, 1:]), 3, noise=noise))
    assert Engine(video, None, flow, config=EngineConfig(max_memory_mib=1)).limit(3) >= 1
    assert (found[0][0] - found[0][1]).abs().max() > 1e-3
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[2], found[0], rtol=1e-3, atol=1e-4)


def test_steps_on_one_clip_lower_the_recipes_loss():
    torch.manual_seed(0)
    model = ColaModel(STDiT3(**NARROW), conditioner(0.0), None, None, FlowConfig(source="noise", mean_fraction=0.0))
    model.video.enable_gradient_checkpointing()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    data, actions, losses = clip(4, 4), torch.randn(4, 3, 12), []
    for _ in range(30):
        loss = model.flow_loss(data, actions, torch.Generator().manual_seed(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert model.conditioner.single.out[-1].weight.abs().max() > 0.0
    assert model.video.rope.freqs.grad is None


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointed in (False, True):
        model = filled().train()
        if checkpointed:
            model.enable_gradient_checkpointing()
        model.two_streams(clip(1, 3), clip(1, 3, seed=3), torch.full((1, 3), 0.5)).square().mean().backward()
        gradients.append(model.spatial_blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_velocity_and_time_are_converted_at_the_door(video):
    # OpenSora steps z + v dt while its timestep falls from 1000 (noise) to 0: v is data - noise, as here.
    asked, given_up = [], clip(1, 1)
    handle = video.t_embedder.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[0].clone()))
    noise = clip(1, 1, seed=3)

    def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        video(x, time, torch.tensor([0]))
        return given_up - noise

    reached = integrate(velocity, noise, 4)
    handle.remove()
    torch.testing.assert_close(torch.cat(asked), torch.tensor([1000.0, 750.0, 500.0, 250.0]))
    torch.testing.assert_close(reached, given_up)


def test_the_output_is_the_first_half_of_the_channels(video):
    # The last layer lays out (row, column, channel), velocity before variance; a bias there is seen as it is.
    other = filled()
    with torch.no_grad():
        other.final_layer.linear.weight.zero_()
        other.final_layer.linear.bias.copy_(torch.arange(32.0))
    found = other(clip(1, 1), torch.ones(1, 1), torch.tensor([0]))[0][0, 0]
    expected = torch.arange(32.0).reshape(2, 2, 8)[..., :4].permute(2, 0, 1)
    torch.testing.assert_close(found[:, :2, :2], expected)
    torch.testing.assert_close(found[:, 2:, 2:], expected)


def test_with_text_and_no_mask_it_is_bidirectional_and_listens():
    video = filled(text=True, **CAPTION)
    frames, time, places = clip(1, 4), torch.full((1, 4), 0.4), torch.arange(4)
    later = frames.clone()
    later[:, 3] += 1.0
    silent, changed = (video(each, time, places)[0] for each in (frames, later))
    assert (silent[:, 0] - changed[:, 0]).abs().max() > 1e-4
    said = video(frames, time, places, caption=torch.randn(1, 5, 10))[0]
    assert (said - silent).abs().max() > 1e-3
    with pytest.raises(ValueError, match="text=True"):
        filled()(frames, time, places, caption=torch.randn(1, 5, 10))


def test_attention_is_the_published_formula():
    torch.manual_seed(0)
    layer, rope, x = Attention(8, 2), RotaryEmbedding(4), torch.randn(1, 5, 8)
    with torch.no_grad():
        layer.q_norm.weight.copy_(torch.rand(4) + 0.5)
    query, key, value = layer.qkv(x).view(1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)

    def turned(t: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        t = weight * t * torch.rsqrt(t.pow(2).mean(-1, keepdim=True) + 1e-6)
        spin = torch.polar(torch.ones(5, 2), torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.01]))
        return torch.view_as_real(torch.view_as_complex(t.reshape(1, 2, 5, 2, 2).contiguous()) * spin).flatten(-2)

    scores = turned(query, layer.q_norm.weight) @ turned(key, layer.k_norm.weight).transpose(-2, -1) / 2.0
    expected = layer.proj((scores.softmax(-1) @ value).transpose(1, 2).reshape(1, 5, 8))
    torch.testing.assert_close(layer(x, rope=rope, positions=torch.arange(5))[0], expected)


def test_patch_positions_are_the_published_formula():
    rows, columns, scale = 2, 3, 0.5
    found = patch_positions(rows, columns, 8, scale, torch.device("cpu")).reshape(rows, columns, 8)
    for row in range(rows):
        for column in range(columns):
            # round(sqrt(6)) = 2 patches across a square of the same area
            place = [column / scale * 2 / columns, row / scale * 2 / rows]
            waves = [torch.tensor([at * 1.0, at * 0.01]) for at in place]
            expected = torch.cat([wave for each in waves for wave in (each.sin(), each.cos())])
            torch.testing.assert_close(found[row, column], expected)


def test_the_frame_rate_is_heard():
    frames, time = clip(1, 2), torch.full((1, 2), 0.5)
    slow, fast = (filled(fps=fps)(frames, time, torch.arange(2))[0] for fps in (5.0, 24.0))
    assert F.mse_loss(slow, fast) > 1e-6


@pytest.mark.parametrize(
    ("sizes", "words"),
    [({"latent_height": 5}, "5x4"), ({"heads": 3}, "16 .*3 heads"), ({"width": 18, "heads": 1}, "divide by 4.*18")],
)
def test_sizes_that_do_not_divide_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        STDiT3(**(NARROW | sizes))


def test_too_long_a_clip_is_refused(video):
    with pytest.raises(ValueError, match="frame 12 .* 12 frames"):
        video.remember(clip(1, 13))
