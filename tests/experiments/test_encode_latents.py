"""Encoded data: what training makes of latents in shards is what it makes of the pictures; kills, damage, refusals."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from colaworld.adapters.system import save_system, staged
from colaworld.envs.demos import ClipDataset, Cropped, SourceOptions
from colaworld.experiments import encode_latents as script
from colaworld.experiments.adapter_fit import AdapterFitConfig
from colaworld.experiments.batches import StepBatches, collate, fixed_batch, frame_latents
from colaworld.experiments.encode_latents import EncodeConfig, encode, encode_latents
from colaworld.experiments.evaluation import EvaluationConfig
from colaworld.experiments.held_out import HeldOutConfig
from colaworld.experiments.model_card import data_sources
from colaworld.experiments.planning_check import PlanningCheckConfig
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.recipes import RECIPES
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.stages import StageModel
from colaworld.experiments.train_config import TrainConfig
from colaworld.experiments.train_world_model import check_data, train
from colaworld.experiments.training import LoopConfig

SHORT = StageConfig(steps=2, batch_size=4, learning_rate_warmup=1, shift=0)


def system_of(preset: str, seed: int = 0):
    torch.manual_seed(seed)
    sizes = {"height": 32, "width": 32, "frame_skip": 5, "action_dim": 7, "render_profile": "lite"}
    return build(PRESETS[preset], clip=14, **sizes)


@pytest.fixture
def recording(tmp_path: Path, fake_recording) -> Path:
    """Six trajectories of 15 frames, of which two are held out (seeds 7 and 17)."""
    fake_recording(tmp_path / "play.hdf5", (1, 2, 3, 4, 7, 17), frames=15, size=32, walker=True)
    return tmp_path / "play.hdf5"


@pytest.fixture
def init(tmp_path: Path) -> Path:
    system = system_of("nano")
    save_system(staged(replace(system, adapter=None), "pretrain"), tmp_path / "init")
    return tmp_path / "init"


@pytest.fixture
def config(tmp_path: Path, recording: Path, init: Path) -> EncodeConfig:
    return EncodeConfig(init=init, data=(recording,), out=tmp_path / "encoded", dtype="fp32", shard_mib=0.008)


def both(config: EncodeConfig, length: int = 14, split: str = "train") -> tuple[ClipDataset, ClipDataset]:
    return (
        ClipDataset(config.data, length=length, split=split),
        ClipDataset([config.out], length=length, split=split, encoded=True),
    )


@pytest.mark.parametrize("preset", ["nano", "nano_opensora", "nano_wan"])
@pytest.mark.parametrize("stage", ["pretrain", "joint", "adapter"])
def test_losses_on_latents_are_those_on_pictures(preset: str, stage: str, config: EncodeConfig, tmp_path: Path) -> None:
    """Also where the codec makes one latent of four frames: it does so of the stored ones, clip by clip."""
    save_system(staged(system_of(preset), "pretrain"), tmp_path / "system")
    assert encode(replace(config, init=tmp_path / "system"))
    losses = []
    for clips in both(config):
        system = system_of(preset)
        with torch.no_grad():
            for parameter in [*system.conditioner.parameters(), *system.video.parameters()]:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        model = StageModel(system, RECIPES["cola"].turn(stage), SHORT)
        batch = collate([clips[number] for number in (5, 0, 3)])
        torch.manual_seed(2)
        losses.append(model(batch, 0, torch.Generator().manual_seed(3))[0])
    assert losses[0] > 0
    torch.testing.assert_close(losses[0], losses[1], rtol=5e-5, atol=0.0)  # batches of other sizes round otherwise


def test_a_run_on_encoded_data_is_the_run_on_pictures(config: EncodeConfig, tmp_path: Path) -> None:
    """Losses, watched numbers and the evaluation, which is of pictures in both."""
    encode(config)
    flags = {
        "preset": "nano", "clip": 6, "warmup": SHORT, "joint": SHORT, "adapter": SHORT, "init": config.init,
        "adapter_fit": AdapterFitConfig(steps=2), "loop": LoopConfig(log_every=1, watch_every=2),
        "trackers": (), "held_out": HeldOutConfig(clips=2, strips=1),
        "evaluation": EvaluationConfig(train_clips=24, planning=PlanningCheckConfig(clips=0)),
    }  # fmt: skip
    lines = []
    for name, data in (("pictures", config.data), ("latents", (config.out,))):
        train(TrainConfig(out=tmp_path / name, data=data, **flags))
        lines.append([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
    for mine, theirs in zip(*lines, strict=True):
        speeds = ("clips_per_second", "flops_utilisation", "waiting_share")
        numbers = {key: value for key, value in mine.items() if isinstance(value, float) and key not in speeds}
        assert numbers == pytest.approx({key: theirs[key] for key in numbers}, rel=1e-3, abs=1e-4)
    reports = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("pictures", "latents")]
    quality = [report["idm"]["video"]["10"]["psnr"] for report in reports]
    assert quality[0] == pytest.approx(quality[1], rel=1e-3)
    assert reports[0]["probe"]["l1"] == pytest.approx(reports[1]["probe"]["l1"], rel=1e-2)


def test_what_is_read_is_what_was_encoded_and_held_out_clips_are_pictures(config: EncodeConfig) -> None:
    encode(config)
    codec = system_of("nano").codec
    pictures, latents = both(config, length=6)
    assert len(pictures) == len(latents) and pictures.encoded is None and latents.encoded.copies == 0
    for number in range(len(pictures)):
        before, after = pictures[number], latents[number]
        expected = codec.encode(torch.from_numpy(before.frames)).detach()
        torch.testing.assert_close(torch.from_numpy(after.frames), expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(before.actions, after.actions)
        np.testing.assert_array_equal(before.ee_pos, after.ee_pos)
    held_out = both(config, length=6, split="validation")
    for number in range(len(held_out[0])):
        np.testing.assert_array_equal(held_out[0][number].frames, held_out[1][number].frames)
    for before, after in zip(pictures.episodes, latents.episodes, strict=True):
        for name in ("scene", "demo", "seed", "kind"):
            assert getattr(before, name) == getattr(after, name)
        np.testing.assert_array_equal(before.object_pos, after.object_pos)
    assert latents.scenes == pictures.scenes and latents.frame_skip == 5 and latents.render_profile == "lite"


@pytest.mark.parametrize(("dtype", "off"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_half_the_bytes_and_the_precision_of_the_type(config: EncodeConfig, dtype: str, off: float) -> None:
    encode(replace(config, dtype=dtype))
    codec = system_of("nano").codec
    pictures, latents = both(config, length=6)
    read = torch.from_numpy(latents[4].frames)
    expected = codec.encode(torch.from_numpy(pictures[4].frames)).detach()
    assert read.dtype == torch.float32
    assert 0 < (read - expected).abs().max() < off * expected.abs().max()


def test_clips_are_read_from_the_shards_also_by_other_processes(config: EncodeConfig) -> None:
    encode(config)
    clips = both(config, length=6)[1]
    order = [[0, 7, 3], [20, 1, 1]]
    expected = [collate([clips[number] for number in numbers]).frames for numbers in order]
    sent = pickle.loads(pickle.dumps(clips))
    assert not any(isinstance(each.frames, np.ndarray) for each in clips.episodes)
    for each in (clips, sent):  # workers that are forked, and those that are sent what they need
        loaded = DataLoader(each, batch_sampler=order, collate_fn=collate, num_workers=2)
        assert all(torch.equal(mine.frames, frames) for mine, frames in zip(loaded, expected, strict=True))


class Killed(Exception):
    """Stands for a kill."""


def test_a_killed_command_goes_on_where_it_was(config: EncodeConfig, tmp_path: Path, monkeypatch) -> None:
    whole = replace(config, out=tmp_path / "whole")
    encode(whole)
    count, calls = len(json.loads((whole.out / "encoded.json").read_text())["shards"]), []
    assert count >= 4
    write, make = script.write_shard, script.trajectory_tensors

    def mortal(*given, **flags):
        calls.append(0)
        if len(calls) == 3:
            raise Killed
        return make(*given, **flags)

    monkeypatch.setattr(script, "trajectory_tensors", mortal)
    with pytest.raises(Killed):
        encode(config)
    there = sorted(config.out.glob("*.safetensors"))
    assert 1 <= len(there) < count
    with pytest.raises(FileNotFoundError, match="encoded.json is missing: encoding has not ended"):
        both(config)
    (config.out / f"{there[-1].name}.123.partial").write_text("left over")
    there[0].write_bytes(there[0].read_bytes()[:-4] + b"ruin")  # finished once, but no longer what it was
    written = []
    monkeypatch.setattr(script, "write_shard", lambda path, tensors: written.append(path.name) or write(path, tensors))
    assert encode(config)
    assert there[0].name in written and len(written) == count - len(there) + 1
    for file in whole.out.glob("*.safetensors*"):
        assert file.read_bytes() == (config.out / file.name).read_bytes()
    before, after = (json.loads((folder / "encoded.json").read_text()) for folder in (whole.out, config.out))
    assert before == after
    written.clear()
    encode(config)
    assert not written


def test_processes_that_take_turns_write_what_one_does(config: EncodeConfig, tmp_path: Path) -> None:
    parted = replace(config, out=tmp_path / "parted")
    encode(config)
    assert not encode(parted, part=1, parts=2) and not (parted.out / "encoded.json").exists()
    assert encode(parted, part=0, parts=2)
    assert (config.out / "encoded.json").read_text() == (parted.out / "encoded.json").read_text()
    assert str(config.data[0].parent) not in (config.out / "encoded.json").read_text()  # a name is enough: it may travel


def test_damage_is_found(config: EncodeConfig, capsys) -> None:
    encode(config)
    encode_latents(EncodeConfig(verify=config.out))
    assert "every shard is as it was written" in capsys.readouterr().out
    shard = config.out / "shard-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"shard-00001.safetensors: SHA-256 is [0-9a-f]{64}, encoded.json says"):
        encode_latents(EncodeConfig(verify=config.out))
    shard.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match="shard-00001.safetensors has .* bytes, encoded.json says .*: .* cut short"):
        both(config)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="no shard at .*shard-00001"):
        both(config)


def test_a_folder_belongs_to_one_set_of_flags(config: EncodeConfig, tmp_path: Path) -> None:
    encode(config)
    for changed, sentence in (
        (replace(config, dtype="bf16"), "latent was .*fp32.*, not .*bf16.*; choose another --out"),
        (replace(config, crops=2), "crops was"),
    ):
        with pytest.raises(ValueError, match=f"encoded.json: begun with other data or flags: {sentence}"):
            encode(changed)
    save_system(staged(system_of("nano", seed=1), "pretrain"), tmp_path / "other")
    with pytest.raises(ValueError, match="codec was"):
        encode(replace(config, init=tmp_path / "other"))
    with pytest.raises(ValueError, match="init holds something else than encoded data"):
        encode(replace(config, out=config.init))
    for flags, sentence in (({"crops": -1}, "--crops must be 0 or more"), ({"shard_mib": 0.0}, "--shard-mib must be")):
        with pytest.raises(ValueError, match=sentence):
            EncodeConfig(**flags)


def test_codecs_that_encode_clips_whole_and_other_frames_are_refused(
    config: EncodeConfig, tmp_path: Path, fake_recording
) -> None:
    wan = PRESETS["nano_wan"]
    chunked = replace(wan, codec={**wan.codec, "chunk": 5})
    with pytest.raises(ValueError, match="encodes clips whole"):
        torch.manual_seed(0)
        sizes = {"height": 32, "width": 32, "frame_skip": 5, "action_dim": 7, "render_profile": "lite"}
        save_system(staged(build(chunked, **sizes), "pretrain"), tmp_path / "chunked")
        encode(replace(config, init=tmp_path / "chunked"))
    fake_recording(tmp_path / "small.hdf5", (1, 2), size=16)
    with pytest.raises(ValueError, match="small.hdf5: frames are 16x16, but the codec of .* takes 32x32"):
        encode(replace(config, data=(tmp_path / "small.hdf5",)))
    assert not config.out.exists()


def test_a_step_draws_one_of_the_crops_of_a_clip(config: EncodeConfig) -> None:
    encode(replace(config, crops=3, crop_pixels=2))
    clips = both(config, length=6)[1]
    assert (clips.encoded.copies, clips.encoded.pixels) == (3, 2)
    drawn = list(StepBatches(len(clips), 8, seed=0, stage="joint", start=0, stop=60, copies=3))
    assert drawn[7:] == list(StepBatches(len(clips), 8, seed=0, stage="joint", start=7, stop=60, copies=3))
    plain = list(StepBatches(len(clips), 8, seed=0, stage="joint", start=0, stop=60))
    assert [[each.clip for each in batch] for batch in drawn] == plain
    counts = np.bincount([each.copy for batch in drawn for each in batch])
    assert len(counts) == 3 and counts.min() > 120
    still, shifted = clips[4].frames, [clips[Cropped(4, copy)].frames for copy in range(3)]
    assert len({frames.tobytes() for frames in (still, *shifted)}) >= 3
    codec, picture = system_of("nano").codec, both(config, length=6)[0][4].frames
    padded = np.pad(picture, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    moved = [padded[..., y : y + 32, x : x + 32] for y in range(5) for x in range(5)]
    possible = [codec.encode(torch.from_numpy(each)).detach() for each in moved]
    for frames in shifted:  # one shift for all frames of the trajectory
        assert min(float((each - torch.from_numpy(frames)).abs().max()) for each in possible) < 1e-4
    watched = fixed_batch(clips, 4, seed=0).frames
    assert frame_latents(codec, watched) is watched  # what is watched is not shifted


def test_what_a_run_cannot_ask_of_latents_is_refused_by_its_flag(config: EncodeConfig, tmp_path: Path) -> None:
    encode(replace(config, crops=2, crop_pixels=4))
    plain = replace(config, out=tmp_path / "plain")
    encode(plain)
    stages = {"warmup": SHORT, "joint": SHORT, "adapter": SHORT}
    for folder, changes, sentence in (
        (plain, {"from_scratch": True}, "--from-scratch: the codec learns from pictures, but .*plain holds latents"),
        (plain, {"stages": ("codec",)}, "--stages codec: the codec learns from pictures"),
        (plain, {"recipe": "two_stage", "lam_output": "pixel"}, "--lam-output pixel: .* predicts pictures"),
        (plain, {"joint": replace(SHORT, shift=4)}, "--joint.shift 4 moves pictures, .* encode with --crops"),
        (config, {"adapter": replace(SHORT, shift=3)}, "--adapter.shift 3: .* crops of up to 4 pixels"),
        (config, {"warmup": replace(SHORT, shift=4, own_crop=True)}, "--warmup.own-crop needs a clip under two crops"),
    ):
        clips = both(folder, length=6)[1]
        with pytest.raises(ValueError, match=sentence):
            check_data(TrainConfig(preset="nano", data=(folder.out,), **(stages | changes)), clips, clips)
    clips = both(config, length=6)[1]
    check_data(TrainConfig(preset="nano", data=(config.out,), **stages), clips, both(config, 14, "validation")[1])
    save_system(staged(replace(system_of("nano", seed=1), adapter=None), "pretrain"), tmp_path / "other")
    run = TrainConfig(out=tmp_path / "run", preset="nano", clip=6, data=(plain.out,), init=tmp_path / "other", **stages)
    with pytest.raises(ValueError, match=r"plain was encoded by codec \w{12}, but that of .*other is \w{12}"):
        train(run)
    assert not (tmp_path / "run").exists()


def test_latents_do_not_pass_for_pictures(config: EncodeConfig, recording: Path, tmp_path: Path) -> None:
    encode(config)
    with pytest.raises(ValueError, match="holds latents, which training and evaluate.py read; pictures are asked for"):
        ClipDataset([config.out], length=6)
    with pytest.raises(ValueError, match="play.hdf5 holds pictures, but .* latents of codec .* under no crops"):
        ClipDataset([config.out, recording], length=6, encoded=True)
    cropped = replace(config, out=tmp_path / "cropped", crops=1)
    encode(cropped)
    with pytest.raises(ValueError, match="under 1 crops of up to 4 pixels, but .* under no crops"):
        ClipDataset([config.out, cropped.out], length=6, encoded=True)
    assert len(ClipDataset([config.out, recording], length=6, split="validation")) == 2 * 20
    with pytest.raises(ValueError, match="source option 'height' says nothing of"):
        ClipDataset([config.out], length=6, encoded=True, options=SourceOptions(height=32, width=32))


def test_the_card_of_a_run_on_encoded_data_names_what_was_encoded(tmp_path):
    (tmp_path / "enc").mkdir()
    sources = [{"path": "/secret/first.hdf5"}, {"path": "/secret/first.hdf5"}, {"path": "/secret/second"}]
    (tmp_path / "enc" / "encoded.json").write_text(json.dumps({"sources": sources}))
    (source,) = data_sources({"data": [str(tmp_path / "enc")]})
    assert source.name == "enc, encoded latents of first.hdf5, second" and source.sha256
