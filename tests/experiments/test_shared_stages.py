"""Runs that differ in their adapter alone: what comes before it is trained once, and that changes nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from colaworld.adapters.system import load_system
from colaworld.experiments.adapter_fit import AdapterFitConfig
from colaworld.experiments.evaluation import EvaluationConfig
from colaworld.experiments.held_out import HeldOutConfig
from colaworld.experiments.planning_check import PlanningCheckConfig
from colaworld.experiments.shared_stages import begin_shared, share, shared_folder
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.train_config import TrainConfig
from colaworld.experiments.train_world_model import train

SHORT = StageConfig(steps=2, batch_size=2, learning_rate_warmup=1, shift=1)
CONFIG = TrainConfig(
    preset="nano", from_scratch=True, clip=12, codec=SHORT, pretrain=SHORT, warmup=SHORT, joint=SHORT, trackers=(),
    adapter=replace(SHORT, through_adapter=0.5), adapter_fit=AdapterFitConfig(steps=4),
    held_out=HeldOutConfig(clips=2, strips=1),
    evaluation=EvaluationConfig(train_clips=4, planning=PlanningCheckConfig(clips=2, samples=4, iterations=1)),
)  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    parts = load_system(folder / "system").parts()
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def test_the_second_run_trains_its_adapter_alone_and_comes_to_the_same_weights(tmp_path, fake_recording, capsys):
    fake_recording(tmp_path / "data.hdf5", range(20), frames=16, size=32, walker=True)
    common = replace(CONFIG, data=(tmp_path / "data.hdf5",))
    other = {"adapter_kind": "classify", "adapter_context": False}
    train(replace(common, share=tmp_path / "shared", out=tmp_path / "first"))
    assert "shared" not in capsys.readouterr().out
    train(replace(common, share=tmp_path / "shared", out=tmp_path / "second", **other))
    assert "begins after the stages that another run has shared" in capsys.readouterr().out
    train(replace(common, out=tmp_path / "alone", **other))
    second, alone = weights(tmp_path / "second"), weights(tmp_path / "alone")
    assert second.keys() == alone.keys() and all(torch.equal(second[key], alone[key]) for key in alone)
    first, second, alone = (
        json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("first", "second", "alone")
    )
    for stage in ("warmup", "joint"):
        assert second["budget"]["seconds"][stage] == first["budget"]["seconds"][stage], "it was not trained again"
    assert second["budget"]["seconds"]["adapter"] != first["budget"]["seconds"]["adapter"]
    for report in (second, alone):
        report.pop("budget"), report.pop("planning")  # the last digits of plans depend on where tensors lie in memory
    assert second == alone


def test_what_a_run_may_share():
    def folder(**changed: object) -> Path | None:
        return shared_folder(replace(CONFIG, **{"share": Path("shared"), "out": Path("run"), **changed}))

    plain = folder()
    assert plain is not None and plain.parent == Path("shared")
    assert folder(adapter_kind="classify") == folder(label_fraction=0.5) == folder(out=Path("another")) == plain
    assert folder(adapter=replace(CONFIG.adapter, steps=7)) == plain
    assert folder(adapter_fit=AdapterFitConfig(steps=9)) == plain
    for changed in ({"joint": replace(SHORT, steps=3)}, {"recipe": "no_warmup"}, {"data": (Path("a.hdf5"),)}):
        assert folder(**changed) != plain
    real = folder(recipe="real_actions")
    assert folder(recipe="real_actions", label_fraction=0.5) != real, "it learns from labels all along"
    assert folder(share=None) is None and folder(stages=("codec", "pretrain")) is None


@pytest.mark.parametrize("own", ["system", "metrics.jsonl"])
def test_a_run_that_has_begun_takes_nothing_and_what_is_shared_is_shared_once(tmp_path, own):
    first = replace(CONFIG, share=tmp_path / "shared", out=tmp_path / "first")
    (first.out / "system").mkdir(parents=True)
    for name in ("metrics.jsonl", "budget.json", "before_adapter.json", "system/system.json"):
        (first.out / name).write_text("first")
    share(first)
    begun = replace(first, out=tmp_path / "begun")
    begun.out.mkdir()
    (begun.out / own).mkdir()
    assert not begin_shared(begun)
    (first.out / "metrics.jsonl").write_text("changed since")
    share(first)
    fresh = replace(first, out=tmp_path / "fresh")
    assert begin_shared(fresh)
    assert (fresh.out / "metrics.jsonl").read_text() == (fresh.out / "system" / "system.json").read_text() == "first"
    assert [path.name for path in (tmp_path / "shared").iterdir()] == [shared_folder(first).name]
    assert not begin_shared(replace(fresh, share=tmp_path / "nothing", out=tmp_path / "other"))
