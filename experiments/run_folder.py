"""What a run writes while it trains: numbers line by line, and checkpoints that replace each other whole.

A checkpoint is accelerate's: whole weights, averages and moments that the main process writes or, of a run with sharded
ones, every process its own shards (torch.distributed.checkpoint), which any number of processes can read. Beside them
each process writes the state of its loader.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch.distributed.checkpoint as distributed_checkpoint
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torchdata.stateful_dataloader import StatefulDataLoader

from colaworld.envs.whole_file import whole_file
from colaworld.experiments.loader import save_loader

WATCHED = "held_out/"
AVERAGES = "averages"
"""Of a checkpoint of shards: the folder of the averaged weights' shards."""


class Journal:
    """Numbers to ``metrics.jsonl`` and to accelerate's trackers. On resume, lines past the checkpoint are dropped.

    ``looks``: every line so far with watched numbers.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, done: int) -> None:
        self.accelerator, self.path = accelerator, folder / "metrics.jsonl"
        text = self.path.read_text() if self.path.exists() else ""
        kept = [line for line in text.splitlines() if _total_step(line) <= done]
        self.looks = [line for line in map(json.loads, kept) if any(key.startswith(WATCHED) for key in line)]
        accelerator.wait_for_everyone()
        if accelerator.is_main_process and text:
            with whole_file(self.path) as partial:
                partial.write_text("".join(line + "\n" for line in kept))

    def write(self, stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """One line. ``total`` counts steps over all stages."""
        line = {"stage": stage, "step": step, "total_step": total, **metrics}
        if any(key.startswith(WATCHED) for key in metrics):
            self.looks.append(line)
        if not self.accelerator.is_main_process:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.accelerator.log({f"{stage}/{key}": value for key, value in metrics.items()}, step=total)


def _total_step(line: str) -> float:
    try:
        return json.loads(line)["total_step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # a line cut short by a kill


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run's last checkpoint stands."""

    stage: str | None = None
    step: int = 0
    seconds: float = 0.0
    """Spent on the stage so far."""
    parallel: str = "ddp"
    """How it is written: whole, or in shards (``--loop.parallel``)."""


def read_progress(folder: Path) -> Progress:
    """The last checkpoint's; of no stage when there is none."""
    path = folder / "checkpoint" / "progress.json"
    if not path.parent.exists():
        with contextlib.suppress(FileNotFoundError):  # killed just when the new one should have taken its place
            os.replace(folder / "checkpoint.old", path.parent)
    if not path.is_file():
        return Progress()
    try:
        progress = json.loads(path.read_text())
        return Progress(**{"seconds": 0.0, **progress})
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove the checkpoint to begin its stage again") from error


def load_checkpoint(accelerator: Accelerator, path: Path, ema: EMAModel) -> None:
    """ValueError naming the folder when a file in it is damaged or missing."""
    try:
        accelerator.load_state(str(path))
        if accelerator.is_fsdp2:
            averages = ema.state_dict()
            distributed_checkpoint.load(averages, checkpoint_id=path / AVERAGES)
            ema.load_state_dict(averages)
    except (
        SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError, CheckpointException,
    ) as error:  # fmt: skip
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path}: the checkpoint cannot be read ({first}); remove it to begin its stage again"
        ) from error


def save_checkpoint(
    accelerator: Accelerator, folder: Path, progress: Progress, ema: EMAModel, loader: StatefulDataLoader
) -> None:
    """Everything the loop needs, in a new folder that replaces the old one only when it is whole."""
    fresh, final, old = folder / "checkpoint.partial", folder / "checkpoint", folder / "checkpoint.old"
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(fresh))
    if accelerator.is_fsdp2:
        distributed_checkpoint.save(ema.state_dict(), checkpoint_id=fresh / AVERAGES)
    save_loader(loader, accelerator, fresh)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (fresh / "progress.json").write_text(json.dumps(asdict(progress)))
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            os.replace(final, old)
        os.replace(fresh, final)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()
