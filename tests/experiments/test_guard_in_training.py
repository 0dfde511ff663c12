"""The guard inside the training loop: it stops, warns, prolongs, and a resumed run judges as an unbroken one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from colaworld.envs.demos import Clip
from colaworld.experiments import training
from colaworld.experiments.batches import Batch
from colaworld.experiments.budget import StageCost, read_costs, step_flops
from colaworld.experiments.guard import CodebookCollapse, GuardConfig
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.train_config import TrainConfig, check_guard
from colaworld.experiments.throughput import NAMES
from colaworld.experiments.training import Data, LoopConfig, make_accelerator, train_stage

LOOP = LoopConfig(log_every=1, watch_every=2, checkpoint_seconds=0.0)
STAGE = StageConfig(steps=4, batch_size=2, learning_rate_warmup=1, shift=0)
GUARD = GuardConfig(settle_looks=2, least_transitions=1, grace=0.0)


class Noise:
    """Clips that all differ; dies when its ``lives``-th is read."""

    lives = 10**9

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Clip:
        self.lives -= 1
        if self.lives < 0:
            raise KeyboardInterrupt
        draw = np.random.default_rng(index)
        return Clip(
            frames=draw.integers(256, size=(4, 3, 32, 32), dtype=np.uint8),
            actions=draw.normal(size=(3, 5, 7)).astype(np.float32),
            ee_pos=draw.normal(size=(4, 3)).astype(np.float32),
        )


def run(folder: Path, guard: GuardConfig, clips: Noise | None = None, entropies: dict[int, float] | None = None):
    """Trains a warm-up of four planned steps; ``entropies``: what token 0's entropy is at a step's look (2.0). All else
    that the guard reads is healthy, whatever four steps come to on this machine."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    system = build(PRESETS["nano"], height=32, width=32, frame_skip=5, action_dim=7, render_profile="lite")
    whole = Noise()
    batch = Batch(**{name: torch.from_numpy(np.stack([getattr(whole[i], name) for i in range(5)]))
                     for name in ("frames", "actions", "ee_pos")})  # fmt: skip
    real = training.watch

    def watch(*rest, **others):
        numbers = real(*rest, **others)
        for token in (0, 1):
            for end in ("", "_moving"):
                numbers |= {f"utilisation_{token}{end}": 0.9, f"max_usage_{token}{end}": 0.1}
                numbers |= {f"entropy_{token}{end}": 2.0}
        return numbers | {"transitions_moving": 99.0, "action_use": 0.5}

    class Planted(training.Journal):
        def write(self, stage, step, total, metrics):
            if "held_out/entropy_0_moving" in metrics:
                metrics = metrics | {"held_out/entropy_0_moving": (entropies or {}).get(step, 2.0)}
            super().write(stage, step, total, metrics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "watch", watch)
        patch.setattr(training, "Journal", Planted)
        return train_stage(
            make_accelerator(folder, LOOP, []), system, "warmup", STAGE, LOOP,
            Data(train=clips or Noise(), watched_train=batch, held_out=batch), folder, steps_before=0, guard=guard,
        )  # fmt: skip


def test_a_collapse_stops_the_run_and_leaves_its_checkpoint(tmp_path):
    with pytest.raises(CodebookCollapse, match="token 0: entropy 0.3 nat below 1.0 at step 4 of warmup"):
        run(tmp_path, replace(GUARD, action="stop"), entropies={4: 0.3})
    assert (tmp_path / "checkpoint" / "progress.json").is_file() and not (tmp_path / "system").exists()


def test_a_warning_changes_nothing(tmp_path, capsys):
    run(tmp_path, GUARD, entropies={2: 0.3, 4: 0.3})
    cost = read_costs(tmp_path)["warmup"]
    assert (cost.steps, cost.samples, cost.why) == (4, 8, "as planned")
    assert "guard: token 0: entropy 0.3" in "".join(capsys.readouterr())


def test_a_settled_warm_up_ends_as_planned(tmp_path):
    run(tmp_path, replace(GUARD, action="extend"))
    assert read_costs(tmp_path)["warmup"].steps == 4


def test_an_unsettled_warm_up_is_prolonged_until_it_settles(tmp_path):
    run(tmp_path, replace(GUARD, action="extend"), entropies={2: 1.2, 4: 1.6})
    cost = read_costs(tmp_path)["warmup"]
    assert cost.steps == 8 and "has settled at step 8" in cost.why
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][-1] == 8


def test_a_prolonged_warm_up_ends_at_its_limit(tmp_path):
    run(tmp_path, replace(GUARD, action="extend"), entropies={2 * k: 1.2 + 0.3 * (k % 2) for k in range(9)})
    cost = read_costs(tmp_path)["warmup"]
    assert cost.steps == 12 and "its limit" in cost.why


def test_killed_in_the_prolonged_part_it_comes_to_the_same_weights(tmp_path):
    guard, entropies = replace(GUARD, action="extend"), {2: 1.2, 4: 1.6}
    unbroken = run(tmp_path / "unbroken", guard, entropies=entropies)
    mortal = Noise()
    mortal.lives = 2 * 5 + 1
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", guard, mortal, entropies=entropies)
    assert json.loads((tmp_path / "resumed" / "checkpoint" / "progress.json").read_text())["step"] == 5
    resumed = run(tmp_path / "resumed", guard, entropies=entropies)
    for name, part in unbroken.parts().items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, resumed.parts()[name].state_dict()[key]), (name, key)
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("unbroken", "resumed")]
    unbroken, resumed = ([timeless(line) for line in log] for log in logs)
    assert unbroken == resumed


def timeless(line: str) -> dict[str, float]:
    return {key: value for key, value in json.loads(line).items() if key not in NAMES}


def test_the_joint_stage_pays_for_a_prolonged_warm_up():
    config = TrainConfig(warmup=StageConfig(steps=100), joint=StageConfig(steps=400, imagined=0.2))
    cost = StageCost(steps=200, samples=0, seconds=0.0, flops=0.0, parameters=0)
    after = config.after({"warmup": cost})
    assert (after.stage("warmup").steps, after.stage("joint").steps) == (200, 300)
    assert after.stage("joint").imagined * 300 == pytest.approx(80)
    assert config.after({}) == config
    with pytest.raises(ValueError, match="--guard.most 6 times --warmup.steps 100 is more than the 500 steps"):
        check_guard(replace(config, guard=GuardConfig(action="extend", most=6)))


def test_operations_are_counted_forward_and_backward_and_leave_no_trace():
    layer = torch.nn.Linear(10, 20)
    x = torch.randn(3, 10)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    assert step_flops(layer, lambda copy: copy(x).sum()) == 2 * (2 * 3 * 10 * 20)  # forward, and the weight's gradient
    assert step_flops(layer, lambda copy: copy(x.requires_grad_()).sum()) == 3 * (2 * 3 * 10 * 20)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert layer.weight.grad is None
    q = torch.randn(1, 2, 5, 4)
    attend = torch.nn.functional.scaled_dot_product_attention

    class Attending(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self):
            with torch.no_grad():
                attend(q, q, q)
            return attend(q, q, q).sum() * self.scale

    assert step_flops(Attending(), lambda copy: copy()) == 2 * (2 * 2 * 5 * 5 * 4 * 2)


def test_a_damaged_budget_is_named(tmp_path):
    (tmp_path / "budget.json").write_text('{"warmup": {"steps": 3}}')
    with pytest.raises(ValueError, match="budget.json: cannot be read"):
        read_costs(tmp_path)
