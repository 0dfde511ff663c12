"""The command line of the evaluation against manifests on disk, none of which is ever simulated here: every refusal
is one sentence, exit code 2, and leaves no results folder behind.
"""

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from colaworld.adapters.system import save_system, staged
from colaworld.envs.manifest import Instance, Manifest, Predicate
from colaworld.experiments import cli
from colaworld.experiments.libero_goal_tasks import LiberoGoalTasks
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.vp2_eval import vp2_eval


def manifest(**change) -> Manifest:
    """Two reaches and a push in two scenes, with states and frames of nothing."""
    instances = tuple(
        Instance(
            instance=index,
            category=category,
            suite="libero_goal",
            task_id=task_id,
            seed=1_000_000 + index,
            predicate=Predicate(object=None if category == "reach" else "bowl", target=(0.0, 0.0, 1.0), radius=0.03),
            expert_steps=5,
        )
        for index, (category, task_id) in enumerate((("reach", 0), ("push", 0), ("reach", 3)))
    )
    fields = {
        "name": "toy",
        "mujoco": importlib.metadata.version("mujoco"),
        "robosuite": importlib.metadata.version("robosuite"),
        "render_profile": "lite",
        "height": 16,
        "width": 16,
        "frame_skip": 5,
        "instances": instances,
        "starts": (np.zeros(4),) * 3,
        "goals": (np.ones(4),) * 3,
        "goal_frames": np.zeros((3, 16, 16, 3), np.uint8),
    }
    return Manifest(**{**fields, **change})


def write(content: Manifest, folder: Path) -> Path:
    """As a manifest lies on disk."""
    path = folder / "toy.json"
    path.write_text(json.dumps({**content.description(), "sha256": content.sha256}))
    np.savez(path.with_suffix(".npz"), **content.arrays())
    return path


def refusal(arguments: list[str], monkeypatch, capsys) -> str:
    """Run the script with ``arguments``; the one sentence it ends with, exit code 2."""
    monkeypatch.setattr("sys.argv", ["vp2_eval.py", *arguments])
    with pytest.raises(SystemExit) as exit_code:
        cli.main(vp2_eval)
    assert exit_code.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """Flags that would run, from here on."""
    torch.manual_seed(0)
    system = build(PRESETS["nano"], height=16, width=16, frame_skip=5, action_dim=7, render_profile="lite")
    save_system(staged(system, "adapter"), tmp_path / "system")
    path = write(manifest(), tmp_path)
    return ["--run", str(tmp_path / "system"), "--manifest", str(path), "--out", str(tmp_path / "out")]


def test_a_manifest_becomes_tasks_with_their_identity(tmp_path) -> None:
    tasks = LiberoGoalTasks(write(manifest(), tmp_path))
    assert [(item.index, item.category, item.scene) for item in tasks.instances] == [
        (0, "reach", "libero_goal_0"),
        (1, "push", "libero_goal_0"),
        (2, "reach", "libero_goal_3"),
    ]
    identity = tasks.identity
    assert identity["manifest_sha256"] == manifest().sha256 and identity["render_profile"] == "lite"
    assert json.loads(json.dumps(identity)) == identity
    tasks.close()


def test_bad_flags_are_one_sentence(arguments, tmp_path, monkeypatch, capsys) -> None:
    for extra, words in (
        (["--samples", "0"], ("samples must be 1 or more, got 0",)),
        (["--planner", "guess"], ("guess", "random_shooting")),
        (["--categories", "stack"], ("unknown category 'stack'", "reach, push")),
        (["--instances", "7"], ("unknown instance 7", "0 to 2")),
        (["--horizon", "99"], ("--horizon 99", "10")),
        (["--run", str(tmp_path / "nowhere")], ("nowhere",)),
        (["--manifest", "nothing"], ("nothing",)),
    ):
        message = refusal([*arguments, *extra], monkeypatch, capsys)
        for word in words:
            assert word in message.replace("\n", " "), (extra, message)
    assert not (tmp_path / "out").exists()


def test_a_truncated_checkpoint_is_named(arguments, tmp_path, monkeypatch, capsys) -> None:
    weights = tmp_path / "system" / "codec" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    message = refusal(arguments, monkeypatch, capsys)
    assert message.count("\n") == 1 and str(weights) in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mujoco": "2.1.0"}, "mujoco 2.1.0"),
        ({"render_profile": "full"}, "render_profile 'lite'"),
        ({"frame_skip": 4}, "frame_skip 5"),
        ({"height": 8, "goal_frames": np.zeros((3, 8, 16, 3), np.uint8)}, "height 16"),
    ],
)
def test_a_manifest_that_does_not_fit_is_named(change, words, arguments, tmp_path, monkeypatch, capsys) -> None:
    write(manifest(**change), tmp_path)
    message = refusal(arguments, monkeypatch, capsys)
    assert message.count("\n") == 1 and words in message
    assert not (tmp_path / "out").exists()


def test_a_changed_manifest_is_refused(arguments, tmp_path, monkeypatch, capsys) -> None:
    write(replace(manifest(), starts=(np.full(4, 0.5),) * 3), tmp_path)
    described = tmp_path / "toy.json"
    described.write_text(json.dumps({**manifest().description(), "sha256": manifest().sha256}))
    assert "sha256" in refusal(arguments, monkeypatch, capsys)
