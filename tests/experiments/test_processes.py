"""Training in two processes (gloo, on the CPU): the same losses and weights as in one, also after a kill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from colaworld.adapters.system import load_system
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.training import only_trained

TRAINER = Path(__file__).with_name("squares_trainer.py")
ONE = (sys.executable,)
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def train(launcher: tuple[str, ...], folder: Path, stage: str, *options: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, str(TRAINER), str(folder), stage, *map(str, options)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def losses(folder: Path) -> torch.Tensor:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([line["loss"] for line in lines if "loss" in line])


def assert_same(one: Path, other: Path) -> None:
    assert len(losses(one)) == 6
    torch.testing.assert_close(losses(one), losses(other), rtol=1e-4, atol=1e-5)
    first, second = load_system(one / "system"), load_system(other / "system")
    torch.manual_seed(0)
    sizes = {"height": 32, "width": 32, "frame_skip": 5, "action_dim": 7, "render_profile": "lite"}
    fresh = only_trained(build(PRESETS["nano"], **sizes), tuple(first.parts()))
    first, second, fresh = map(weights, (first, second, fresh))
    # Adam makes a whole step of a gradient that is all rounding, so single weights may differ.
    assert (second - first).norm() < 0.03 * (first - fresh).norm()


def weights(system) -> torch.Tensor:
    parts = system.parts()
    return torch.cat([value.flatten() for name in parts for value in parts[name].parameters()])


@pytest.mark.parametrize("stage", ["codec", "joint"])
def test_two_processes_train_as_one_does(tmp_path, stage):
    for name, launcher in (("one", ONE), ("two", TWO)):
        result = train(launcher, tmp_path / name, stage, 1)
        assert result.returncode == 0, result.stderr[-3000:]
    assert_same(tmp_path / "one", tmp_path / "two")


def test_a_batch_in_parts_trains_as_a_whole_one_does(tmp_path):
    for name, accumulate in (("one", 1), ("parts", 2)):
        result = train(ONE, tmp_path / name, "codec", accumulate)
        assert result.returncode == 0, result.stderr[-3000:]
    assert_same(tmp_path / "one", tmp_path / "parts")


def test_a_killed_run_goes_on_with_another_number_of_processes(tmp_path):
    assert train(ONE, tmp_path / "one", "joint", 1).returncode == 0
    assert train(TWO, tmp_path / "two", "joint", 1, 3).returncode != 0
    assert 1 <= json.loads((tmp_path / "two" / "checkpoint" / "progress.json").read_text())["step"] <= 3
    result = train(ONE, tmp_path / "two", "joint", 1)
    assert result.returncode == 0, result.stderr[-3000:]
    assert_same(tmp_path / "one", tmp_path / "two")
