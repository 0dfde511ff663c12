"""Presets: those that trained keep their flags, the paper's says the paper's, and what they lack is said."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from colaworld.adapters import SHIPPED_PRESET
from colaworld.adapters.system import staged
from colaworld.adapters.world import ColaWorld
from colaworld.experiments.goal_settings import LiberoPrior
from colaworld.experiments.presets import PRESETS, PresetName, build
from colaworld.experiments.train_config import TrainConfig, binding_flags, named_preset, preset_defaults
from colaworld.planning.cem import CEM
from colaworld.planning.mpc import MPC, MPCConfig
from colaworld.planning.objectives import PixelGoal

SIZES = {"frame_skip": 5, "action_dim": 7, "render_profile": "lite"}


def meta(name: str, **others):
    preset = PRESETS[name]
    with torch.device("meta"):
        return build(preset, height=preset.pixels, width=preset.pixels, **(SIZES | others))


def millions(part: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in part.parameters()) / 1e6


def in_all(system) -> float:
    """Millions of parameters of all parts: also those that only help in training."""
    return sum(millions(part) for part in system.parts().values())


@pytest.mark.parametrize("name", ["tiny", "small", "nano"])
def test_presets_of_before_have_the_flags_of_before(name):
    assert preset_defaults(name) == TrainConfig(preset=name)
    assert "flags" not in binding_flags(TrainConfig(preset=name))


@pytest.mark.parametrize("name", ["opensora", "wan", "wan4"])
def test_the_papers_recipe(name):
    config = preset_defaults(name)
    assert (config.warmup.steps, config.joint.steps) == (8_000, 52_000) and PRESETS[name].pixels == 256
    for stage in (config.warmup, config.joint):
        assert (stage.learning_rate, stage.learning_rate_warmup, stage.batch_size) == (7.5e-5, 2000, 128)
        assert stage.imagined == 0.0
    assert config.flow.source == "noise" and config.flow.weight == 1.0 and config.adapter_snap
    assert config.run_stages() == ("warmup", "joint", "adapter")


def test_the_published_sizes_on_the_meta_device():
    opensora = meta("opensora", clip=preset_defaults("opensora").clip)
    assert round(millions(opensora.video)) == 904
    assert 72.0 < millions(opensora.conditioner) < 75.0  # the paper: 74 M
    assert opensora.model().compressed.used(14) == 14 and opensora.codec.latent_shape == (4, 32, 32)
    wan = meta("wan")
    assert wan.video.latent_shape == (16, 32, 32) and wan.video.config.depth == 30
    wan4 = meta("wan4", clip=preset_defaults("wan4").clip)
    assert wan4.codec.latent_shape == (192, 32, 32) and wan4.video.latent_shape == wan.video.latent_shape
    assert wan4.model().compressed.latents_of(14) == 5
    assert all(part.is_meta for each in (opensora, wan, wan4) for part in each.video.parameters())


def test_times_are_moved_as_opensora_does_by_the_clips_size_and_nowhere_else():
    for name in ("tiny", "small", "base", "wan", "wan4", "nano", "nano_wan", "nano_wan4"):
        assert PRESETS[name].flow.ratio == preset_defaults(name).flow.ratio == 1.0
    flow = preset_defaults("opensora").flow
    assert flow.ratio is None
    # 14 frames are 4 latents; OpenSora's base is one latent of 512x512.
    for pixels, clip, ratio in ((256, 14, 1.0), (64, 14, 0.25), (64, 10, 3**0.5 / 8)):
        system = build(
            PRESETS["nano_opensora"], height=pixels, width=pixels, clip=clip, flow=replace(flow, weight=3.0), **SIZES
        )
        assert system.info.flow == replace(flow, weight=3.0, ratio=system.info.flow.ratio)
        assert system.info.flow.ratio == pytest.approx(ratio)
        assert system.model().flow is system.info.flow
    assert system.info.flow.of_clips(512, 512, 9) == system.info.flow  # what a system was trained with stays


def test_base_is_larger_than_small_and_made_for_larger_frames():
    assert 100.0 < in_all(meta("base")) < 400.0
    assert meta("base").codec.latent_shape == (8, 16, 16)


def test_small_plans_on_a_cpu():
    torch.manual_seed(0)
    frame = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    planner = MPC(
        ColaWorld(staged(build(PRESETS["small"], height=64, width=64, **SIZES), "adapter")),
        CEM(samples=8, iterations=1, elite_fraction=0.25),
        PixelGoal(),
        prior=LiberoPrior().prior(),
        config=MPCConfig(horizon=4),
    )
    planner.reset(frame, seed=0)
    planner.act(frame)
    assert planner.act(frame).shape == (7,) and planner.last_plan.imagined.shape[0] == 4


@pytest.mark.parametrize(
    "flags",
    [
        {"recipe": "cola", "action_head": True},
        {"recipe": "two_stage"},
        {"recipe": "two_stage", "lam_output": "pixel", "history": 2, "action_head": True},
        {"recipe": "real_actions"},
    ],
)
def test_small_has_at_most_7_million_parameters_most_of_them_the_video_models(flags):
    small = meta("small", **flags)
    assert in_all(small) <= 7.0 and millions(small.video) > 0.6 * in_all(small)
    assert 1.9 * millions(meta("tiny").video) < millions(small.video)


@pytest.mark.parametrize(
    ("flags", "said"), [({"from_scratch": True}, "--from-scratch"), ({"stages": ("codec",)}, "--stages codec")]
)
def test_a_published_codec_is_not_trained(flags, said):
    with pytest.raises(ValueError, match=f"{said}: the codec of preset 'opensora' is not trained here.*--init"):
        replace(preset_defaults("opensora"), **flags)


def test_the_preset_is_read_before_the_other_flags():
    assert set(get_args(PresetName)) == set(PRESETS)
    assert named_preset(["--out", "x", "--preset", "opensora", "--clip", "14"]) == "opensora"
    assert named_preset(["--preset=base"]) == "base"
    assert named_preset(["--clip", "9"]) == named_preset(["--preset", "huge"]) == SHIPPED_PRESET
