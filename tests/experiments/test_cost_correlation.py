"""Rank correlations with planted answers on toy tasks, the log that they come from, and plans played in LIBERO."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from colaworld.envs.manifest import load_manifest
from colaworld.experiments import plan_outcomes
from colaworld.experiments.correlation_table import correlations, table_of
from colaworld.experiments.cost_correlation import (
    CorrelationConfig,
    check_development,
    check_fits,
    correlate,
    cost_correlation,
)
from colaworld.experiments.goal_costs import Cost, unlearned_costs
from colaworld.experiments.goal_settings import LiberoPrior
from colaworld.experiments.goal_tasks import GoalInstance
from colaworld.experiments.plan_outcomes import LiberoSimulation, Played, Situation, draw_plans
from colaworld.experiments.planning_world import LoadedWorld
from colaworld.planning.objectives import LatentGoal


class SpotSimulation:
    """Toy tasks really played."""

    def __init__(self, tasks) -> None:
        self.tasks, self.played = tasks, 0

    def begin(self, instance: GoalInstance, *, context: int, horizon: int) -> Situation:
        env = self.tasks.open(instance)
        observation, info = env.reset()
        first = observation["agentview"]
        expert, actions = self.tasks.expert(instance), []
        place = info["place"]
        for _ in range(horizon):
            actions.append(expert({"place": place}))
            place = place + 2 * actions[-1][:2]
        return Situation(
            frames=frames_of([first] * context),
            actions=torch.zeros(context - 1, 7),
            goal=frames_of([observation["goal"]])[0],
            expert=torch.tensor(np.stack(actions), dtype=torch.float32),
            state=env,
        )

    def play(self, instance: GoalInstance, situation: Situation, actions: torch.Tensor) -> Played:
        self.played += 1
        pictures, distances = [], []
        for sequence in actions.numpy():
            situation.state.reset()
            seen = [situation.state.step(action) for action in sequence]
            pictures.append(frames_of([each[0]["agentview"] for each in seen]))
            distances.append([each[-1]["distance"] for each in seen])
        return Played(frames=torch.stack(pictures), distances=torch.tensor(distances))


def frames_of(pictures) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Planted:
    """``sign`` times the latent distance; 0 is a cost that says nothing."""

    sign: float

    def target(self, world, goal):
        return LatentGoal().target(world, goal)

    def __call__(self, world, imagined, target):
        return self.sign * LatentGoal(last=1)(world, imagined, target)


PLANTED = {name: Cost(objective=Planted(sign)) for name, sign in (("right", 1.0), ("wrong", -1.0), ("mute", 0.0))}


def run(tmp_path: Path, tasks, world, costs=PLANTED, simulation=None, **changes) -> list[dict]:
    config = CorrelationConfig(**{"manifest": "toy", "plans": 12, "horizon": 3, "out": tmp_path, **changes})
    simulation = simulation or SpotSimulation(tasks)
    path = correlate(config, tasks, world, {"reach": costs, "push": costs}, simulation, {"manifest": "toy"})
    return json.loads(path.read_text())["table"]


def entry(table: list[dict], category: str, cost: str, future: str) -> dict:
    return next(each for each in table if (each["category"], each["cost"], each["future"]) == (category, cost, future))


def test_planted_costs_get_their_planted_correlations(spot_tasks, spot_world, tmp_path, capsys) -> None:
    table = run(tmp_path, spot_tasks(), spot_world(), {**PLANTED, **unlearned_costs(last=1, blur=2.0)})
    for future in ("imagined", "true"):
        for cost, low, high in (("right", 0.97, 1.0), ("wrong", -1.0, -0.97), ("mute", 0.0, 0.0)):
            found = entry(table, "all", cost, future)
            assert low <= found["correlation"]["estimate"] <= high, (future, cost)
            assert found["instances"] == 6 and found["undecided"] == 0
        assert entry(table, "reach", "pixel", future)["correlation"]["estimate"] > 0.8
    right, wrong = (entry(table, "all", cost, "imagined") for cost in ("right", "wrong"))
    assert right["chosen"] == pytest.approx(right["best"], abs=0.003)
    assert right["best"] < right["mean"] < wrong["chosen"]
    mute = entry(table, "all", "mute", "imagined")
    assert mute["chosen"] == pytest.approx(mute["mean"]), "what knows nothing chooses no plan, nor the first"
    assert right["model_error"]["estimate"] == pytest.approx(0.0, abs=0.02)
    interval = right["correlation"]
    assert interval["low"] <= interval["estimate"] <= interval["high"] and interval["count"] == 6
    printed = capsys.readouterr().out
    assert "rank correlation" in printed and "pixel, blurred" in printed


def test_what_the_world_gets_wrong_is_told_from_what_the_cost_does(spot_tasks, spot_world, tmp_path) -> None:
    class Backwards(spot_world):
        def imagine(self, state, actions, generator):
            return super().imagine(state, -actions, generator)

    table = run(tmp_path, spot_tasks(), Backwards())
    assert entry(table, "all", "right", "imagined")["correlation"]["estimate"] < 0
    assert entry(table, "all", "right", "true")["correlation"]["estimate"] > 0.97
    assert entry(table, "all", "right", "imagined")["model_error"]["low"] > 0.5


def test_costs_of_pixels_see_the_pictures_themselves(spot_tasks, spot_world, tmp_path) -> None:
    class Blind(spot_world):
        def decode(self, latents):
            return torch.zeros(len(latents), 3, 16, 16)

    table = run(tmp_path, spot_tasks(), Blind(), unlearned_costs(last=1, blur=2.0))
    assert entry(table, "all", "pixel", "imagined")["correlation"]["estimate"] == 0.0
    assert entry(table, "all", "pixel", "true")["correlation"]["estimate"] > 0.8


def test_a_cost_that_is_not_finite_ranks_last_and_stops_nothing(spot_tasks, spot_world, tmp_path) -> None:
    class Spoiled(Planted):
        def __call__(self, world, imagined, target):
            costs = super().__call__(world, imagined, target)
            return torch.where(costs > costs.median(), torch.nan, costs)

    table = run(tmp_path, spot_tasks(), spot_world(), {"spoiled": Cost(objective=Spoiled(1.0))})
    assert 0.7 < entry(table, "all", "spoiled", "true")["correlation"]["estimate"] < 1
    line = json.loads((tmp_path / "episodes.jsonl").read_text().splitlines()[0])
    assert line["costs"]["spoiled"]["true"].count(None) == 6


def test_instances_that_decide_nothing_are_counted_apart(tmp_path) -> None:
    def record(index: int, outcomes: list[float], costs: list[float | None]) -> dict:
        return {
            "instance": index,
            "category": "push",
            "outcomes": {"final": outcomes},
            "costs": {"c": {"imagined": costs, "true": costs}},
        }

    still = record(1, [0.2, 0.2001, 0.2, 0.2], [1.0, 2.0, 3.0, 4.0])
    moved = record(0, [0.2, 0.1, 0.3, 0.25], [2.0, 1.0, 4.0, 3.0])
    (imagined, _) = correlations([moved, still], "final")
    assert (imagined["instances"], imagined["undecided"]) == (1, 1)
    assert imagined["correlation"] == {"estimate": pytest.approx(1.0), "count": 1}
    assert imagined["chosen"] == imagined["best"] == 0.1 and imagined["mean"] == pytest.approx(0.2125)
    nothing = correlations([still], "final")
    assert "correlation" not in nothing[0] and "0 (+1)" in table_of(nothing)


def test_it_goes_on_by_instance_and_does_not_mix(spot_tasks, spot_world, tmp_path) -> None:
    whole = run(tmp_path / "whole", spot_tasks(), spot_world())

    class Dies(SpotSimulation):
        def play(self, instance, situation, actions):
            if self.played == 2:
                raise KeyboardInterrupt
            return super().play(instance, situation, actions)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", spot_tasks(), spot_world(), simulation=Dies(spot_tasks()))
    again = SpotSimulation(spot_tasks())
    assert run(tmp_path / "broken", spot_tasks(), spot_world(), simulation=again) == whole and again.played == 4
    for change, words in (({"horizon": 2}, "horizon = 3"), ({"prior": LiberoPrior(beta=0.1)}, "prior.beta = 0.5")):
        with pytest.raises(ValueError, match=f"{words}.*name another --out"):
            run(tmp_path / "broken", spot_tasks(), spot_world(), **change)


def test_plans_are_noise_and_mixtures_with_the_expert() -> None:
    prior, expert = LiberoPrior().prior(), torch.full((4, 7), 0.9)

    def plans(share: float, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return draw_plans(prior, expert, 200, expert_share=share, generator=generator)

    noise, half = plans(0.0), plans(0.5)
    assert noise.shape == (200, 4, 7) and half.abs().max() <= 1
    assert torch.equal(half[100:], noise[100:]) and (noise[..., 3:6] == 0).all()
    near = (half[:100] - expert).square().mean() / (noise[:100] - expert).square().mean()
    assert 0.2 < near < 0.5, "a third, weights being uniform"
    assert torch.equal(plans(0.5), half) and not torch.equal(plans(0.5, seed=1), half)


def test_instances_that_results_are_reported_on_are_refused(tmp_path) -> None:
    shipped = load_manifest("libero_goals_v0")
    with pytest.raises(ValueError, match="instance 0 is one of the shipped libero_goals_v0"):
        cost_correlation(CorrelationConfig(manifest="libero_goals_v0", out=tmp_path))
    renamed = replace(shipped, name="dev", goal_frames=255 - shipped.goal_frames)
    with pytest.raises(ValueError, match="manifest dev: instance 0"):
        check_development(renamed)
    check_development(replace(renamed, starts=tuple(start + 1e-3 for start in shipped.starts)))
    check_development(load_manifest("libero_goals_dev_v1"))


def test_bad_settings_are_named(spot_world) -> None:
    for change, words in (({"plans": 2}, "--plans .* got 2"), ({"horizon": 0}, "--horizon"), ({"last": 0}, "--last")):
        with pytest.raises(ValueError, match=words):
            CorrelationConfig(manifest="x", **change)
    with pytest.raises(ValueError, match="--expert-share.*1.5"):
        CorrelationConfig(manifest="x", expert_share=1.5)
    manifest = load_manifest("libero_goals_v0")
    with pytest.raises(ValueError, match="height 32, the manifest's is 64"):
        check_fits(manifest, LoadedWorld(world=spot_world(), checkpoint="", height=32), 4)
    with pytest.raises(ValueError, match="--horizon 11 is beyond the world's 10"):
        check_fits(manifest, LoadedWorld(world=spot_world(), checkpoint=""), 11)
    with pytest.raises(ValueError, match="workers"):
        LiberoSimulation(manifest, workers=0)


class Inline:
    """A pool of no processes: the work is done where it is asked for."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def submit(self, function, *arguments):
        result = function(*arguments)
        return SimpleNamespace(result=lambda: result)

    def shutdown(self, cancel_futures: bool) -> None:
        self.workers = 0


