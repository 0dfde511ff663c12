"""Published weights, narrow ones under the same names: read as they are, whole or in shards, and nothing else."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from colaworld.models.opensora_weights import INDEX, WEIGHTS
from colaworld.models.stdit3 import STDiT3
from colaworld.models.stdit3_published import load_published

CONFIG = {
    "architectures": ["STDiT3"],
    "caption_channels": 10,
    "depth": 2,
    "hidden_size": 16,
    "in_channels": 4,
    "input_size": [None, None, None],
    "input_sq_size": 512,
    "mlp_ratio": 4.0,
    "model_max_length": 3,
    "model_type": "STDiT3",
    "num_heads": 2,
    "patch_size": [1, 2, 2],
    "pred_sigma": True,
    "qk_norm": True,
}
SIZES = {"latent_height": 4, "latent_width": 4, "max_frames": 6}


@pytest.fixture
def source() -> STDiT3:
    torch.manual_seed(0)
    model = STDiT3(width=16, depth=2, heads=2, text=True, caption_channels=10, model_max_length=3, **SIZES).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture
def folder(source, tmp_path):
    """In the published format: transformers' config, one file."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file(source.state_dict(), tmp_path / WEIGHTS)
    return tmp_path


def shard(folder) -> None:
    """The same in two files and an index."""
    tensors = load_file(folder / WEIGHTS)
    names, places = sorted(tensors), {}
    for number, part in enumerate((names[:40], names[40:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / WEIGHTS).unlink()


def rewrite(folder, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize("sharded", [False, True])
def test_all_but_the_text_is_read_and_what_was_dropped_is_listed(folder, source, sharded):
    if sharded:
        shard(folder)
    found = load_published(folder, **SIZES)
    kept, whole = found.model.state_dict(), source.state_dict()
    assert set(kept) | set(found.dropped) == set(whole) and not set(kept) & set(found.dropped)
    assert all(torch.equal(kept[name], whole[name]) for name in kept)
    assert found.new == ()
    assert len(found.dropped) == 5 + 4 * 6  # the caption's embedding; four blocks' cross-attention of three layers
    assert all("cross_attn" in name or name.startswith("y_embedder") for name in found.dropped)


def test_from_pretrained_reads_it_and_the_model_runs_and_learns(folder):
    before, video = (folder / WEIGHTS).read_bytes(), STDiT3.from_pretrained(folder, **SIZES)
    assert video.latent_shape == (4, 4, 4) and not video.training
    assert not any(tensor.is_meta for tensor in video.state_dict().values())
    clean, noise = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 4, 4, 4)
    time = torch.full((2, 3), 0.5)
    optimiser, losses = torch.optim.Adam(video.parameters(), lr=1e-3), []
    for _ in range(8):
        loss = (video.two_streams(clean, 0.5 * (clean + noise), time) - (clean - noise)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and losses[-1] < 0.95 * losses[0]
    assert not video.rope.freqs.requires_grad
    assert (folder / WEIGHTS).read_bytes() == before


def test_our_own_format_keeps_what_was_read(folder, tmp_path):
    video = STDiT3.from_pretrained(folder, **SIZES)
    video.save_pretrained(tmp_path / "ours", max_shard_size="20KB")
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    again = STDiT3.from_pretrained(tmp_path / "ours")
    frames = torch.randn(1, 2, 4, 4, 4), torch.full((1, 2), 0.3), torch.arange(2)
    torch.testing.assert_close(dict(again.state_dict()), dict(video.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(again(*frames)[0], video(*frames)[0], rtol=1e-4, atol=1e-4)


def test_with_text_everything_is_read_and_computes_the_same(folder, source):
    found = load_published(folder, text=True, **SIZES)
    assert found.dropped == () and found.new == ()
    inputs = torch.randn(1, 3, 4, 4, 4), torch.full((1, 3), 0.3), torch.arange(3)
    caption = torch.randn(1, 4, 10)
    torch.testing.assert_close(
        found.model(*inputs, caption=caption)[0], source(*inputs, caption=caption)[0], rtol=1e-4, atol=1e-4
    )


def test_rotary_frequencies_that_are_missing_are_made_and_listed(folder, source):
    rewrite(folder, lambda tensors: tensors.pop("rope.freqs"))
    found = load_published(folder, **SIZES)
    assert found.new == ("rope.freqs",)
    torch.testing.assert_close(found.model.rope.freqs, source.rope.freqs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("t_block.1.bias"), "1 names are missing, the first is t_block.1.bias"),
        (lambda tensors: tensors.update({"blocks.0.x": torch.zeros(1)}), "blocks.0.x has no place"),
        (lambda tensors: tensors.update({"t_block.1.bias": torch.zeros(3)}), r"t_block.1.bias has .*\(3,\).*\(96,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, words):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=words):
        load_published(folder, **SIZES)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("qk_norm", False, "config.json: qk_norm must be true, got False"),
        ("patch_size", [2, 2, 2], r"config.json: patch_size .*\[2, 2, 2\]"),
        ("hidden_size", 32, "has shape"),
    ],
)
def test_another_architecture_is_refused(folder, name, value, words):
    (folder / "config.json").write_text(json.dumps(CONFIG | {name: value}))
    with pytest.raises(ValueError, match=words):
        load_published(folder, **SIZES)


def test_sizes_that_the_folder_contradicts_and_files_that_are_missing_are_named(folder):
    with pytest.raises(ValueError, match="depth=3, but .*config.json says 2"):
        load_published(folder, depth=3)
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="model-00002-of-00002.safetensors is missing"):
        load_published(folder, **SIZES)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(ValueError, match="outside the folder"):
        load_published(folder, **SIZES)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json is missing"):
        load_published(folder, **SIZES)


def test_a_file_that_is_cut_off_is_named(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(ValueError, match=WEIGHTS):
        load_published(folder, **SIZES)
