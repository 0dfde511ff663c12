"""Narrow weights in the published formats become the system that a run starts from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file

from colaworld.adapters.system import load_system
from colaworld.experiments.large_presets import NARROW_VAE, NARROW_WAN_VAE
from colaworld.experiments.published_system import published_system
from colaworld.experiments.train_config import preset_defaults
from colaworld.experiments.train_world_model import starting_system
from colaworld.models.opensora_vae import OpenSoraVAE
from colaworld.models.opensora_weights import WEIGHTS
from colaworld.models.stdit3 import STDiT3


class Clips:
    """What a run asks of its data before it starts."""

    height = width = 32
    frame_skip, action_dim, render_profile = 5, 7, "lite"


def opensora(folder: Path) -> dict[str, Path]:
    config = {
        "depth": 1, "hidden_size": 32, "num_heads": 2, "patch_size": [1, 2, 2], "qk_norm": True,
        "mlp_ratio": 4.0, "in_channels": 4, "input_sq_size": 512, "pred_sigma": True,
    }  # fmt: skip
    torch.manual_seed(0)
    video = STDiT3(width=32, depth=1, heads=2, text=True, latent_height=4, latent_width=4)
    vae = OpenSoraVAE(height=32, width=32, **NARROW_VAE)
    for name, part, text in (("video", video, config), ("codec", vae, {"model_type": "VideoAutoencoderPipeline"})):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(text))
        save_file(part.state_dict(), folder / name / WEIGHTS)
    return {"video": folder / "video", "codec": folder / "codec"}


def wan(folder: Path) -> dict[str, Path]:
    torch.manual_seed(0)
    WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, ffn_dim=64, num_layers=1,
        text_dim=4096, freq_dim=256,
    ).save_pretrained(folder / "video")  # fmt: skip
    AutoencoderKLWan(**NARROW_WAN_VAE).save_pretrained(folder / "codec")
    return {"video": folder / "video", "codec": folder / "codec"}


@pytest.mark.parametrize(("preset", "publish", "weight"), [
    ("nano_opensora", opensora, "spatial_blocks.0.attn.qkv.weight"),
    ("nano_wan", wan, "blocks.0.attn1.to_q.weight"),
    ("nano_wan4", wan, "blocks.0.attn1.to_q.weight"),
])  # fmt: skip
def test_a_run_starts_from_published_weights(preset, publish, weight, tmp_path, capsys):
    published_system(preset=preset, out=tmp_path / "init", **publish(tmp_path))
    assert "weights of the text layers" in capsys.readouterr().out
    init = load_system(tmp_path / "init")
    assert init.info.stage == "pretrain" and set(init.parts()) == {"codec", "video"}
    config = replace(preset_defaults(preset), init=tmp_path / "init", out=tmp_path / "run", clip=14)
    system = starting_system(config, Clips())
    assert config.run_stages() == ("warmup", "joint", "adapter") and system.conditioner is not None
    torch.testing.assert_close(system.video.state_dict()[weight], init.video.state_dict()[weight], rtol=0, atol=0)


def test_a_run_without_them_says_where_they_come_from(tmp_path):
    with pytest.raises(ValueError, match="--init is missing: preset 'opensora' starts from published weights"):
        starting_system(replace(preset_defaults("nano_opensora"), preset="opensora", out=tmp_path / "run"), None)


def test_weights_of_another_size_are_refused(tmp_path):
    folders = opensora(tmp_path)
    config = json.loads((folders["video"] / "config.json").read_text())
    (folders["video"] / "config.json").write_text(json.dumps(config | {"input_sq_size": 256}))
    with pytest.raises(ValueError, match="input_sq_size of its video is 256, but .* 512"):
        published_system(preset="nano_opensora", out=tmp_path / "init", **folders)
    AutoencoderKLWan(**(NARROW_WAN_VAE | {"latents_std": [2.0] * 4})).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="other: latents_std is .*2.0.* preset 'nano_wan' says .*1.0"):
        other = tmp_path / "other"
        published_system(preset="nano_wan", out=tmp_path / "init", video=other, codec=other)
    assert not (tmp_path / "init").exists()


@pytest.mark.parametrize("preset", ["nano_opensora", "nano_wan", "nano_wan4"])
def test_a_folder_without_weights_is_named_and_not_looked_for_on_the_hub(preset, tmp_path):
    (tmp_path / "half").mkdir()
    with pytest.raises(ValueError, match="--video: there is no folder .*nowhere"):
        published_system(preset=preset, out=tmp_path / "init", video=tmp_path / "nowhere", codec=tmp_path / "half")
    (tmp_path / "half" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"--video .*half: \*.safetensors is missing; has the download finished"):
        published_system(preset=preset, out=tmp_path / "init", video=tmp_path / "half", codec=tmp_path / "half")
