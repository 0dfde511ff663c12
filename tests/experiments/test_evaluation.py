"""Which clips a system is evaluated on, and what an evaluation knows of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from colaworld.adapters.system import ColaSystem
from colaworld.envs.demos import ClipDataset, starter_path
from colaworld.experiments import evaluation as script
from colaworld.experiments.evaluation import Evaluation, EvaluationConfig
from colaworld.experiments.held_out import HeldOutConfig, held_out_windows
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.video_metrics import VideoMetricsConfig

Write = Callable[..., list]


@pytest.fixture(scope="module")
def system() -> ColaSystem:
    torch.manual_seed(0)
    return build(PRESETS["nano"], height=32, width=32, frame_skip=5, action_dim=7, render_profile="lite")


def evaluation_of(folder: Path, clips: int) -> Evaluation:
    """All recordings in ``folder``."""
    train, held_out = (ClipDataset([folder], length=12, split=split) for split in ("train", "validation"))
    windows = HeldOutConfig(clips=clips, strips=0)
    return Evaluation(train, held_out, EvaluationConfig(train_clips=12), windows, VideoMetricsConfig())


def test_windows_are_those_of_every_evaluation_and_know_their_trajectory(tmp_path: Path, fake_recording: Write):
    """Five trajectories to train on, three held out."""
    fake_recording(tmp_path / "data.hdf5", [1, 2, 3, 4, 5, 7, 17, 27], frames=16, size=32)
    episodes = ClipDataset([tmp_path / "data.hdf5"], length=12, split="validation").episodes
    config = HeldOutConfig(clips=7, strips=0, seed=3)
    found, names = held_out_windows(episodes, config)
    for frames, name in zip(found.frames.numpy(), names, strict=True):
        episode = next(each for each in episodes if name == f"{each.scene}/{each.demo}/{each.seed}")
        assert any(np.array_equal(frames, episode.clip(start, 12).frames) for start in range(5))
    assert len(set(names)) == 3


def test_codes_are_transferred_between_trajectories(
    tmp_path: Path, fake_recording: Write, system: ColaSystem, monkeypatch: pytest.MonkeyPatch
):
    """One scene has three held-out trajectories, the other two: windows of the second would be enough, were they of
    different ones."""
    fake_recording(tmp_path / "a.hdf5", [1, 2, 3, 4, 7, 17, 27], frames=16, size=32)
    fake_recording(tmp_path / "b.hdf5", [1, 2, 7, 17], frames=16, size=32, task_id=1)
    asked, transfer = [], script.code_transfer
    monkeypatch.setattr(script, "code_transfer", lambda *each, **given: asked.append(given) or transfer(*each, **given))
    whole = evaluation_of(tmp_path, clips=20)
    report = whole._code_checks(system)["transfer"]
    assert asked[0]["trajectories"] == whole.trajectories and asked[0]["scenes"] == whole.scenes
    assert len(set(whole.trajectories)) == 5 and len(set(whole.scenes)) == 2
    assert all(name.startswith(f"{scene}/") for name, scene in zip(whole.trajectories, whole.scenes, strict=True))
    assert report["n"] == 12, "four windows of each of three trajectories"
    (tmp_path / "a.hdf5").unlink()
    alone = evaluation_of(tmp_path, clips=20)
    assert alone._code_checks(system)["transfer"] is None and len(asked) == 1


def test_every_window_of_the_starter_data_is_a_trajectory_of_its_own():
    """So nothing changes there for what is asked of trajectories."""
    held_out = ClipDataset([starter_path()], length=12, split="validation")
    _, names = held_out_windows(held_out.episodes, HeldOutConfig())
    assert len(set(names)) == len(names) == 64
