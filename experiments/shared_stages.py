"""Runs that differ in their adapter alone share what comes before it (``train_world_model.py --share FOLDER``).

The first of them leaves what its run folder holds before the adapter stage in ``FOLDER/<digest of the flags that matter
until then>``; the others begin with a copy of it, and come to the weights that they would have come to by themselves.
Seconds and steps in their ``budget.json`` are those of the run that spent them.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

from colaworld.experiments.budget import BUDGET
from colaworld.experiments.evaluation import BEFORE
from colaworld.experiments.recipes import RECIPES
from colaworld.experiments.train_config import TrainConfig, binding_flags

KEPT = ("metrics.jsonl", BUDGET, BEFORE, "system")
"""What a run folder holds before the adapter stage, but for its flags; the system comes last, as in training."""
STAGE_FLAGS = ("adapter", "adapter_fit", "stored_as")
ADAPTER_FLAGS = ("adapter_kind", "adapter_context", "adapter_snap", "label_fraction")


def shared_folder(config: TrainConfig) -> Path | None:
    """Where the run shares what comes before its adapter stage; None for one that shares nothing. A recipe that is
    conditioned on real actions has its adapter from the first step on."""
    if config.share is None or "adapter" not in config.run_stages():
        return None
    free = set(STAGE_FLAGS)
    if all(turn.reads != "actions" for turn in RECIPES[config.recipe].turns):
        free |= set(ADAPTER_FLAGS)
    flags = {key: value for key, value in binding_flags(config).items() if key not in free}
    return config.share / hashlib.sha256(json.dumps(flags, sort_keys=True).encode()).hexdigest()[:16]


def begin_shared(config: TrainConfig) -> bool:
    """Fill a run folder that has not begun with what another run shared; False when there is nothing to take, or
    something of its own."""
    source = shared_folder(config)
    if source is None or not source.is_dir() or any((config.out / name).exists() for name in KEPT):
        return False
    config.out.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        _copy(source / name, config.out / name)
    return True


def share(config: TrainConfig) -> None:
    """Leave what the run folder holds for others, once and whole."""
    target = shared_folder(config)
    if target is None or target.is_dir():
        return
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in KEPT:
        _copy(config.out / name, partial / name)
    try:
        os.replace(partial, target)
    except OSError:  # another run was first, with the same
        shutil.rmtree(partial)


def _copy(source: Path, target: Path) -> None:
    """A file or folder, under its name only when it is whole."""
    partial = target.with_name(f"{target.name}.copied")
    if source.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
    else:
        shutil.copy2(source, partial)
    os.replace(partial, target)
