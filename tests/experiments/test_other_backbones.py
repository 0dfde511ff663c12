"""One recipe, planner and evaluation on every backbone: stages, a batch learned by heart, plans, the whole run."""

import json
from dataclasses import replace

import pytest
import torch

from colaworld.adapters.system import ColaSystem, load_system, save_system, staged
from colaworld.adapters.world import ColaCodeWorld, ColaWorld
from colaworld.experiments.adapter_fit import AdapterFitConfig
from colaworld.experiments.batches import Batch
from colaworld.experiments.evaluation import EvaluationConfig
from colaworld.experiments.goal_settings import LiberoPrior
from colaworld.experiments.held_out import HeldOutConfig
from colaworld.experiments.planning_check import PlanningCheckConfig
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.recipes import RECIPES
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.stages import StageModel
from colaworld.experiments.train_config import TrainConfig
from colaworld.experiments.train_world_model import train
from colaworld.experiments.training import only_trained
from colaworld.experiments.watch import watch
from colaworld.models.engine import EngineConfig
from colaworld.models.share import Share
from colaworld.planning.cem import CEM
from colaworld.planning.mpc import MPC, MPCConfig
from colaworld.planning.objectives import PixelGoal

OTHERS = ("nano_opensora", "nano_wan", "nano_wan4")
STAGE = StageConfig(steps=10, batch_size=2, shift=0, through_adapter=0.5)


def clips(count: int = 2, frames: int = 10) -> Batch:
    """A bright square that its actions move over the picture."""
    draw = torch.Generator().manual_seed(0)
    moves = 2.0 * torch.randint(0, 2, (count, frames - 1, 2), generator=draw) - 1.0
    places = torch.cat([torch.zeros(count, 1, 2), 2 * moves.cumsum(1)], dim=1).add(16).clamp(4, 28)
    pictures = torch.full((count, frames, 3, 32, 32), 60, dtype=torch.uint8)
    for clip in range(count):
        for frame, (y, x) in enumerate(places[clip].int().tolist()):
            pictures[clip, frame, :, y - 3 : y + 3, x - 3 : x + 3] = 230
    actions = torch.zeros(count, frames - 1, 5, 7)
    actions[..., :2] = moves[:, :, None]
    return Batch(pictures, actions, torch.cat([places, torch.zeros(count, frames, 1)], dim=2) / 32)


def system_of(preset: str, **others) -> ColaSystem:
    """With every layer that starts at zero moved away from it, and a codebook."""
    torch.manual_seed(0)
    sizes = {"height": 32, "width": 32, "frame_skip": 5, "action_dim": 7, "render_profile": "lite", "clip": 14}
    system = build(PRESETS[preset], **(sizes | others))
    with torch.no_grad():
        for part in system.parts().values():
            for parameter in part.parameters():
                if parameter.requires_grad and not parameter.any():
                    parameter.normal_(std=0.1)
        if system.inverse_dynamics is not None:
            system.model().latent_actions(system.codec.encode(clips(4).frames))
    for part in system.parts().values():
        part.eval()
    return system


@pytest.mark.parametrize("preset", OTHERS)
@pytest.mark.parametrize("recipe", ["cola", "two_stage", "no_grad_to_world", "real_actions"])
def test_every_stage_of_a_recipe_has_a_loss_for_its_parts_and_numbers_to_watch(preset, recipe):
    system, batch = system_of(preset, recipe=recipe), clips()
    for turn in RECIPES[recipe].turns[1:]:
        model = StageModel(system, turn, replace(STAGE, imagined=1.0), steps_before=500).train()
        loss, _ = model(batch, 0, torch.Generator().manual_seed(0))
        loss.backward()
        for name, part in system.parts().items():
            learned = any(p.grad is not None and p.grad.any() for p in part.parameters())
            assert learned == (name in turn.trained and any(True for _ in part.parameters())), (turn.stage, name)
            part.zero_grad()
        numbers = watch(staged(system, turn.stage), turn, batch, clips(2, 12), seed=0)
        assert all(torch.isfinite(torch.tensor(value)) for value in numbers.values())


def test_a_backbone_that_no_preset_has_runs_the_recipe_and_plans(monkeypatch):
    sizes = {"patch": 2, "width": 32, "depth": 1, "heads": 2, "max_frames": 16}
    monkeypatch.setitem(PRESETS, "nano", replace(PRESETS["nano"], backbone="ltx", video=sizes))
    system, batch = system_of("nano"), clips()
    assert type(system.video).__name__ == "LTXBackbone"
    for turn in RECIPES["cola"].turns[1:]:
        model = StageModel(system, turn, replace(STAGE, imagined=1.0), steps_before=500).train()
        model(batch, 0, torch.Generator().manual_seed(0))[0].backward()
        assert any(p.grad is not None and p.grad.any() for p in system.video.parameters()) == ("video" in turn.trained)
        system.video.zero_grad()
    world = ColaWorld(system)
    state, actions = world.start(batch.frames[0, :2], torch.zeros(1, 7)), torch.randn(3, 4, 7)
    torch.testing.assert_close(
        world.imagine_uncached(state, actions), world.imagine(state, actions), rtol=1e-3, atol=1e-4
    )


