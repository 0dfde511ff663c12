"""Evaluating finished cells again, without training: ``reproduce.py --reevaluate``.

A measure that was added later, or a network that was not at hand, then needs no new runs, as long as their folders are
there. What a cell has of its training (flags, curves, budget, who made it) stays as it is; ``evaluated_by`` in its
evaluation says which code measured it again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from colaworld.adapters.system import ColaSystem, load_system
from colaworld.envs.demos import ClipDataset, starter_path
from colaworld.experiments.evaluation import CODEC, PLANNING, Evaluation
from colaworld.experiments.provenance import git_revision, versions
from colaworld.experiments.reproduce_cells import Cell, as_arguments
from colaworld.experiments.reproduce_runs import locked, unfit
from colaworld.experiments.reproduce_store import EVALUATION_DIGITS, CellStore, StoredCell, rounded
from colaworld.experiments.train_config import TrainConfig

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
            config = tyro.cli(TrainConfig, args=[*as_arguments(cell.flags(store.scale)), *paths, "--out", str(folder)])
            report = (measure or measured)(
                config, load_system(folder / "system"), folder, missing if only_missing else None
            )
            by = {"versions": versions(), "revision": git_revision(), "measured": sorted(report)}
            again = rounded({**report, "evaluated_by": by}, EVALUATION_DIGITS)
            stored = replace(stored, evaluation={**stored.evaluation, **again})
            store.write(stored)
        ended(stored, f"evaluated again: {', '.join(missing) if only_missing else 'everything'}")


def measured(config: TrainConfig, system: ColaSystem, folder: Path, keys: Sequence[str] | None) -> dict[str, Any]:
    """What the end of the training that ``config`` describes would say of ``system`` now, or of ``ADDED`` ``keys``."""
    sources = config.data or (starter_path(),)
    train = ClipDataset(sources, length=config.clip, split="train", options=config.source)
    held_out = ClipDataset(sources, length=config.clip, split="validation", options=config.source)
    evaluation = Evaluation(train, held_out, config.evaluation, config.held_out, config.video)
    if keys is None:
        return evaluation.finished(system, folder)
    return {key: {PLANNING: evaluation.plans, CODEC: evaluation.codec}[key](system) for key in keys}
