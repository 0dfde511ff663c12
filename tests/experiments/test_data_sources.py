"""Training on data that others recorded: which stages run on what, and what is refused before any work is done."""

import json
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest
import torch

from colaworld.adapters.system import ColaSystem, load_system
from colaworld.envs.demos import ClipDataset, SourceOptions
from colaworld.experiments.adapter_fit import AdapterFitConfig
from colaworld.experiments.evaluation import Evaluation
from colaworld.experiments.held_out import HeldOutConfig, held_out
from colaworld.experiments.pack_starter import pack_starter
from colaworld.experiments.stages import StageConfig
from colaworld.experiments.train_config import TrainConfig, binding_flags, check_same_run, remember_run
from colaworld.experiments.train_world_model import train
from colaworld.experiments.training import LoopConfig

LEROBOT = Path(__file__).parents[1] / "envs" / "fixtures" / "lerobot_v3"
SHORT = StageConfig(steps=2, batch_size=2, learning_rate_warmup=1, shift=1)
FLAGS = {
    "preset": "nano", "clip": 4, "codec": SHORT, "pretrain": SHORT, "warmup": SHORT, "joint": SHORT, "adapter": SHORT,
    "adapter_fit": AdapterFitConfig(steps=2), "loop": LoopConfig(log_every=1, watch_every=2), "trackers": (),
    "held_out": HeldOutConfig(clips=2, strips=1), "from_scratch": True,
}  # fmt: skip
CAMERA = SourceOptions(
    camera="wrist_image", height=32, width=32, rate=20.0
)  # at full rate its episodes are long enough


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Five videos of a bright square that walks to the right, 10 frames a second."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(5):
        with av.open(str(folder / f"walk_{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
            for k in range(40):
                picture = np.full((32, 48, 3), 40 + 10 * number, np.uint8)
                picture[12:20, 8 + k // 2 : 16 + k // 2] = 230
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    return folder


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_action_free_videos_train_every_stage_but_the_adapters(videos: Path, tmp_path: Path) -> None:
    """Codec and video model by themselves, then latent actions on top of them from the same videos."""
    small = SourceOptions(height=32, width=32)
    first = TrainConfig(out=tmp_path / "first", data=(videos,), source=small, stages=("codec", "pretrain"), **FLAGS)
    train(first)
    assert load_system(tmp_path / "first" / "system").info.stage == "pretrain"
    assert not (tmp_path / "first" / "held_out").exists()  # nothing there imagines under actions yet
    flags = FLAGS | {"from_scratch": False}
    init = tmp_path / "first" / "system"
    train(
        TrainConfig(out=tmp_path / "then", data=(videos,), source=small, init=init, stages=("warmup", "joint"), **flags)
    )
    system = load_system(tmp_path / "then" / "system")
    assert system.info.stage == "joint" and system.info.render_profile == "full"
    watched = [line for line in logged(tmp_path / "then") if "held_out/flow" in line]
    assert watched and not any("held_out/displacement_r2" in line for line in watched)
    for line in logged(tmp_path / "first") + logged(tmp_path / "then"):
        assert all(np.isfinite(value) for value in line.values() if isinstance(value, float))
    assert (tmp_path / "then" / "held_out" / "held_out.json").is_file()


def test_a_run_that_needs_actions_refuses_action_free_data_before_any_work(videos: Path, tmp_path: Path) -> None:
    for stages in ((), ("adapter",)):
        with pytest.raises(ValueError, match=r"videos holds no actions, which stage 'adapter' needs"):
            train(
                TrainConfig(
                    out=tmp_path / "run", data=(LEROBOT, videos), source=beside_videos(), stages=stages, **FLAGS
                )
            )
    assert not (tmp_path / "run").exists()


def beside_videos() -> SourceOptions:
    return SourceOptions(camera="image", height=32, width=32)


def test_videos_and_data_with_actions_train_together(videos: Path, tmp_path: Path) -> None:
    dataset = ClipDataset([LEROBOT, videos], length=4, split="all", options=beside_videos())
    assert dataset.action_dim == 7 and {episode.kind for episode in dataset.episodes} == {"demonstration", "video"}
    config = TrainConfig(
        out=tmp_path / "run", data=(LEROBOT, videos), source=beside_videos(), stages=("codec", "pretrain"), **FLAGS
    )
    train(config)
    assert load_system(tmp_path / "run" / "system").info.stage == "pretrain"


def test_a_finished_system_may_be_kept_in_half_the_bytes(videos: Path, tmp_path: Path) -> None:
    """Rounded as it ships: what starts from it, goal models and recipes, has the very codec that ships."""
    shared = FLAGS | {"data": (videos,), "source": SourceOptions(height=32, width=32), "stages": ("codec", "pretrain")}
    for stored in ("float32", "bfloat16"):
        train(TrainConfig(out=tmp_path / stored, stored_as=stored, **shared))
    whole, half = (load_system(tmp_path / stored / "system") for stored in ("float32", "bfloat16"))
    assert half.info == whole.info and set(half.parts()) == set(whole.parts()) == {"codec", "video"}
    for name, part in half.parts().items():
        theirs = whole.parts()[name].state_dict()
        for key, value in part.state_dict().items():
            torch.testing.assert_close(value, theirs[key].bfloat16().float(), rtol=0, atol=0)
    sizes = [(tmp_path / each / "system" / "video").glob("*.safetensors") for each in ("bfloat16", "float32")]
    small, large = (sum(path.stat().st_size for path in paths) for paths in sizes)
    assert small < 0.6 * large
    train(TrainConfig(out=tmp_path / "bfloat16", stored_as="bfloat16", **shared))  # nothing is left to do
    assert load_system(tmp_path / "bfloat16" / "system").info == half.info
    with pytest.raises(ValueError, match="stored_as=bfloat16, not"):
        train(TrainConfig(out=tmp_path / "bfloat16", **shared))


def test_what_is_evaluated_is_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colaworld.envs.episode.splits_by_name", lambda names: ["train", "validation", "validation"])
    seen, finished = [], Evaluation.finished

    def spied(self: Evaluation, system: ColaSystem, folder: Path) -> dict[str, Any]:
        seen.append(system)
        return finished(self, system, folder)

    monkeypatch.setattr(Evaluation, "finished", spied)
    train(TrainConfig(out=tmp_path / "run", data=(LEROBOT,), source=CAMERA, stored_as="bfloat16", **FLAGS))
    kept = load_system(tmp_path / "run" / "system").parts()
    for name, part in seen[0].parts().items():
        for key, value in part.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(value, value.bfloat16().float(), rtol=0, atol=0)
            torch.testing.assert_close(value, kept[name].state_dict()[key], rtol=0, atol=0)


def test_a_lerobot_data_set_trains_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colaworld.envs.episode.splits_by_name", lambda names: ["train", "validation", "validation"])
    train(TrainConfig(out=tmp_path / "run", data=(LEROBOT,), source=CAMERA, **FLAGS))
    system = load_system(tmp_path / "run" / "system")
    assert (system.info.stage, system.info.frame_skip, system.info.height) == ("adapter", 1, 32)
    lines = logged(tmp_path / "run")
    assert any("held_out/displacement_r2" in line for line in lines)  # its state names the gripper's x, y, z
    assert all(np.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))


def test_too_little_to_hold_out_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="held-out evaluation needs 2 trajectories of at least 12 frames, found 1"):
        train(TrainConfig(out=tmp_path / "run", data=(LEROBOT,), source=CAMERA, **FLAGS))
    assert not (tmp_path / "run").exists()


def test_how_a_source_is_read_belongs_to_the_run(tmp_path: Path) -> None:
    config = TrainConfig(out=tmp_path, data=(LEROBOT,), source=CAMERA, **FLAGS)
    assert binding_flags(config)["source"]["camera"] == "wrist_image"
    remember_run(config)
    check_same_run(config)
    with pytest.raises(ValueError, match="'camera': 'wrist_image'.*, not .*'camera': 'image'"):
        check_same_run(TrainConfig(out=tmp_path, data=(LEROBOT,), source=beside_videos(), **FLAGS))


def test_a_report_with_the_adapter_and_a_starter_need_more_than_videos(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="videos holds no actions, which a system with an adapter needs"):
        held_out(data=(videos,), out=tmp_path / "report")
    with h5py.File(tmp_path / "libero.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"], demo["obs/ee_pos"] = np.zeros((11, 7)), np.zeros((11, 3))
        demo["obs/agentview_rgb"] = np.zeros((11, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="libero.hdf5: starter data are packed from colaworld's own recordings"):
        pack_starter((tmp_path / "libero.hdf5",), out=tmp_path / "starter")
    assert not (tmp_path / "report").exists() and not (tmp_path / "starter").exists()
