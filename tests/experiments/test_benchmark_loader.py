"""The loader beside training."""

import json

import pytest
import tyro

from colaworld.experiments.benchmark_loader import command
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.train_config import TrainConfig

NANO = TrainConfig(preset="nano", codec=StageConfig(steps=9, batch_size=2), from_scratch=True)


def test_both_speeds_are_measured_and_nothing_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--stage", "codec", "--steps", "2", "--workers", "0", "1", "--loop.peak-of", "a100"]
    tyro.cli(command(NANO), args=[*flags, "--json-file", "speed.json"])
    found = json.loads((tmp_path / "speed.json").read_text())
    assert [each["workers"] for each in found] == [0, 1]
    for each in found:
        assert each["loader"] > 0.0 and each["training"] > 0.0
        assert 0.0 <= each["waited"] < 1.0 and 0.0 < each["utilisation"] < 1.0
    assert len(capsys.readouterr().out.splitlines()[-3:]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="--steps must be 1 or more, got 0"):
        tyro.cli(command(NANO), args=["--steps", "0"])
