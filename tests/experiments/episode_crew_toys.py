"""Players for ``test_episode_crew.py``, in a module of their own because workers have to import them."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from colaworld.experiments.goal_tasks import GoalInstance


class Toy(NamedTuple):
    """An episode of nothing: ``kind`` says what happens, ``folder`` is where it leaves traces."""

    number: int
    kind: str = "play"
    folder: str = ""

    @property
    def name(self) -> str:
        return f"toy {self.number}"

    @property
    def scene(self) -> str:
        return f"scene {self.number % 2}"


def make_player(folder: str = "", birth: str = "") -> Callable[[Toy], dict[str, Any]]:
    """Players by ``birth``: one that dies while it gets ready, one that cannot be made, or a sound one."""
    if folder:
        (Path(folder) / f"worker_{os.getpid()}").touch()
    if birth == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if birth == "fails":
        raise FileNotFoundError("there are no weights")
    return play


def play(toy: Toy) -> dict[str, Any]:
    """A result that depends on the episode alone, and who made it."""
    mark = Path(toy.folder) / f"began_{toy.number}"
    if toy.kind == "poison" or (toy.kind == "dies once" and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if toy.kind == "error":
        raise FloatingPointError("all 32 candidates are NaN")
    if toy.kind == "long":
        mark.touch()
        time.sleep(600)
    value = float(np.random.default_rng(toy.number).normal())
    return {"number": toy.number, "value": value, "pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}


class SpotJob(NamedTuple):
    """As the evaluation's."""

    instance: GoalInstance
    row: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.instance.category} {self.instance.index}, {self.row}, seed {self.seed}"

    @property
    def scene(self) -> str:
        return self.instance.scene


def make_spot_player() -> Callable[[SpotJob], dict[str, Any]]:
    """Plans in the spot tasks of ``conftest.py`` with the evaluation's policies."""
    from conftest import SpotTasks, SpotWorld

    from colaworld.experiments.goal_episode import run_episode
    from colaworld.experiments.goal_settings import EvalConfig
    from colaworld.experiments.planning_world import LoadedWorld
    from colaworld.experiments.episode_player import episode_seed, make_policies

    tasks = SpotTasks()
    config = EvalConfig(samples=16, iterations=2, horizon=3, max_steps=6, rows=("planner", "random", "expert"))
    policies = make_policies(config, tasks, LoadedWorld(world=SpotWorld(), checkpoint="weights"))

    def play_spot(job: SpotJob) -> dict[str, Any]:
        policy = policies[job.row](job.instance)
        outcome, _ = run_episode(tasks.open(job.instance), policy, seed=episode_seed(job), max_steps=6)
        return {"actions": outcome.actions, "best_distance": outcome.best_distance, "success": outcome.success}

    return play_spot
