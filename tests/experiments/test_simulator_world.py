"""True rollouts as a world: what is imagined is what happens, and planning with it finds the way."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from colaworld.adapters import SHIPPED_PRESET
from colaworld.envs.expert_goals import privileged_cost
from colaworld.envs.manifest import load_manifest
from colaworld.experiments.goal_settings import EvalConfig, on_yardstick
from colaworld.experiments.simulator_world import YARDSTICK, SimulatorWorld
from colaworld.experiments.libero_goal_tasks import LiberoGoalTasks
from colaworld.experiments.state_goal import StateGoal
from colaworld.experiments.episode_player import world_of
from colaworld.experiments.planning_world import load_world, usual_goal_models
from colaworld.experiments.vp2_eval import evaluate
from colaworld.planning.imagined_cost import imagined_cost


def test_imagined_is_what_happens(reaching_env) -> None:
    reaching_env.reset(options={"instance": 0})
    libero = reaching_env.libero
    libero.advance(np.array([0.4, 0.2, -0.3, 0, 0, 0, 1.0]))
    actions = torch.empty(3, 2, 7).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    frame = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    now = libero.get_state()
    imagined = {}
    for sees in ("pixels", "state"):
        world = SimulatorWorld(sees=sees, workers=1)
        try:
            with pytest.raises(ValueError, match="look"):
                world.start(frame, torch.zeros(0, 7))
            world.look(reaching_env)
            imagined[sees] = world.imagine(world.start(frame, torch.zeros(0, 7)), actions, None)
            assert world.decode(imagined[sees][0]).shape == (2, 3, 64, 64)
        finally:
            world.close()
    np.testing.assert_array_equal(libero.get_state(), now, err_msg="the environment itself stays where it is")
    predicate = reaching_env.instance.predicate
    for candidate, sequence in enumerate(actions.numpy()):
        libero.restore_state(now, render=False)
        for step, action in enumerate(sequence):
            observation, *_, info = libero.step(action)
            seen = (imagined["pixels"][candidate, step] * 255).round().byte().permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(seen, observation["agentview"])
            cost = privileged_cost(libero.scene, predicate, info)
            assert float(imagined["state"][candidate, step, 0]) == pytest.approx(cost, abs=1e-6)


def test_the_state_goal_sums_what_the_world_says() -> None:
    class Costs:
        action_dim, max_horizon = 7, 5

        def imagine(self, state, actions, generator):
            return actions[..., :1].abs()

    actions = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0))
    for last, kept in ((None, actions), (2, actions[:, -2:])):
        cost = imagined_cost(Costs(), StateGoal(last=last), None, None)
        torch.testing.assert_close(cost(actions), kept[..., 0].abs().sum(1))


def test_the_yardstick_settings_replace_the_flags() -> None:
    manifest = load_manifest("libero_goals_v1")
    flags = EvalConfig(world="simulator", objective="state")
    config = on_yardstick(flags, manifest)
    assert (config.samples, config.iterations, config.horizon, config.replan_every) == (32, 2, 5, 2)
    assert config.objective == "state" and not config.shrink
    for change, words in (({"samples": 3}, "samples = 32"), ({"shrink": True}, "shrink"), ({"max_steps": 9}, "15 steps")):
        with pytest.raises(ValueError, match=f"yardstick of goal manifest libero_goals_v1 .*{words}.*--no-yardstick"):
            on_yardstick(replace(flags, **change), manifest)
    for broken in ({"colour": 1}, {"prior": {"foo": 1}}, {"planner": "zzz"}, {"horizon": 0}):
        with pytest.raises(ValueError, match="libero_goals_v1 has settings that this version does not know"):
            on_yardstick(flags, replace(manifest, yardstick={**YARDSTICK, **broken}))
    with pytest.raises(ValueError, match="yardstick of goal manifest libero_goals_v0 is missing"):
        on_yardstick(flags, load_manifest("libero_goals_v0"))


def test_worlds_and_objectives_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="--world learned has no --objective state"):
        EvalConfig(objective="state")
    with pytest.raises(ValueError, match="'pixels', 'latents' or 'state', got 'dreams'"):
        SimulatorWorld(sees="dreams", workers=1)
    with pytest.raises(ValueError, match="has a coder if it sees latents, and only then; it sees 'latents'"):
        SimulatorWorld(sees="latents", workers=1)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        SimulatorWorld(sees="state", workers=0)


class Halves:
    """A codec of which every latent can be foretold."""

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.float().mean((1, 2, 3))[:, None] / 2

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(latents), 3, 64, 64) * latents[:, :, None, None]


def test_latents_of_true_frames_are_the_codecs(reaching_env) -> None:
    reaching_env.reset(options={"instance": 0})
    actions = torch.empty(3, 2, 7).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    frame = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    imagined = {}
    for sees, coder in (("pixels", None), ("latents", Halves())):
        world = SimulatorWorld(sees=sees, workers=1, coder=coder)
        try:
            world.look(reaching_env)
            imagined[sees] = world.imagine(world.start(frame, torch.zeros(0, 7)), actions, None)
        finally:
            world.close()
    expected = 255 * imagined["pixels"].mean((2, 3, 4))[..., None] / 2
    assert imagined["latents"].shape == (3, 2, 1)
    torch.testing.assert_close(imagined["latents"], expected, atol=0.01, rtol=0)
    assert world.encode(frame + 4).item() == 2.0 and world.decode(torch.tensor([[0.25]])).mean() == 0.25


def planned(env, objective: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """An episode of a small search in true futures: its line, and what it says it depends on."""
    env.reset(options={"instance": 0})
    config = EvalConfig(
        world="simulator", objective=objective, yardstick=False, instances=(0,), rows=("planner",), samples=8,
        iterations=1, horizon=2, replan_every=2, max_steps=4, simulator_workers=2, pictures=False,
    )  # fmt: skip
    tasks = LiberoGoalTasks(env.manifest, max_steps=4, env=env)
    evaluate(config, tasks, lambda: world_of(config), folder)
    (line,) = (folder / "episodes.jsonl").read_text().splitlines()
    return json.loads(line), json.loads((folder / "run.json").read_text())["rows"]["planner"]


def test_true_rollouts_can_be_judged_by_a_learned_cost(reaching_env, tmp_path) -> None:
    """Through the codec and the goal models of a trained system, which the results are bound to."""
    record, settings = planned(reaching_env, "distance", tmp_path / "out")
    assert record["best_distance"] < record["start_distance"]
    shipped = load_world(goal_models=usual_goal_models(None, SHIPPED_PRESET))
    assert (settings["world"], settings["checkpoint"]) == ("simulator", shipped.checkpoint)
    assert settings["goal_models"]["distance"] == shipped.goal_hashes["distance"]


def test_an_evaluation_plans_with_true_rollouts(reaching_env, tmp_path) -> None:
    """Two processes, true futures, the simulator's own distance: even a small search gets nearer."""
    record, settings = planned(reaching_env, "state", tmp_path / "out")
    assert record["steps"] == 4 and len(record["plan_seconds"]) == 2, "no zero action first, a plan for every two steps"
    assert record["best_distance"] < record["start_distance"]
    assert (settings["world"], settings["checkpoint"], settings["objective"]) == ("simulator", "simulator", "state")
