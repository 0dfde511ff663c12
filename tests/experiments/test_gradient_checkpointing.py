"""Gradient checkpointing: whatever is made of many blocks is computed again, and every gradient is as without."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from colaworld.adapters.system import ColaSystem
from colaworld.envs.demos import Clip
from colaworld.experiments.batches import Batch, collate
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.recipes import RECIPES
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.stages import StageModel
from colaworld.experiments.training import Data, LoopConfig, make_accelerator, train_stage

STAGE = StageConfig(steps=4, batch_size=2, shift=0)
DEEP = ("video", "inverse_dynamics", "forward_dynamics")


def system_of(recipe: str, **others) -> ColaSystem:
    torch.manual_seed(0)
    sizes = {"height": 32, "width": 32, "frame_skip": 5, "action_dim": 7, "render_profile": "lite"}
    system = build(PRESETS["nano"], recipe=recipe, **sizes, **others)
    nn.init.normal_(system.video.unembed.weight, std=0.1)
    nn.init.normal_(system.conditioner.out[-1].weight, std=0.1)
    system.model().latent_actions(system.codec.encode(batch_of(4).frames))
    return system


def batch_of(clips: int) -> Batch:
    torch.manual_seed(1)
    frames = torch.randint(256, (clips, 6, 3, 32, 32), dtype=torch.uint8)
    return Batch(frames, torch.randn(clips, 5, 5, 7), torch.randn(clips, 6, 3))


def gradients(system: ColaSystem, stage: str) -> dict[str, torch.Tensor]:
    model = StageModel(system, RECIPES[system.info.recipe].turn(stage), STAGE).train()
    model(batch_of(2), 0, torch.Generator().manual_seed(0))[0].backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


CASES = [("cola", "warmup"), ("cola", "joint"), ("two_stage", "lam"), ("no_grad_to_world", "joint")]


@pytest.mark.parametrize(("recipe", "stage"), CASES)
def test_every_gradient_is_as_without(recipe, stage):
    plain, saving = system_of(recipe), system_of(recipe)
    saving.enable_gradient_checkpointing()
    passes, read = [], saving.inverse_dynamics.blocks[0]
    read.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    expected, found = gradients(plain, stage), gradients(saving, stage)
    assert len(passes) == 2  # once forward, once more on the way back
    assert any("inverse_dynamics" in name for name in found)
    torch.testing.assert_close(found, expected)


def test_without_gradients_nothing_is_computed_twice():
    system = system_of("cola")
    system.enable_gradient_checkpointing()
    system.inverse_dynamics._gradient_checkpointing_func = None
    with torch.no_grad():
        system.inverse_dynamics(torch.randn(1, 3, *system.codec.latent_shape))


class Clips:
    """Two made-up clips."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Clip:
        return Clip(**{name: value[index].numpy() for name, value in vars(batch_of(2)).items()})


@pytest.mark.parametrize("on", [True, False])
def test_the_flag_is_for_all_parts_that_are_deep(tmp_path, on):
    system, clips = system_of("two_stage"), Clips()
    watched = collate([clips[0], clips[1]])
    loop = LoopConfig(gradient_checkpointing=on)
    train_stage(
        make_accelerator(tmp_path, loop, []),
        system,
        "lam",
        replace(STAGE, steps=1),
        loop,
        Data(train=clips, watched_train=watched, held_out=watched),
        tmp_path,
        steps_before=0,
    )
    assert [system.parts()[name].gradient_checkpointing for name in DEEP] == [on] * 3
