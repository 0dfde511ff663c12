"""Trains a stage on the squares of ``test_training.py``, for tests that need several processes.

``python squares_trainer.py --folder FOLDER --stage STAGE [--lives STEPS] [flags of LoopConfig]``, also under torchrun.
After so many steps it dies as by a kill, between two checkpoints.
"""

import os
import signal
from pathlib import Path

import test_training as squares
import torch
import tyro

from colaworld.experiments import training
from colaworld.experiments.loop_config import LoopConfig
from colaworld.experiments.stage_config import StageConfig


def run(folder: Path, stage: str, lives: int | None = None, loop: LoopConfig = squares.LOOP) -> None:
    torch.set_num_threads(1)

    class Mortal(training.StageModel):
        def forward(self, batch, step, generator, labelled=None):
            if step == lives:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().forward(batch, step, generator, labelled)

    training.StageModel = Mortal
    folder.mkdir(exist_ok=True)
    accelerator = training.make_accelerator(folder, loop, [])
    config = StageConfig(steps=6, batch_size=4, learning_rate_warmup=2, shift=1, imagined=0.5)
    data = squares.data_of(squares.Squares())
    training.train_stage(accelerator, squares.system_of(), stage, config, loop, data, folder, steps_before=0)
    accelerator.end_training()


if __name__ == "__main__":
    tyro.cli(run)
