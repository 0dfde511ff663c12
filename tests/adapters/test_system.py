"""A system's folder: what goes in comes out, and damage is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from colaworld.adapters.system import WEIGHTS, load_system, save_system, weights_path
from colaworld.envs.manifest import DEFAULT_MANIFEST, load_manifest
from colaworld.models.frame_groups import GroupedConditioner
from colaworld.models.opensora_vae import OpenSoraVAE
from colaworld.models.stdit3 import STDiT3


def test_a_saved_system_imagines_the_same(system, tmp_path):
    save_system(system, tmp_path / "run")
    loaded = load_system(tmp_path / "run")
    assert loaded.info == system.info
    for name, part in system.parts().items():
        for key, value in part.state_dict().items():
            torch.testing.assert_close(getattr(loaded, name).state_dict()[key], value, rtol=0, atol=0)


def test_parts_are_of_the_class_that_their_config_names(system, tmp_path):
    system.video = STDiT3(latent_height=2, latent_width=2, width=16, depth=1, heads=2).eval()
    system.conditioner = GroupedConditioner(latent_action_dim=16, width=16, depth=1, heads=2, video_width=16)
    system.codec = OpenSoraVAE(
        height=16, width=16, picture_widths=(8, 8, 8, 8), picture_layers=1, temporal_widths=(8, 8, 8, 8),
        temporal_blocks=1, groups=4,
    )  # fmt: skip
    save_system(system, tmp_path / "run")
    loaded = load_system(tmp_path / "run")
    assert (type(loaded.video), type(loaded.conditioner), type(loaded.codec)) == (
        STDiT3, GroupedConditioner, OpenSoraVAE
    )  # fmt: skip
    for name in ("video", "conditioner", "codec"):
        torch.testing.assert_close(
            dict(loaded.parts()[name].state_dict()), dict(system.parts()[name].state_dict()), rtol=0, atol=0
        )


@pytest.mark.parametrize(
    ("part", "known"), [("video", "STDiT3"), ("conditioner", "GroupedConditioner"), ("codec", "OpenSoraVAE")]
)
@pytest.mark.parametrize("written", ["os.system", "InverseDynamics", None])
def test_a_class_that_a_part_cannot_be_of_is_refused(system, tmp_path, part, known, written):
    save_system(system, tmp_path / "run")
    config = tmp_path / "run" / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": written}))
    with pytest.raises(ValueError, match=f"{part}/config.json: field '_class_name' .*{known}.*, got {written!r}"):
        load_system(tmp_path / "run")


def test_a_config_that_is_not_json_is_named(system, tmp_path):
    save_system(system, tmp_path / "run")
    (tmp_path / "run" / "video" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="video/config.json: not valid JSON"):
        load_system(tmp_path / "run")


def test_bf16_halves_the_file_and_leaves_the_original_alone(system, tmp_path):
    save_system(system, tmp_path / "full")
    before = system.video.embed.weight.clone()
    save_system(system, tmp_path / "half", dtype=torch.bfloat16)
    torch.testing.assert_close(system.video.embed.weight, before, rtol=0, atol=0)
    name = "video/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "half" / name).stat().st_size < 0.75 * (tmp_path / "full" / name).stat().st_size
    loaded = load_system(tmp_path / "half")
    assert loaded.video.embed.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.video.embed.weight, before, rtol=1e-2, atol=1e-2)


def test_a_large_part_is_written_in_several_files(system, tmp_path):
    save_system(system, tmp_path / "run", shard="4KB")
    files = sorted((tmp_path / "run" / "video").glob("*.safetensors"))
    assert len(files) > 1 and not (tmp_path / "run" / "video" / WEIGHTS).exists()
    torch.testing.assert_close(
        load_system(tmp_path / "run").video.state_dict(), system.video.state_dict(), rtol=0, atol=0
    )
    files[1].write_bytes(files[1].read_bytes()[:100])
    with pytest.raises(ValueError, match="video/.*cannot be read as a VideoTransformer"):
        load_system(tmp_path / "run")
    files[1].unlink()
    with pytest.raises(ValueError, match="video/.*cannot be read as a VideoTransformer"):
        load_system(tmp_path / "run")


def test_two_systems_share_one_codec(system, tmp_path):
    save_system(system, tmp_path / "first")
    save_system(system, tmp_path / "second", codec="../first/codec")
    assert not (tmp_path / "second" / "codec").exists()
    torch.testing.assert_close(
        load_system(tmp_path / "second").codec.state_dict(), system.codec.state_dict(), rtol=0, atol=0
    )


def test_saving_again_replaces_the_whole_folder(system, tmp_path):
    save_system(system, tmp_path / "run")
    system.adapter = None
    save_system(system, tmp_path / "run")
    assert load_system(tmp_path / "run").adapter is None
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_missing_system_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        load_system(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: system.json is missing"):
        load_system(tmp_path / "empty")


def test_a_truncated_checkpoint_is_named(system, tmp_path):
    save_system(system, tmp_path / "run")
    weights = tmp_path / "run" / "video" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"video/diffusion_pytorch_model.safetensors: cannot be read"):
        load_system(tmp_path / "run")


def test_a_checkpoint_without_one_of_its_tensors_is_refused(system, tmp_path):
    save_system(system, tmp_path / "run")
    weights = tmp_path / "run" / "video" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["embed.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="video.*missing keys, the first of them 'embed.weight'"):
        load_system(tmp_path / "run")


@pytest.mark.parametrize(("name", "stage"), [("pretrained", "pretrain"), ("cola", "adapter")])
def test_the_weights_that_ship_are_whole_and_small(name, stage):
    assert load_system(weights_path(name=name)).info.stage == stage
    together = sum(file.stat().st_size for file in weights_path().parent.rglob("*.safetensors"))
    assert together <= 16 * 2**20


def test_the_weights_that_ship_fit_the_goals_that_ship():
    info, manifest = load_system(weights_path()).info, load_manifest(DEFAULT_MANIFEST)
    for name in ("height", "width", "frame_skip", "render_profile"):
        assert getattr(info, name) == getattr(manifest, name)


def test_a_missing_part_is_named(system, tmp_path):
    save_system(system, tmp_path / "run")
    (tmp_path / "run" / "adapter" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="adapter.*config.json"):
        load_system(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"format": 99}, "format is 99"), ({"height": None}, "height"), ({"parts": None}, "'parts'"), ({"parts": {"spam": "spam"}}, "'spam'")],
)
def test_a_bad_description_is_named(system, tmp_path, change, said):
    save_system(system, tmp_path / "run")
    path = tmp_path / "run" / "system.json"
    text = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in text.items() if value is not None}))
    with pytest.raises(ValueError, match=said):
        load_system(tmp_path / "run")


def test_where_a_part_came_from_is_not_written_down(system, tmp_path):
    save_system(system, tmp_path / "first")
    save_system(load_system(tmp_path / "first"), tmp_path / "second")
    assert not [path for path in (tmp_path / "second").rglob("*.json") if str(tmp_path) in path.read_text()]


def test_the_weights_that_ship_do_not_say_where_they_were_made():
    for path in weights_path().parent.rglob("config.json"):
        assert "_name_or_path" not in json.loads(path.read_text())
