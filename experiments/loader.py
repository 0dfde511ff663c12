"""What reads the clips of every step, torchdata's ``StatefulDataLoader`` over ``batches.StepBatches``, and how long a
run waited for it.

Which clips come in a step depends on (seed, stage, step) alone. The loader's own state hands on what else there is: how
far its workers have read ahead, and the state of a data set that has one (``state_dict``, ``load_state_dict``).
"""

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from colaworld.experiments.batches import Batch, StepBatches, collate


def clip_loader(dataset: Dataset, clips: StepBatches, *, workers: int, device: torch.device) -> StatefulDataLoader:
    """Batches as dicts of tensors on the CPU, read ahead by so many ``workers``; pinned where they go to a GPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata's affair
        return StatefulDataLoader(
            dataset,
            batch_sampler=clips,
            collate_fn=_as_dict,
            num_workers=workers,
            pin_memory=device.type == "cuda",
        )


def _as_dict(clips: list) -> dict[str, Tensor]:
    return vars(collate(clips))  # memory is pinned of dicts of tensors


def on_device(tensors: Mapping[str, Tensor], device: torch.device) -> Batch:
    """What the loader gave, where it is computed with."""
    return Batch(**{name: value.to(device, non_blocking=True) for name, value in tensors.items()})


def save_loader(loader: StatefulDataLoader, accelerator: Accelerator, folder: Path) -> None:
    """This process's, to a file of a checkpoint."""
    state = {"processes": accelerator.num_processes, "workers": loader.num_workers, "state": loader.state_dict()}
    torch.save(state, _file(accelerator, folder))


def load_loader(loader: StatefulDataLoader, accelerator: Accelerator, folder: Path) -> None:
    """Go on where the loader of a checkpoint stood. With another number of processes or workers, or none in the
    checkpoint, there is nothing to hand on. ValueError naming the file when it is damaged.
    """
    file = _file(accelerator, folder)
    if not file.is_file():
        return
    try:
        said = torch.load(file, weights_only=True)
        if said["processes"] == accelerator.num_processes and said["workers"] == loader.num_workers:
            loader.load_state_dict(said["state"])
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, UnpicklingError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); remove the checkpoint to begin its stage again") from error


def _file(accelerator: Accelerator, folder: Path) -> Path:
    return folder / f"loader_{accelerator.process_index}.pt"


class WaitingTime:
    """Iterates over a loader and adds up the ``seconds`` that were spent waiting for it."""

    def __init__(self, loader: Iterable[Mapping[str, Tensor]]) -> None:
        self.loader, self.seconds = loader, 0.0

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        began = time.monotonic()
        for found in self.loader:
            self.seconds += time.monotonic() - began
            yield found
            began = time.monotonic()
