"""diffusers' ``transformer`` folder, a narrow one that diffusers' own class wrote: read as it is, and nothing else."""

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from colaworld.models.backbones import load_backbone
from colaworld.models.wan import WanBackbone, load_published
from colaworld.models.wan_weights import is_text

THEIRS = {
    "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "text_dim": 10,
    "freq_dim": 16, "ffn_dim": 32, "num_layers": 2,
}  # fmt: skip
SIZES = {"latent_height": 4, "latent_width": 4, "max_frames": 6}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def source() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(**THEIRS).eval()


@pytest.fixture
def folder(source, tmp_path):
    source.save_pretrained(tmp_path / "transformer")
    return tmp_path / "transformer"


def rewrite(folder, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize("shard", ["10GB", "10KB"])
def test_all_but_the_text_is_read_and_what_was_dropped_is_listed(source, tmp_path, shard):
    source.save_pretrained(tmp_path / "transformer", max_shard_size=shard)
    assert (len(list(tmp_path.glob("transformer/*.safetensors"))) > 1) == (shard == "10KB")
    found = load_published(tmp_path, subfolder="transformer", **SIZES)
    kept, whole = found.model.state_dict(), source.state_dict()
    assert set(kept) | set(found.dropped) == set(whole) and not set(kept) & set(found.dropped)
    assert all(torch.equal(kept[name], whole[name]) for name in kept)
    assert found.new == () and not found.model.training
    assert len(found.dropped) == 4 + 2 * 12 and all(is_text(name) for name in found.dropped)
    sizes = found.model.config
    assert (sizes.width, sizes.depth, sizes.heads, sizes.mlp_ratio, sizes.max_frames) == (16, 2, 2, 2.0, 6)


def test_from_pretrained_reads_it_and_the_model_runs_and_learns(folder):
    before, video = (folder / WEIGHTS).read_bytes(), WanBackbone.from_pretrained(folder, **SIZES)
    assert isinstance(video, WanBackbone) and video.latent_shape == (4, 4, 4)
    assert not any(tensor.is_meta for tensor in [*video.state_dict().values(), *video.buffers()])
    clean, noise = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 4, 4, 4)
    time = torch.full((2, 3), 0.5)
    optimiser, losses = torch.optim.Adam(video.parameters(), lr=3e-3), []
    for _ in range(20):
        loss = (video.two_streams(clean, 0.5 * (clean + noise), time) - (clean - noise)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and losses[-1] < 0.95 * losses[0]
    assert (folder / WEIGHTS).read_bytes() == before


def test_our_own_format_keeps_what_was_read(folder, tmp_path):
    video = WanBackbone.from_pretrained(folder, **SIZES)
    video.save_pretrained(tmp_path / "ours", max_shard_size="10KB")
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    again, info = WanBackbone.from_pretrained(
        tmp_path / "ours", torch_dtype=torch.float32, low_cpu_mem_usage=False, output_loading_info=True
    )
    assert info["missing_keys"] == info["unexpected_keys"] == []
    assert torch.equal(load_backbone(tmp_path / "ours").proj_out.weight, again.proj_out.weight)
    frames = torch.randn(1, 2, 4, 4, 4), torch.full((1, 2), 0.3), torch.arange(2)
    torch.testing.assert_close(dict(again.state_dict()), dict(video.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(again(*frames)[0], video(*frames)[0], rtol=1e-4, atol=1e-4)


def test_with_text_everything_is_read_and_computes_the_same(folder, source):
    found = load_published(folder, text=True, **SIZES)
    assert found.dropped == () and found.new == ()
    frames, caption = torch.randn(1, 3, 4, 4, 4), torch.randn(1, 4, 10)
    with torch.no_grad():
        ours = found.model(frames, torch.full((1, 3), 0.3), torch.arange(3), caption=caption)[0]
        theirs = source(frames.transpose(1, 2), torch.tensor([700.0]), caption).sample
    torch.testing.assert_close(ours, -theirs.transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_in_bfloat16_what_diffusers_keeps_in_float32_stays_so(folder):
    video = WanBackbone.from_pretrained(folder, torch_dtype=torch.bfloat16, **SIZES)
    theirs = WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16).state_dict()
    types = {name: tensor.dtype for name, tensor in video.state_dict().items()}
    assert types == {name: theirs[name].dtype for name in types} and len(set(types.values())) == 2
    frames, inputs = torch.randn(1, 2, 4, 4, 4), (torch.full((1, 2), 0.3), torch.arange(2))
    found = video(frames.bfloat16(), *inputs)[0]
    expected = WanBackbone.from_pretrained(folder, **SIZES)(frames, *inputs)[0]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("proj_out.bias"), "1 names are missing, the first is proj_out.bias"),
        (lambda tensors: tensors.update({"blocks.0.x": torch.zeros(1)}), "blocks.0.x has no place"),
        (lambda tensors: tensors.update({"proj_out.bias": torch.zeros(3)}), r"proj_out.bias .*\[16\].*\[3\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, words):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=words):
        WanBackbone.from_pretrained(folder, **SIZES)


def test_text_that_is_asked_for_must_be_there_and_have_a_place(folder):
    rewrite(folder, lambda tensors: tensors.update({"blocks.0.attn2.x": torch.zeros(1)}))
    assert "blocks.0.attn2.x" in load_published(folder, **SIZES).dropped
    with pytest.raises(ValueError, match="blocks.0.attn2.x has no place"):
        load_published(folder, text=True, **SIZES)
    rewrite(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if is_text(name)])
    with pytest.raises(ValueError, match="28 names are missing, the first is blocks.0.attn2"):
        load_published(folder, text=True, **SIZES)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("image_dim", 1280, "config.json: image_dim must be None, got 1280"),
        ("cross_attn_norm", False, "config.json: cross_attn_norm must be True, got False"),
        ("patch_size", [2, 2, 2], r"config.json: patch_size .*\[2, 2, 2\]"),
        ("in_channels", 36, "config.json: out_channels must be 36, got 4"),
        ("ffn_dim", None, "config.json: ffn_dim must be a whole number, got None"),
        ("ffn_dim", 64, "expected shape"),
    ],
)
def test_another_architecture_is_refused(folder, name, value, words):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(ValueError, match=words):
        WanBackbone.from_pretrained(folder, **SIZES)


def test_sizes_that_the_folder_contradicts_and_files_that_are_damaged_are_named(folder):
    with pytest.raises(ValueError, match="heads=1, but .*config.json says 2"):
        WanBackbone.from_pretrained(folder, heads=1, **SIZES)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(OSError, match=WEIGHTS):
        WanBackbone.from_pretrained(folder, **SIZES)


def test_pickles_are_not_opened(folder, source):
    (folder / WEIGHTS).unlink()
    torch.save(source.state_dict(), folder / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match=WEIGHTS):
        WanBackbone.from_pretrained(folder, **SIZES)
