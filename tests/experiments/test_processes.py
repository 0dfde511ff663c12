"""Training in two processes (gloo, on the CPU): the same losses and weights as in one, also after a kill."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from colaworld.adapters.system import load_system
from colaworld.experiments import train_world_model
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.loop_config import LoopConfig
from colaworld.experiments.training import make_accelerator, only_trained

TRAINER = Path(__file__).with_name("squares_trainer.py")
ONE = (sys.executable,)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
TWO = (*TORCHRUN, "2")
SHARDED, SELDOM = ("--loop.parallel", "fsdp"), ("--loop.checkpoint-seconds", 1000)


def train(launcher: tuple[str, ...], folder: Path, stage: str, *flags: object) -> subprocess.CompletedProcess:
    return run([*launcher, str(TRAINER), "--folder", str(folder), "--stage", stage, *map(str, flags)])


def run(command: list[str]) -> subprocess.CompletedProcess:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("ACCELERATE_USE_FSDP", None)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def trained(launcher: tuple[str, ...], folder: Path, stage: str, *flags: object) -> Path:
    result = train(launcher, folder, stage, *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of one process's run of a stage."""
    folder = tmp_path_factory.mktemp("alone")
    return functools.cache(lambda stage: trained(ONE, folder / stage, stage, *SELDOM))


def logged(folder: Path, name: str) -> torch.Tensor:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([line[name] for line in lines if name in line])


def assert_same(one: Path, other: Path) -> None:
    assert len(logged(one, "loss")) == 6
    torch.testing.assert_close(logged(one, "loss"), logged(other, "loss"), rtol=1e-4, atol=1e-5)
    assert torch.equal(logged(one, "learning_rate"), logged(other, "learning_rate"))
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
def test_two_processes_train_as_one_does(alone, tmp_path, stage):
    assert_same(alone(stage), trained(TWO, tmp_path / "two", stage, *SELDOM))


def test_a_batch_in_parts_trains_as_a_whole_one_does(alone, tmp_path):
    assert_same(alone("codec"), trained(ONE, tmp_path / "parts", "codec", "--loop.accumulate", 2))


def test_a_killed_run_goes_on_with_another_number_of_processes(alone, tmp_path):
    assert train(TWO, tmp_path / "two", "joint", "--lives", 3).returncode != 0
    assert json.loads((tmp_path / "two" / "checkpoint" / "progress.json").read_text())["step"] == 3
    assert_same(alone("joint"), trained(ONE, tmp_path / "two", "joint"))


def test_a_killed_run_of_shards_comes_to_the_weights_of_an_unbroken_one(alone, tmp_path):
    flags = (*SHARDED, "--loop.accumulate", 2)
    unbroken = trained(TWO, tmp_path / "unbroken", "codec", *flags, *SELDOM)
    assert_same(alone("codec"), unbroken)
    assert train(TWO, tmp_path / "killed", "codec", *flags, "--lives", 3).returncode != 0
    checkpoint = tmp_path / "killed" / "checkpoint"
    for part in ("pytorch_model_fsdp_0", "optimizer_0", "averages"):
        assert {file.name for file in (checkpoint / part).glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}
    resumed = trained(TWO, tmp_path / "killed", "codec", *flags, *SELDOM)
    assert torch.equal(*(weights(load_system(folder / "system")) for folder in (unbroken, resumed)))


def test_shards_of_two_processes_are_put_together_in_one(alone, tmp_path):
    assert train(TWO, tmp_path, "joint", *SHARDED, "--lives", 4).returncode != 0
    assert json.loads((tmp_path / "checkpoint" / "progress.json").read_text())["step"] == 4
    assert_same(alone("joint"), trained((*TORCHRUN, "1"), tmp_path, "joint", *SHARDED, *SELDOM))


def test_shards_need_processes_that_share_them(tmp_path):
    with pytest.raises(ValueError, match="--loop.parallel fsdp .* accelerate launch or torchrun"):
        make_accelerator(tmp_path, LoopConfig(parallel="fsdp"), [])


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_whole_run_in_two_processes_goes_through_its_stages_and_is_evaluated_once(tmp_path, fake_recording, parallel):
    fake_recording(tmp_path / "data.hdf5", range(20), frames=16, size=32, walker=True)
    short = [f"--{stage}.{flag}" for stage in ("warmup", "joint", "adapter") for flag in ("steps=2", "batch-size=2")]
    flags = [
        *("--loop.parallel", parallel, "--preset", "nano", "--from-scratch", *short),
        *("--data", tmp_path / "data.hdf5", "--out", tmp_path / "run"),
        *("--codec.steps=2", "--codec.batch-size=2", "--pretrain.steps=2", "--pretrain.batch-size=2"),
        *("--adapter-fit.steps=2", "--held-out.clips=2", "--held-out.strips=1", "--evaluation.train-clips=4"),
        *("--evaluation.planning.clips=2", "--evaluation.planning.samples=4", "--evaluation.planning.iterations=1"),
    ]
    script = Path(train_world_model.__file__)
    done = run([*TWO, str(script), *map(str, flags)])
    assert done.returncode == 0, done.stderr[-3000:]
    assert load_system(tmp_path / "run" / "system").info.stage == "adapter"
    assert done.stdout.count("evaluation: ") == 1, "not once in each process"
