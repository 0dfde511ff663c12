"""Evaluating finished cells again, without training: ``reproduce.py --reevaluate``.

A measure that was added later, or a network that was not at hand, then needs no new runs, as long as their folders are
there. What recipes are compared by is of the system before its adapter stage, which lies in what runs share; where that
is gone, those numbers stay as they were. What a cell has of its training (flags, curves, budget, who made it) stays
too; ``evaluated_by`` in its evaluation says which code measured what again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from colaworld.adapters.system import ColaSystem, load_system
from colaworld.envs.demos import ClipDataset, starter_path
from colaworld.experiments.evaluation import BEFORE, CODEC, PLANNING, Evaluation
from colaworld.experiments.provenance import git_revision, versions
from colaworld.experiments.reproduce_cells import Cell, as_arguments
from colaworld.experiments.reproduce_runs import SHARED, locked, unfit
from colaworld.experiments.reproduce_store import EVALUATION_DIGITS, CellStore, StoredCell, rounded
from colaworld.experiments.shared_stages import shared_folder
from colaworld.experiments.train_config import TrainConfig

BEFORE_KEYS = ("before_adapter", "leak", "probe", "transfer")
"""What an evaluation takes from the look before the adapter stage, where there was one."""
ADDED = (PLANNING, CODEC)
"""What was measured by no run at first, and can be of a trained system alone."""
Measured = Callable[[TrainConfig, ColaSystem, Path, Sequence[str] | None], dict[str, Any]]


def reevaluate(
    cells: Sequence[Cell],
    store: CellStore,
    runs: Path,
    paths: Sequence[str],
    *,
    only_missing: bool,
    ended: Callable[[StoredCell, str], None],
    measure: Measured | None = None,
) -> None:
    """Measure the finished ones of ``cells`` again, one after another, with the flags that they were trained with and
    ``paths`` (data, feature networks); ``ended`` is told of each what became of it.

    Each is stored as soon as it is measured. ``only_missing``: nothing but what the cell lacks is measured, what it has
    stays. A cell whose run folder in ``runs`` is missing, has no weights, or holds another training stays as it is.
    """
    for cell in cells:
        stored = store.get(cell)
        if stored is None or not stored.finished:
            continue
        missing = [key for key in ADDED if key not in stored.evaluation]
        if only_missing and not missing:
            ended(stored, "lacks nothing")
            continue
        folder = runs / cell.name
        problem = unfit(folder, cell, stored)
        lock = None if problem else locked(runs / f"{cell.name}.lock")
        if lock is None:
            ended(stored, f"not evaluated again: {problem or f'{folder} is in use'}")
            continue
        with lock:
            flags = (*as_arguments(cell.flags(store.scale)), *paths, "--share", str(runs / SHARED), "--out", str(folder))
            config = tyro.cli(TrainConfig, args=flags)
            report = (measure or measured)(
                config, load_system(folder / "system"), folder, missing if only_missing else None
            )
            by = {"versions": versions(), "revision": git_revision(), "measured": sorted(report)}
            again = rounded({**report, "evaluated_by": by}, EVALUATION_DIGITS)
            stored = replace(stored, evaluation={**stored.evaluation, **again})
            store.write(stored)
        ended(stored, f"evaluated again: {_said(report, missing if only_missing else None)}")


def _said(report: Mapping[str, Any], missing: Sequence[str] | None) -> str:
    if missing is not None:
        return ", ".join(missing)
    return "everything" if BEFORE_KEYS[0] in report else "everything but what was measured before the adapter stage"


def measured(config: TrainConfig, system: ColaSystem, folder: Path, keys: Sequence[str] | None) -> dict[str, Any]:
    """What the end of the training that ``config`` describes would say of ``system`` now, or of ``ADDED`` ``keys``."""
    sources = config.data or (starter_path(),)
    train = ClipDataset(sources, length=config.clip, split="train", options=config.source)
    held_out = ClipDataset(sources, length=config.clip, split="validation", options=config.source)
    evaluation = Evaluation(train, held_out, config.evaluation, config.held_out, config.video)
    if keys is None:
        shared = shared_folder(config)
        again = shared is not None and (shared / "system").is_dir()
        if again:
            evaluation.before_adapter(load_system(shared / "system"), folder)
        report = evaluation.finished(system, folder)
        taken = () if again or not (folder / BEFORE).is_file() else BEFORE_KEYS
        return {key: value for key, value in report.items() if key not in taken}
    return {key: {PLANNING: evaluation.plans, CODEC: evaluation.codec}[key](system) for key in keys}
