"""Which clips a run draws: the same for every recipe before the adapter stage, and with few labels not those alone."""

from dataclasses import replace

import pytest
import torch

from colaworld.experiments import train_world_model, training
from colaworld.experiments.adapter_fit import AdapterFitConfig
from colaworld.experiments.budget import read_costs
from colaworld.experiments.evaluation import BEFORE
from colaworld.experiments.labels import labelled_steps
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.train_config import TrainConfig

SHORT = StageConfig(steps=1, batch_size=4, learning_rate_warmup=1, shift=0)
CONFIG = TrainConfig(
    preset="nano", from_scratch=True, codec=SHORT, pretrain=SHORT, warmup=replace(SHORT, steps=2),
    joint=replace(SHORT, steps=4), adapter=replace(SHORT, steps=3), adapter_fit=AdapterFitConfig(steps=2),
    trackers=(),
)  # fmt: skip


class Nothing:
    """In the place of an evaluation, which takes longer than all else."""

    def __init__(self, *_) -> None:
        pass

    def before_adapter(self, _, folder) -> None:
        (folder / BEFORE).write_text("{}")

    def finished(self, *_) -> dict:
        return {}


@pytest.fixture
def drawn(monkeypatch, tmp_path, fake_recording):
    """``drawn(flag=value, ...)``: of each stage of a run, its stream, the clip numbers of its steps, and its data."""
    fake_recording(tmp_path / "data.hdf5", range(40), frames=16, size=32, walker=True)
    monkeypatch.setattr(train_world_model, "Evaluation", Nothing)
    monkeypatch.setattr(train_world_model, "summary", lambda report: "")
    seen, make = [], training.clip_loader

    def noted(clips, batches, **others):
        seen.append((batches.stage, [list(batches.of_step(step)) for step in range(batches.start, batches.stop)], clips))
        return make(clips, batches, **others)

    monkeypatch.setattr(training, "clip_loader", noted)

    def run(**flags):
        seen.clear()
        run.out = tmp_path / f"run_{len(list(tmp_path.iterdir()))}"
        train_world_model.train(replace(CONFIG, data=(tmp_path / "data.hdf5",), out=run.out, **flags))
        return list(seen)

    return run


def test_every_recipe_draws_the_same_clips_in_the_same_order(drawn):
    def order(recipe: str) -> list[list[int]]:
        return [step for stream, steps, _ in drawn(recipe=recipe) if stream == "latent actions" for step in steps]

    plain = order("cola")
    assert len(plain) == 6 and len({tuple(step) for step in plain}) == 6
    assert order("two_stage") == plain and order("no_warmup") == plain and order("real_actions") == plain


@pytest.mark.parametrize("recipe", ["cola", "real_actions"])
def test_with_few_labels_the_adapter_stage_has_all_clips_and_half_of_each_batch_labelled(drawn, recipe):
    """The inverse dynamics model's codes, which the world model learns from, need no label."""
    *_, (joint, _, every), (stream, steps, clips) = drawn(recipe=recipe, label_fraction=0.1)
    assert (joint, stream) == ("latent actions", "adapter") and len(steps) == 3
    known = [labelled_steps(torch.from_numpy(clips[index].actions)).all().item() for index in range(len(clips))]
    assert len(clips) == len(every) and 0 < sum(known) < 0.3 * len(known)
    assert all(sum(known[index] for index in step) >= 2 for step in steps)
    assert not all(known[index] for step in steps for index in step)


@pytest.mark.parametrize(("recipe", "lam", "world"), [("two_stage", "lam", "world"), ("frozen_lam", "warmup", "joint")])
def test_labelled_clips_count_where_they_teach(drawn, recipe, lam, world):
    """Half a batch more a step, in the stages that train what reads codes."""
    weighed = {name: replace(getattr(CONFIG, name), action_weight=1.0) for name in ("warmup", "joint")}
    drawn(recipe=recipe, action_labels=0.5, **weighed)
    costs = read_costs(drawn.out)
    assert costs[lam].samples == costs[lam].steps * 6 and costs[world].samples == costs[world].steps * 4
    drawn(recipe=recipe)
    assert read_costs(drawn.out)[lam].samples == costs[lam].steps * 4
