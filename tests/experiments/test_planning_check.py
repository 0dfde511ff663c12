"""Planning on held-out clips: who knows the law plans where the arm went, who does not plans anywhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor

from colaworld.adapters.system import ColaSystem
from colaworld.experiments import planning_check as check
from colaworld.experiments.batches import Batch
from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.planning_check import PlanningCheckConfig, moving_clips, other_goals, planning_check
from colaworld.experiments.presets import PRESETS, build

SIZE = 16
FEW = PlanningCheckConfig(clips=8, samples=24, blur=1.0)


class Spots:
    """Stands in for a system's world: the latent is the place ``(1, 1, 2)`` of a bright spot, its engine is itself.

    Actions move the spot by ``gain`` pixels, y and x of the gripper's command by two.
    """

    def __init__(self, gain: float) -> None:
        self.gain, self.imagination = gain, self

    action_dim, max_horizon = 7, 10

    def encode(self, frames: Tensor) -> Tensor:
        mass, axis = frames.float().mean(dim=1) ** 8, torch.arange(SIZE, dtype=torch.float32)
        total = mass.sum(dim=(1, 2))
        rows, columns = (mass.sum(dim=dim) @ axis for dim in (2, 1))
        return rearrange(torch.stack([rows, columns], dim=1) / total[:, None], "n xy -> n 1 1 xy")

    def decode(self, latents: Tensor) -> Tensor:
        return paint(latents.reshape(-1, 2))

    def latent_actions(self, chunks: Tensor, context: Tensor) -> Tensor:
        return chunks.mean(dim=2)

    def adapted(self, chunks: Tensor) -> Tensor:
        return chunks.mean(dim=2)

    def start(self, latents: Tensor, actions: Tensor) -> Tensor:
        self.history = actions
        return latents[0, -1]

    def roll_out(self, state: Tensor, actions: Tensor, horizon: int) -> Tensor:
        return self.imagine(state, actions, None)

    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        return state + self.gain * rearrange(actions[..., :2].cumsum(dim=1), "s h xy -> s h 1 1 xy")


def paint(places: Tensor) -> Tensor:
    axis = torch.arange(SIZE, dtype=torch.float32)
    row, column = (torch.exp(-((axis - places[:, k : k + 1]) ** 2) / 20) for k in (0, 1))
    return torch.einsum("n y, n x -> n y x", row, column)[:, None].expand(-1, 3, -1, -1)


def walks(count: int = 8, frames: int = 6, speed: float = 0.6, skip: int = 5) -> Batch:
    """Each spot walks one way: two pixels and ten centimetres for an action of 1."""
    angles = torch.arange(count) * 2.4
    actions = torch.zeros(count, frames - 1, skip, 7)
    way = speed * torch.stack([angles.cos(), angles.sin()], dim=1)
    actions[..., :2] = rearrange(way, "n xy -> n 1 1 xy")
    places = torch.cat([torch.zeros(count, 1, 2), actions.mean(dim=2)[..., :2].cumsum(dim=1)], dim=1)
    pictures = rearrange(paint(rearrange(7.5 + 2 * places, "n t xy -> (n t) xy")), "(n t) ... -> n t ...", n=count)
    ee_pos = torch.cat([0.1 * places, torch.zeros(count, frames, 1)], dim=-1)
    return Batch((pictures * 255).round().to(torch.uint8), actions, ee_pos)


@pytest.fixture(scope="module")
def system() -> ColaSystem:
    made = build(PRESETS["nano"], height=32, width=32, frame_skip=5, action_dim=7, render_profile="lite")
    return replace(made, info=replace(made.info, stage="adapter"))


def looked_at(system: ColaSystem, world: Spots, monkeypatch: pytest.MonkeyPatch, batch: Batch, **flags) -> dict:
    monkeypatch.setattr(check, "ColaWorld", lambda system: world)
    return planning_check(system, batch, ["a"] * len(batch.frames), replace(FEW, **flags))


def test_a_model_that_knows_the_law_plans_where_the_arm_went(
    system: ColaSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = looked_at(system, Spots(2.0), monkeypatch, walks())
    assert found["clips"] == 8 and all(len(found[name]) == 8 for name in check.MEASURED)
    # z has no cost and stays noise: it alone keeps the cosine from 1.
    assert np.mean(found["cosine"]) > 0.75 > 0.3 > np.mean(found["cosine_by_chance"])
    assert max(found["recorded_to_rest"]) < 1 and max(found["cost_to_rest"]) < 1
    rushed = np.mean(found["cost_to_recorded"])  # all frames count, so it pays to be there sooner than the arm was
    assert 0.2 < rushed < 1


def test_a_model_that_has_it_backwards_plans_the_other_way(system: ColaSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked_at(system, Spots(-2.0), monkeypatch, walks())
    assert np.mean(found["cosine"]) < -0.75
    assert max(found["cost_to_rest"]) < 1 < min(found["recorded_to_rest"]), "its costs alone would not tell"


def test_a_model_that_ignores_actions_plans_by_chance(system: ColaSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked_at(system, Spots(0.0), monkeypatch, walks())
    assert found["cosine"] == found["cosine_by_chance"], "equal draws, equal plans"
    assert found["cost_to_rest"] == pytest.approx([1.0] * 8) == found["recorded_to_rest"]


def test_the_search_begins_after_the_recorded_past(system: ColaSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    world, clips = Spots(2.0), walks()
    looked_at(system, world, monkeypatch, clips, clips=2)
    assert torch.equal(world.history[0, 0], clips.actions[1, 0].mean(dim=0)), "of the last clip that was looked at"


def test_numbers_depend_on_the_seed_alone(system: ColaSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again, other = (looked_at(system, Spots(2.0), monkeypatch, walks(), seed=seed) for seed in (0, 0, 1))
    assert first == again and first["cosine"] != other["cosine"] and first["about"] != other["about"]
    fewer = looked_at(system, Spots(2.0), monkeypatch, walks(), clips=4)
    assert fewer["cosine"] == first["cosine"][:4] and fewer["clips"] == 4


def test_clips_that_stand_still_or_say_too_little_are_left_out() -> None:
    clips = walks(6)
    clips.ee_pos[0] = 0
    clips.ee_pos[1, 5] = clips.ee_pos[1, 1] + torch.tensor([0.0, 0.0, 0.019])
    clips.ee_pos[2] = torch.nan
    clips.actions[3, 2] = torch.nan
    assert moving_clips(clips, FEW) == [4, 5]
    assert moving_clips(clips, replace(FEW, ahead=6)) == []
    assert moving_clips(clips, replace(FEW, clips=1)) == [4]


def test_another_goal_is_of_the_same_scene_where_there_is_one() -> None:
    scenes = ["a", "b", "b", "a", "b", "a"]
    assert other_goals([0, 2, 3, 5], scenes, list("uvwxyz")) == [3, 3, 5, 0]
    assert other_goals([0, 2, 3, 5], scenes, list("uvwuyz")) == [5, 3, 5, 0]  # clips 0 and 3 are of one trajectory
    assert other_goals([0, 3], scenes, list("uvwuyz")) == [3, 0]  # where there is no other
    with pytest.raises(ValueError, match="needs 2 clips, got 1"):
        other_goals([1], ["a", "a"], ["u", "v"])


def test_what_cannot_plan_is_not_measured(system: ColaSystem) -> None:
    clips, scenes = walks(), ["a"] * 8
    assert planning_check(replace(system, adapter=None), clips, scenes, FEW) is None
    assert planning_check(system, clips, scenes, replace(FEW, clips=0)) is None
    joints = replace(system, info=replace(system.info, action_dim=6))
    assert planning_check(joints, clips, scenes, FEW) is None


def test_a_real_system_is_looked_at_as_it_is(system: ColaSystem) -> None:
    draw = np.random.default_rng(0)
    clips = walks(2)
    frames = torch.from_numpy(draw.integers(0, 255, (2, 6, 3, 32, 32), dtype=np.uint8))
    found = planning_check(system, Batch(frames, clips.actions, clips.ee_pos), ["a", "b"], replace(FEW, samples=4))
    assert found["clips"] == 2 and np.isfinite([found[name] for name in check.MEASURED]).all()
    assert not system.video.training


def test_the_cost_is_the_usual_one_of_pixels_and_bad_flags_are_named() -> None:
    pixels = EvalConfig().settled(distance=False)
    assert PlanningCheckConfig().objective().blur == pixels.blur and pixels.objective == "pixel"
    with pytest.raises(ValueError, match="ahead 1 or more .* got 24, 0, 0.02"):
        PlanningCheckConfig(ahead=0)
    with pytest.raises(ValueError, match="elite_fraction"):
        PlanningCheckConfig(elite_fraction=0.0)
