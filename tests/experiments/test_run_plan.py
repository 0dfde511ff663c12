"""A run's plan against what the run really does; the large presets on the meta device."""

from dataclasses import replace

import pytest
import torch
import tyro

from colaworld.experiments.batches import Batch
from colaworld.experiments.budget import step_flops
from colaworld.experiments.devices import Device, device_named
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.recipes import RECIPES
from colaworld.experiments.run_plan import StagePlan, plan_text, run_plan
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.stages import StageModel
from colaworld.experiments.train_config import TrainConfig, preset_defaults
from colaworld.experiments.train_world_model import command
from colaworld.experiments.training import LoopConfig

STAGE = StageConfig(steps=4, batch_size=2, shift=0)
SLOW = Device(name="a100", bf16=100.0, float32=10.0, memory=1.5, utilisation=0.5)


def config_of(preset: str, **others) -> TrainConfig:
    trained = {"from_scratch": True} if PRESETS[preset].trains_codec else {}
    stages = {name: STAGE for name in ("codec", "pretrain", "warmup", "joint", "adapter")}
    return TrainConfig(**{"preset": preset, "clip": 10, "adapter_kind": "nearest", **trained, **stages, **others})


def real_flops(preset: str, stage: str, imagined: float, recipe: str) -> int:
    """Of one step on two clips, as a run counts them."""
    torch.manual_seed(0)
    sizes = {"frame_skip": 5, "action_dim": 7, "render_profile": "lite", "clip": 10}
    system = build(PRESETS[preset], height=32, width=32, recipe=recipe, **sizes)
    batch = Batch(
        torch.randint(256, (2, 10, 3, 32, 32), dtype=torch.uint8), torch.randn(2, 9, 5, 7), torch.randn(2, 10, 3)
    )
    model = StageModel(system, RECIPES[recipe].turn(stage), replace(STAGE, imagined=imagined))
    return step_flops(model, lambda copy: copy(batch, 3, torch.Generator().manual_seed(0))[0])


@pytest.mark.parametrize("preset", ["nano", "nano_opensora", "nano_wan", "nano_wan4"])
@pytest.mark.parametrize("imagined", [0.0, 1.0])
def test_a_step_is_planned_with_the_operations_it_takes(preset, imagined):
    config = config_of(preset, joint=replace(STAGE, imagined=imagined), adapter=replace(STAGE, imagined=imagined))
    for stage in run_plan(config).stages:
        asked = imagined if stage.stage in ("joint", "adapter") else 0.0
        real = real_flops(preset, stage.stage, asked, "cola")
        # Codes are found by a few products of small matrices, actions by the adapter anew for imagined frames.
        assert stage.flops == pytest.approx(real, rel=0.02 if stage.stage == "adapter" else 0.005), stage.stage


@pytest.mark.parametrize("recipe", ["two_stage", "real_actions", "no_grad_to_world"])
def test_every_recipe_is_planned(recipe):
    for stage in run_plan(config_of("nano", recipe=recipe, stages=RECIPES[recipe].stages[2:])).stages:
        assert stage.flops == pytest.approx(real_flops("nano", stage.stage, 0.0, recipe), rel=0.03), stage.stage


def test_steps_on_imagined_frames_weigh_by_their_share():
    plain, mixed, whole = (
        run_plan(config_of("nano", joint=replace(STAGE, imagined=share), stages=("joint",))).stages[0]
        for share in (0.0, 0.25, 1.0)
    )
    assert mixed.flops == pytest.approx(0.75 * plain.flops + 0.25 * whole.flops)
    assert plain.flops < whole.flops


@pytest.mark.parametrize(
    ("stage", "recipe"), [("pretrain", "cola"), ("warmup", "cola"), ("joint", "cola"), ("lam", "two_stage")]
)
def test_gradient_checkpointing_computes_more_and_keeps_less(stage, recipe):
    plain, saving = (
        run_plan(
            config_of("tiny", recipe=recipe, loop=LoopConfig(gradient_checkpointing=on), stages=(stage,))
        ).stages[0]
        for on in (False, True)
    )
    assert 1.2 * plain.flops < saving.flops < 1.4 * plain.flops
    assert saving.activations < 0.1 * plain.activations


def test_memory_and_time_of_a_stage():
    stage = StagePlan(stage="joint", steps=10, batch_size=4, flops=1e3, trained=100, activations=1000)
    memory = stage.memory(weights=150, clips=2, precision="no")
    assert memory == {"weights": 600, "gradients": 400, "optimiser": 800, "averages": 400, "activations": 2000}
    assert stage.memory(weights=150, clips=2, precision="bf16")["activations"] == 1000
    shared = replace(stage, gathered=30).memory(weights=150, clips=2, precision="no", shards=4)
    assert shared == {
        "weights": 150, "gradients": 100, "optimiser": 200, "averages": 100, "gathered": 120, "activations": 2000
    }  # fmt: skip
    assert stage.seconds(SLOW, 2, "bf16") == 10 * 1e3 / (2 * 50) and stage.seconds(SLOW, 1, "no") == 10 * 1e3 / 5