def test_parts_of_a_batch_lose_what_the_whole_loses():
    system, batch = system_of("nano_opensora"), clips(4)
    model = StageModel(system, RECIPES["cola"].turn("joint"), STAGE).train()
    system.bottleneck.eval()  # its batch statistics are each part's own
    whole = model(batch, 0, torch.Generator().manual_seed(0))[1]["flow"]
    halves = [
        model(
            Batch(*(value.chunk(2)[part] for value in vars(batch).values())),
            0,
            Share(generator=torch.Generator().manual_seed(0), part=part, parts=2),
        )[1]["flow"]
        for part in range(2)
    ]
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


@pytest.mark.parametrize("preset", OTHERS)
def test_one_batch_is_learned_by_heart(preset):
    system, batch = system_of(preset), clips(2, 4 if preset == "nano_wan" else 10)
    model = StageModel(system, RECIPES["cola"].turn("joint"), STAGE).train()
    optimiser, errors = torch.optim.Adam(model.trained_parameters(), lr=1e-2), []
    for step in range(80):
        loss, metrics = model(batch, 1000 + step, torch.Generator().manual_seed(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(metrics["flow"].item())
    assert errors[-1] < 0.03 * errors[0]


@pytest.mark.parametrize("preset", OTHERS)
def test_plans_are_made_of_one_action_a_frame(preset):
    system = system_of(preset)
    world = ColaWorld(system, engine=EngineConfig(max_batch=3))
    assert world.max_horizon == 12
    frames = clips(1).frames[0]
    latents = world.encode(frames[:2])
    state = world.start(frames[:2], torch.zeros(1, 7))
    actions = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0))
    imagined = world.imagine(state, actions)
    assert imagined.shape == (5, 6, *latents.shape[1:])
    assert world.decode(imagined[0]).shape == (6, 3, 32, 32)
    torch.testing.assert_close(world.imagine_uncached(state, actions, batch=2), imagined, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(world.imagine(state, actions[:, :4]), imagined[:, :4], rtol=1e-3, atol=1e-4)
    other = actions.clone()
    other[:, 4] += 1.0
    change = (world.imagine(state, other) - imagined).abs().amax(dim=(0, 2, 3, 4))
    assert change[:4].max() < 1e-5 and change[4:].min() > 1e-6
    with pytest.raises(ValueError, match="13 steps is beyond the world's 12"):
        world.imagine(state, torch.zeros(1, 13, 7))
    codes = torch.zeros(2, 5, 2, dtype=torch.int64)
    assert ColaCodeWorld(system).imagine(state, codes).shape == (2, 5, *latents.shape[1:])


@pytest.mark.parametrize("preset", OTHERS)
def test_a_planner_drives_it(preset):
    world = ColaWorld(system_of(preset))
    frames = clips(1).frames[0]
    planner = CEM(samples=4, iterations=1, elite_fraction=0.5)
    mpc = MPC(world, planner, PixelGoal(), prior=LiberoPrior().prior(), config=MPCConfig(horizon=5))
    mpc.reset(frames[-1], seed=0)
    mpc.act(frames[0])
    action = mpc.act(frames[1])
    assert action.shape == (7,) and mpc.last_plan.imagined.shape[0] == 5


def test_gradients_reach_the_actions_of_a_plan():
    world = ColaWorld(system_of("nano_opensora", adapter_snap=False)).with_gradients()
    frames = clips(1).frames[0]
    state = world.start(frames[:2], torch.zeros(1, 7))
    actions = torch.zeros(2, 6, 7, requires_grad=True)
    world.decode(world.imagine(state, actions)[:, 3]).square().sum().backward()
    reached = actions.grad.abs().amax(dim=(0, 2))
    assert (reached[:4] > 0.0).all() and (reached[4:] == 0.0).all()


def test_what_a_codec_of_clips_cannot_do_is_said():
    with pytest.raises(ValueError, match="--clip must be 10 frames or more .* one latent of 4, got 9"):
        system_of("nano_opensora", clip=9)
    sees = replace(PRESETS["nano_opensora"], adapter={"context_frames": 2})
    with pytest.raises(ValueError, match="context_frames must be 0, got 2"):
        build(sees, height=32, width=32, frame_skip=5, action_dim=7, render_profile="lite")


@pytest.mark.parametrize("preset", OTHERS)
def test_a_whole_run_from_given_weights_to_its_evaluation(preset, tmp_path, fake_recording, capsys):
    fake_recording(tmp_path / "data.hdf5", range(20), frames=16, size=32, walker=True)
    made = staged(system_of(preset), "pretrain")
    save_system(only_trained(made, ("codec", "video")), tmp_path / "init")
    short = StageConfig(steps=2, batch_size=2, shift=1, imagined=0.5)
    config = TrainConfig(
        preset=preset, init=tmp_path / "init", data=(tmp_path / "data.hdf5",), out=tmp_path / "run", clip=14,
        warmup=short, joint=short, adapter=replace(short, through_adapter=0.5), adapter_fit=AdapterFitConfig(steps=2),
        held_out=HeldOutConfig(clips=2, strips=1), trackers=(),
        evaluation=EvaluationConfig(train_clips=4, planning=PlanningCheckConfig(clips=2, samples=4, iterations=1)),
    )  # fmt: skip
    train(config)
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert report["idm"] is not None and report["adapter"] is not None
    assert load_system(tmp_path / "run" / "system").info.stage == "adapter"
