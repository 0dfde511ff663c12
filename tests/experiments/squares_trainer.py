"""Trains a stage on the squares of ``test_training.py``, for tests that need several processes.

``python squares_trainer.py FOLDER STAGE ACCUMULATE [LIVES]``, also under torchrun. After LIVES steps it dies as by a
kill, between two checkpoints.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import test_training as squares
import torch

from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.training import make_accelerator, train_stage

folder, stage, accumulate = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
lives = int(sys.argv[4]) if len(sys.argv) > 4 else None
torch.set_num_threads(1)


class Mortal(squares.Squares):
    """Kills its process when a clip is read after so many steps."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        if lives is not None and self.reads > 8 + lives * 4 // int(os.environ.get("WORLD_SIZE", "1")):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


folder.mkdir(exist_ok=True)
loop = replace(squares.LOOP, accumulate=accumulate)
accelerator = make_accelerator(folder, loop, [])
config = StageConfig(steps=6, batch_size=4, learning_rate_warmup=2, shift=1, imagined=0.5)
data = squares.data_of(Mortal())
train_stage(accelerator, squares.system_of(), stage, config, loop, data, folder, steps_before=0)
accelerator.end_training()
