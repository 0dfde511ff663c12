"""Going on with a finished system in a run folder of its own: what distillation and training on rollouts share.

Both are trained by the loop of the adapter stage, resume, and sign the system that they leave with how it was made.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from colaworld.adapters.system import ColaSystem
from colaworld.envs.demos import ClipDataset
from colaworld.envs.whole_file import whole_file
from colaworld.experiments.batch_parts import check_divisible
from colaworld.experiments.batches import fixed_batch
from colaworld.experiments.recipes import RECIPES
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.training import Data, LoopConfig, make_accelerator, train_stage

STAGE = "adapter"


def go_on(
    out: Path,
    learner: Callable[[torch.device], ColaSystem],
    stage: StageConfig,
    loop: LoopConfig,
    clips: ClipDataset,
    held_out: ClipDataset,
    *,
    watched: int,
) -> bool:
    """Train ``learner(device)`` until ``out/system`` is there, from wherever its checkpoint stands; ``watched`` clips
    of each kind are watched. False in processes that are not the one that writes.
    """
    if (out / "system" / "system.json").is_file():
        return True
    accelerator = make_accelerator(out, loop, ["tensorboard"])
    check_divisible(stage.batch_size, accelerator, loop.accumulate, "--batch-size")
    accelerator.init_trackers("tensorboard")
    data = Data(
        train=clips,
        watched_train=fixed_batch(clips, watched, seed=1).to(accelerator.device),
        held_out=fixed_batch(held_out, watched, seed=2).to(accelerator.device),
    )
    train_stage(accelerator, learner(accelerator.device), STAGE, stage, loop, data, out, steps_before=0)
    accelerator.end_training()
    return accelerator.is_main_process


def check_clips(clips: ClipDataset, system: ColaSystem, folder: Path) -> None:
    """ValueError when clips are not what the system in ``folder`` was trained for."""
    for name in ("height", "width", "frame_skip", "action_dim", "render_profile"):
        wanted, found = getattr(system.info, name), getattr(clips, name)
        if wanted != found:
            raise ValueError(f"{folder}: {name} is {wanted!r}, but the data say {found!r}")
    if RECIPES[system.info.recipe].turn(STAGE).reads == "actions":
        clips.require_actions(f"recipe {system.info.recipe!r}")


def weight_flags(loop: LoopConfig) -> dict[str, Any]:
    """Of the loop's flags those that weights depend on."""
    named = ("seed", "ema_decay", "gradient_clip", "mixed_precision", "accumulate")
    return {name: getattr(loop, name) for name in named}


def bind(path: Path, said: dict[str, Any]) -> None:
    """A run folder belongs to one set of flags. ValueError naming the first that differs."""
    if path.is_file():
        try:
            before = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not valid JSON ({error}); choose another --out") from error
        for key, value in json.loads(json.dumps(said)).items():
            if before.get(key) != value:
                raise ValueError(
                    f"{path}: this run was started with {key}={before.get(key)}, not {value}; choose another --out"
                )
    with whole_file(path) as partial:
        partial.write_text(json.dumps(said, indent=2) + "\n")


def sign(system: Path, made: dict[str, Any], account: str) -> None:
    """Write into a system, under ``account``, how it was made."""
    path = system / "system.json"
    with whole_file(path) as partial:
        partial.write_text(json.dumps({**json.loads(path.read_text()), account: made}, indent=2) + "\n")
