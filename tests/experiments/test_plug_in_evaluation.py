"""A world, a planner and an objective of somebody else's go through ``vp2_eval.py`` by the flags alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from colaworld.experiments.episode_player import world_of
from colaworld.experiments.examples import predictive_sampling
from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.plug_in import PlugInError, assemble
from colaworld.experiments.vp2_eval import evaluate, results_folder

SPOTS = '''
import torch

AXIS = torch.arange(16.0)


class Spots:
    """The toy task's law: a spot that the first two numbers of an action move by two pixels each."""

    action_dim, context_frames, max_horizon = 7, 1, 10
    render_profile, height, width = "lite", 16, 16

    def __init__(self, weights, short=0, gone=False):
        self.checkpoint, self.short, self.gone = weights, short, gone

    def encode(self, frames):
        mass = frames.float().mean(dim=1) ** 8 + 1e-6
        rows, columns = (mass.sum(dim=dim) @ AXIS for dim in (2, 1))
        return torch.stack([rows, columns], dim=1) / mass.sum(dim=(1, 2))[:, None]

    def decode(self, latents):
        row, column = (torch.exp(-((AXIS - latents[:, [number]]) ** 2) / 30) for number in (0, 1))
        return (row[:, :, None] * column[:, None])[:, None].repeat(1, 3, 1, 1)

    def start(self, frames, actions):
        return self.encode(frames[-1:])[0]

    def imagine(self, state, actions, generator):
        futures = state + 2 * actions[..., :2].cumsum(dim=1)
        if self.gone and len(actions) > 8:  # more than it is examined with
            futures[5] = torch.nan
        return futures[:, : actions.shape[1] - self.short]


class Nearness:
    def target(self, world, goal):
        return world.encode(goal[None])[0]

    def __call__(self, world, imagined, target):
        return (imagined - target).square().sum(dim=(1, 2))
'''


@pytest.fixture
def flags(tmp_path: Path) -> EvalConfig:
    """All three plugged in."""
    (tmp_path / "spots.py").write_text(SPOTS)
    (tmp_path / "weights").write_text("1")
    return EvalConfig(
        world=f"{tmp_path}/spots.py:Spots",
        world_kwargs=(f"weights={tmp_path}/weights",),
        planner=f"{predictive_sampling.__file__}:PredictiveSampling",
        objective=f"{tmp_path}/spots.py:Nearness",
        samples=64,
        iterations=3,
        rows=("planner", "random"),
        pictures=False,
    )


@pytest.fixture
def play(spot_tasks, tmp_path: Path):
    """Evaluates flags in a folder, as a new process would."""

    def played(config: EvalConfig, name: str = "out") -> dict:
        assemble.cache_clear()
        tasks = spot_tasks({"manifest": "abc", "render_profile": "lite", "height": 16, "width": 16})
        return json.loads(evaluate(config, tasks, lambda: world_of(config), tmp_path / name).read_text())

    return played


def test_all_three_together_reach_goals_and_are_remembered(flags: EvalConfig, play, capsys) -> None:
    summary = play(flags)
    reached = {entry["row"]: entry["successes"] for entry in summary["table"] if entry["category"] == "all"}
    assert reached["planner"] >= 5 > reached["random"]
    assert "planner (predictive_sampling.py:PredictiveSampling, spots.py:Spots, spots.py:Nearness)" in (
        capsys.readouterr().out
    )
    settings = summary["settings"]["planner"]
    assert settings["plugged_in"].keys() == {"world", "planner", "objective"}
    assert (settings["planner"], settings["objective"]) == (
        "predictive_sampling.py:PredictiveSampling",
        "spots.py:Nearness",
    )


def test_a_folder_goes_on_with_the_same_weights_only(flags: EvalConfig, play, tmp_path: Path) -> None:
    first = play(replace(flags, episodes=1))
    assert play(flags)["settings"] == first["settings"]
    (tmp_path / "weights").write_text("2")
    with pytest.raises(ValueError, match="checkpoint"):
        play(flags)


def test_what_cannot_be_planned_with_ends_before_an_episode(flags: EvalConfig, play, tmp_path: Path) -> None:
    short = replace(flags, world_kwargs=(*flags.world_kwargs, "short=1"))
    with pytest.raises(PlugInError, match=r"spots.py:Spots is no world: imagine.*shape \(3, 4, 2\), got \(3, 3, 2\)"):
        play(short)
    assert not (tmp_path / "out").exists()


def test_a_candidate_that_turns_nan_is_counted_and_planned_around(flags: EvalConfig, play, tmp_path: Path) -> None:
    play(replace(flags, world_kwargs=(*flags.world_kwargs, "gone=true"), rows=("planner",), instances=(0,)))
    (record,) = [json.loads(line) for line in (tmp_path / "out" / "episodes.jsonl").read_text().splitlines()]
    assert record["rejected_candidates"] == flags.iterations * len(record["plan_seconds"]) > 0
    assert record["success"]


def test_a_results_folder_is_named_without_the_folders_of_what_is_plugged_in(flags: EvalConfig) -> None:
    folder = results_folder(flags)
    assert folder.parent == Path("runs/vp2_eval")
    assert folder.name.startswith("predictive_sampling.py-PredictiveSampling-20")
    assert results_folder(replace(flags, out=Path("mine"))) == Path("mine")
