"""Episodes in the simulator with the systems that the grid has trained: ``reproduce.py --plan-manifest``.

``vp2_eval.py`` with its usual search (CEM, blurred pixels) plays the goals of a development manifest, the same for
every cell, with the system in a finished cell's run folder, whatever adapter that has. Episodes are kept there as they
end, so that a killed grid goes on; success and closest distance of each instance go into the cell.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from colaworld.envs.manifest import check_development, load_manifest
from colaworld.experiments.episode_log import read_lines
from colaworld.experiments.goal_row_settings import row_settings
from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.goal_tasks import GoalInstance, GoalTasks
from colaworld.experiments.planning_world import LoadedWorld
from colaworld.experiments.provenance import distinct, git_revision
from colaworld.experiments.reproduce_cells import Cell
from colaworld.experiments.reproduce_runs import available_cores, locked, unfit
from colaworld.experiments.reproduce_store import EVALUATION_DIGITS, CellStore, rounded

EPISODES = "episodes"
"""The key in a cell's evaluation, and the folder in its run folder."""
USUAL = EvalConfig(
    rows=("planner",), objective="pixel", samples=64, horizon=4, elite_fraction=0.1, pictures=False, inspect=False
)
Load = Callable[[EvalConfig], LoadedWorld]


class Played(NamedTuple):
    """What became of a cell's episodes."""

    said: str
    stored: bool = False
    failed: bool = False
    """An error; not when there is no run folder to play with."""


class Episodes:
    """The first ``per_category`` instances (None: all) of each category of ``tasks``, for one system after another.

    ``basis`` says on what the numbers of two systems depend besides these: numbers of another basis are not compared.
    """

    def __init__(
        self,
        tasks: GoalTasks,
        per_category: int | None = None,
        *,
        config: EvalConfig = USUAL,
        load: Load | None = None,
    ) -> None:
        from colaworld.experiments.vp2_eval import EPISODE_STEPS

        self.tasks, self.load = tasks, load
        self.chosen = first_of_each(tasks.instances, per_category)
        steps = config.max_steps or int(tasks.identity.get("episode_steps", EPISODE_STEPS))
        numbers = tuple(instance.index for instance in self.chosen)
        self.config = replace(config, instances=numbers, max_steps=steps)
        self.settings = row_settings(self.config, tasks.identity, None)["planner"]
        del self.settings["checkpoint"]
        self._digest = _digest(self.settings)
        self.basis = (
            f"{tasks.identity['manifest']}, instances {' '.join(map(str, sorted(numbers)))}, settings {self._digest}"
        )

    def __call__(self, folder: Path) -> dict[str, Any]:
        """Play what has not been played yet with the system in the run ``folder``; lists have one entry an instance.

        Raises what `vp2_eval.evaluate` raises: ValueError or FileNotFoundError for a system that cannot plan there,
        FloatingPointError when planning finds only NaN.
        """
        from colaworld.experiments.episode_player import world_of
        from colaworld.experiments.vp2_eval import evaluate

        out = folder / EPISODES / f"{self.tasks.identity['manifest']}-{self._digest}"
        config = replace(self.config, run=folder / "system", device=_device())
        load = self.load or world_of
        summary = json.loads(evaluate(config, self.tasks, lambda: load(config), out).read_text(encoding="utf-8"))
        records = {record["instance"]: record for record in read_lines(out / "episodes.jsonl")[0].values()}
        played = [records[instance.index] for instance in self.chosen]
        return {
            "basis": self.basis,
            "manifest": self.tasks.identity["manifest"],
            "manifest_sha256": self.tasks.identity.get("manifest_sha256"),
            "settings": self.settings,
            "checkpoint": summary["settings"]["planner"]["checkpoint"],
            "simulators": distinct(record.get("simulator") for record in played),
            "revision": git_revision(),
            "instance": [record["instance"] for record in played],
            "category": [record["category"] for record in played],
            "success": [int(record["success"]) for record in played],
            "closest": [record["best_distance"] for record in played],
            "start": [record["start_distance"] for record in played],
        }


def episodes_of(manifest: str, per_category: int | None, workers: int) -> Episodes:
    """Those of a shipped manifest's name or of a file, with this process's share of the cores. ValueError for one that
    results are reported on, and what `load_manifest` raises.
    """
    loaded = load_manifest(manifest)
    check_development(loaded)
    import torch

    from colaworld.experiments.libero_goal_tasks import LiberoGoalTasks

    torch.set_num_threads(max(1, available_cores() // workers))
    return Episodes(LiberoGoalTasks(loaded), per_category)


def play_cell(cell: Cell, store: CellStore, runs: Path, episodes: Episodes) -> Played | None:
    """Play the episodes of a finished cell with the system in its run folder and store them; None where the cell has
    not finished or has these episodes.
    """
    stored = store.get(cell)
    if stored is None or not stored.finished or _has(stored.evaluation, episodes.basis):
        return None
    folder = runs / cell.name
    if problem := unfit(folder, cell, stored):
        return Played(f"not played: {problem}")
    lock = locked(runs / f"{cell.name}.lock")
    if lock is None:
        return Played(f"not played: {folder} is in use")
    with lock:
        try:
            found = rounded(episodes(folder), EVALUATION_DIGITS)
        except (ValueError, OSError, FloatingPointError) as error:
            return Played(f"not played: {str(error).replace(f'{Path.cwd()}{os.sep}', '')}", failed=True)
        store.write(replace(stored, evaluation={**stored.evaluation, EPISODES: found}))
    return Played(f"played: {sum(found['success'])} of {len(found['success'])} goals reached", stored=True)


def first_of_each(instances: Sequence[GoalInstance], per_category: int | None) -> list[GoalInstance]:
    """The first ``per_category`` of each category, in the order of ``instances``."""
    taken: dict[str, int] = {}
    chosen = []
    for instance in instances:
        taken[instance.category] = taken.get(instance.category, 0) + 1
        if per_category is None or taken[instance.category] <= per_category:
            chosen.append(instance)
    return chosen


def _has(evaluation: Mapping[str, Any], basis: str) -> bool:
    return (evaluation.get(EPISODES) or {}).get("basis") == basis


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