def test_the_plan_as_people_read_it():
    plan = run_plan(config_of("nano"))
    plan = replace(plan, stages=tuple(replace(stage, activations=2**30) for stage in plan.stages))
    text = plan_text(plan, SLOW, 1)
    for name, number in plan.parameters.items():
        assert f"{name:<20}{number / 1e6:>16.2f}" in text
    assert "peak 1e-11 TFLOP/s in float32 (the maker's figure, dense), of which 50% are assumed" in text
    assert text.count("more than it has") == 5 and "more than it has" not in plan_text(plan, SLOW, 2)
    hours = [float(line.split()[4]) for line in text.splitlines() if line.split()[:1] in (["warmup"], ["joint"])]
    expected = [stage.seconds(SLOW, 1, "no") / 3600 for stage in plan.stages if stage.stage in ("warmup", "joint")]
    assert hours == pytest.approx(expected, rel=0.01)
    with pytest.raises(ValueError, match="--device-count must be 1 or more, got 0"):
        plan_text(plan, SLOW, 0)
    with pytest.raises(ValueError, match="--codec.batch-size 2 cannot be divided by --device-count 4 times"):
        plan_text(plan, SLOW, 4)


def test_what_a_plan_leaves_out_is_said():
    missing = "codec and action-free video model come from --init"
    assert missing in plan_text(run_plan(config_of("base", from_scratch=False)), SLOW, 1)
    assert missing not in plan_text(run_plan(config_of("base")), SLOW, 1)
    assert missing not in plan_text(run_plan(config_of("tiny_conv", from_scratch=False)), SLOW, 1), "its weights ship"
    alone = config_of("nano", loop=LoopConfig(parallel="fsdp"))
    assert "one device has nobody to share with" in plan_text(run_plan(alone), SLOW, 1)


def test_devices_that_share_weights_hold_their_part_and_what_is_gathered():
    config = config_of("nano_wan", stages=("joint",))
    joint, loop = replace(config.joint, batch_size=8), replace(config.loop, parallel="fsdp")
    plan = run_plan(replace(config, joint=joint, loop=loop))
    blocks, weights = 2, sum(plan.parameters.values())
    torch.manual_seed(0)
    sizes = {"frame_skip": 5, "action_dim": 7, "render_profile": "lite", "clip": 10}
    system = build(PRESETS["nano_wan"], height=32, width=32, adapter_kind="nearest", **sizes)
    inside = [*system.video.blocks, *system.inverse_dynamics.blocks]
    numbers = sorted(sum(weight.numel() for weight in block.parameters()) for block in inside)
    held = {id(weight): weight.numel() for weight in system.model().parameters()}
    held |= {id(weight): weight.numel() for part in (system.codec, system.adapter) for weight in part.parameters()}
    assert plan.stages[0].gathered == sum(held.values()) - sum(numbers) + sum(numbers[-blocks:])
    text = plan_text(plan, SLOW, 4)
    found = next(line.split() for line in text.splitlines() if line.startswith("joint"))
    assert float(found[5]) == pytest.approx(4 * weights / 4 / 2**30, abs=1e-3)
    assert "gathered" in text and "are shared" in text and "gathered" not in plan_text(plan, SLOW, 1)


@pytest.mark.parametrize(("name", "parameters"), [("base", 0.2e9), ("opensora", 1.4e9), ("wan", 1.3e9)])
def test_the_large_presets_are_planned_without_their_memory(name, parameters):
    plan = run_plan(replace(preset_defaults(name), stages=("warmup",), clip=10))
    assert sum(plan.parameters.values()) > parameters and plan.stages[0].flops > 1e13


def test_devices():
    cpu = device_named("cpu")
    assert cpu.measured and cpu.float32 > 1e8 and cpu.bf16 > 0.0
    assert device_named("h100").rate("bf16") == 0.4 * 989e12 and device_named("a100").rate("no") == 0.4 * 19.5e12
    with pytest.raises(ValueError, match="--device-name must be one of cpu, .*b200, got 'abacus'"):
        device_named("abacus")


def test_a_plan_starts_nothing(tmp_path, capsys):
    arguments = ["--preset", "nano", "--from-scratch", "--out", str(tmp_path / "run"), "--print-plan"]
    tyro.cli(command(preset_defaults("nano")), args=arguments)
    assert "plan of preset nano" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_flags_are_the_presets_where_nothing_else_is_said(monkeypatch):
    seen = []
    monkeypatch.setattr("colaworld.experiments.train_world_model.train", seen.append)
    for preset, arguments in (
        ("tiny", ["--joint.steps", "7", "--trackers"]),
        ("opensora", ["--preset", "opensora", "--joint.steps", "7"]),
    ):
        tyro.cli(command(preset_defaults(preset)), args=arguments)
    tiny, opensora = seen
    usual = TrainConfig(preset="tiny")
    assert tiny == replace(usual, joint=replace(usual.joint, steps=7), trackers=())
    papers = preset_defaults("opensora")
    assert opensora == replace(papers, joint=replace(papers.joint, steps=7)) and opensora.clip == 14
