"""Does reading clips hold training up? ``python experiments/benchmark_loader.py --preset tiny --data my.hdf5``

Clips a second of the loader alone, with nobody who computes, beside those of a stage's training steps, and the share of
their time in which they waited for the loader. Data, preset and sizes are those of ``train_world_model.py``'s flags;
weights are fresh, which costs the same. Nothing is kept of the training.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Annotated

import torch
import tyro

from colaworld.envs.demos import ClipDataset, starter_path
from colaworld.envs.whole_file import whole_file
from colaworld.experiments.batches import StepBatches, fixed_batch
from colaworld.experiments.budget import read_costs
from colaworld.experiments.cli import main
from colaworld.experiments.guard import GuardConfig
from colaworld.experiments.loader import clip_loader
from colaworld.experiments.recipes import StageName
from colaworld.experiments.train_config import TrainConfig, named_preset, preset_defaults
from colaworld.experiments.train_world_model import fresh_system
from colaworld.experiments.training import Data, make_accelerator, train_stage

WARM = 2
"""Batches that are read before the clock starts: workers start, files are opened."""


@dataclass(frozen=True, kw_only=True)
class LoaderSpeed:
    """Clips a second of the loader alone and of training, with so many ``workers``; the share of training's time in
    which it ``waited``; ``utilisation`` of the device's peak (None: not known)."""

    workers: int
    loader: float
    training: float
    waited: float
    utilisation: float | None


def command(defaults: TrainConfig) -> Callable[..., None]:
    """The script's function; ``defaults`` are the preset's."""

    def run(
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = defaults,
        stage: StageName = "joint",
        steps: int = 40,
        workers: tuple[int, ...] = (0, 1, 2),
        json_file: Path | None = None,
    ) -> None:
        """Print both speeds for every number of workers.

        Args:
            stage: whose steps are taken.
            steps: how many of them, and batches of the loader alone.
            workers: numbers of processes that read ahead.
            json_file: write the figures here too.
        """
        clips = ClipDataset(
            config.data or (starter_path(),), length=config.clip, split="train", options=config.source
        )
        found = [measured(config, clips, stage, steps, count) for count in workers]
        print(f"{'workers':>7}{'loader, clips/s':>18}{'training, clips/s':>20}{'waited':>9}{'of the peak':>13}")
        for each in found:
            share = "unknown" if each.utilisation is None else f"{each.utilisation:.1%}"
            print(f"{each.workers:>7}{each.loader:>18.1f}{each.training:>20.2f}{each.waited:>9.2%}{share:>13}")
        if json_file is not None:
            with whole_file(json_file) as partial:
                partial.write_text(json.dumps([asdict(each) for each in found], indent=2) + "\n")

    return run


def measured(config: TrainConfig, clips: ClipDataset, stage: StageName, steps: int, workers: int) -> LoaderSpeed:
    """Both speeds. ValueError for less than one step."""
    if steps < 1:
        raise ValueError(f"--steps must be 1 or more, got {steps}")
    budget = replace(config.stage(stage), steps=steps)
    loop = replace(config.loop, loader_workers=workers, log_every=steps, watch_every=steps, checkpoint_seconds=inf)
    torch.manual_seed(loop.seed)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = make_accelerator(Path(folder), loop, ["tensorboard"])
        alone = _alone(clips, budget.batch_size, steps, workers, accelerator.device)
        system = fresh_system(config, clips)
        for part in system.parts().values():
            part.to(accelerator.device)
        watched = fixed_batch(clips, 4, seed=1).to(accelerator.device)
        data = Data(train=clips, watched_train=watched, held_out=watched)
        off = GuardConfig(action="off")
        train_stage(accelerator, system, stage, budget, loop, data, Path(folder), steps_before=0, guard=off)
        cost = read_costs(Path(folder))[stage]
    return LoaderSpeed(
        workers=workers,
        loader=alone,
        training=cost.clips_per_second,
        waited=cost.waited / cost.training_seconds,
        utilisation=cost.flops_utilisation,
    )


def _alone(clips: ClipDataset, batch_size: int, steps: int, workers: int, device: torch.device) -> float:
    batches = StepBatches(len(clips), batch_size, seed=0, stage="benchmark", start=0, stop=WARM + steps)
    reading = iter(clip_loader(clips, batches, workers=workers, device=device))
    for _ in range(WARM):
        next(reading)
    began = time.monotonic()
    for _ in reading:
        pass
    return steps * batch_size / (time.monotonic() - began)


if __name__ == "__main__":
    main(command(preset_defaults(named_preset(sys.argv[1:]))))
