"""Trained systems from disk as worlds: hashed whole, refused when missing or damaged, planned in end to end."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from colaworld.adapters.system import save_system, staged
from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.planning_world import load_world, system_hash
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.episode_player import world_of
from colaworld.experiments.vp2_eval import evaluate


def system():
    """A nano system for 16x16 frames that claims to be trained."""
    torch.manual_seed(0)
    fresh = build(PRESETS["nano"], height=16, width=16, frame_skip=5, action_dim=7, render_profile="lite")
    return staged(fresh, "adapter")


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "system"
    save_system(system(), path)
    return path


def load(path: Path):
    return load_world(path, preset="nano", device="cpu", steps=1, std=0.0, guidance=1.0)


def test_a_saved_system_becomes_a_world_that_says_what_it_was_made_for(saved) -> None:
    loaded = load(saved)
    assert (loaded.height, loaded.width, loaded.frame_skip, loaded.render_profile) == (16, 16, 5, "lite")
    assert loaded.world.action_dim == 7 and loaded.checkpoint == system_hash(saved)


def test_the_hash_covers_parts_that_lie_elsewhere(saved, tmp_path) -> None:
    save_system(system(), tmp_path / "shared" / "first")
    save_system(system(), tmp_path / "shared" / "second", codec="../first/codec")
    before = system_hash(tmp_path / "shared" / "second")
    weights = tmp_path / "shared" / "first" / "codec" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert system_hash(tmp_path / "shared" / "second") != before


def test_what_is_missing_or_truncated_is_named(saved, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    weights = saved / "video" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"{weights}"):
        load(saved)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="video"):
        load(saved)


def test_a_system_without_an_adapter_cannot_plan(tmp_path) -> None:
    save_system(replace(system(), adapter=None), tmp_path / "joint")
    with pytest.raises(ValueError, match="no adapter"):
        load(tmp_path / "joint")


def test_a_half_trained_system_is_refused(tmp_path) -> None:
    save_system(staged(system(), "joint"), tmp_path / "joint")
    with pytest.raises(ValueError, match="'joint'; planning needs 'adapter'"):
        load(tmp_path / "joint")


def test_the_folder_of_a_training_run_will_do(tmp_path) -> None:
    save_system(system(), tmp_path / "run" / "system")
    assert load(tmp_path / "run").checkpoint == load(tmp_path / "run" / "system").checkpoint


def test_a_device_that_is_not_there_is_named(saved, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device cuda"):
        load_world(saved, preset="nano", device="cuda", steps=1, std=0.0, guidance=1.0)


def test_planning_in_a_system_runs_to_the_table_and_is_repeatable(saved, spot_tasks, tmp_path) -> None:
    config = EvalConfig(run=saved, samples=4, iterations=2, horizon=3, max_steps=4, episodes=2, rows=("planner",))
    actions = []
    for name in ("first", "second"):
        path = evaluate(config, spot_tasks(), lambda: world_of(config), tmp_path / name)
        lines = (tmp_path / name / "episodes.jsonl").read_text().splitlines()
        actions.append([json.loads(line)["actions"] for line in lines])
        assert json.loads(path.read_text())["settings"]["planner"]["checkpoint"] == system_hash(saved)
    assert actions[0] == actions[1] and len(actions[0]) == 2
    assert len(list((tmp_path / "first" / "pictures").glob("*.mp4"))) == 2