def test_in_libero_what_is_played_is_what_happens(reaching_env, monkeypatch) -> None:
    def the_one_at_hand(**scene):
        assert scene == reaching_env.scene_settings
        return reaching_env.libero

    reaching_env.reset(options={"instance": 0})
    monkeypatch.setattr(plan_outcomes, "new_pool", Inline)
    monkeypatch.setattr(plan_outcomes, "only_environment", the_one_at_hand)
    instance = GoalInstance(index=0, category="reach", scene=reaching_env.manifest.instances[0].scene)
    simulation = LiberoSimulation(reaching_env.manifest, workers=2)
    try:
        situation = simulation.begin(instance, context=2, horizon=3)
        noise = 0.5 * torch.randn(1, 3, 7, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
        plans = torch.cat([situation.expert[None], noise])
        played = simulation.play(instance, situation, plans)
    finally:
        simulation.close()
    observation, info = reaching_env.reset(options={"instance": 0})
    assert torch.equal(situation.goal, frames_of([observation["goal"]])[0])
    views = [observation["agentview"], reaching_env.step(np.zeros(7, np.float32))[0]["agentview"]]
    assert torch.equal(situation.frames, frames_of(views))
    state = reaching_env.get_state()
    for number, plan in enumerate(plans.numpy()):
        reaching_env.restore_state(state)
        for step, action in enumerate(plan):
            observation, *_, after = reaching_env.step(action)
            assert torch.equal(played.frames[number, step], frames_of([observation["agentview"]])[0])
            assert float(played.distances[number, step]) == pytest.approx(after["distance"], abs=1e-6)
    assert played.distances[0, -1] < 0.5 * info["distance"], "the expert goes towards the goal"
