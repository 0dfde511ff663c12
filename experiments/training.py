"""One loop that trains every stage: accelerate, AdamW, a learning rate schedule, an EMA, atomic checkpoints, exact
resume.

A run folder holds ``metrics.jsonl`` (every number ever logged), ``tensorboard/``, ``checkpoint/`` (the last one,
replaced whole) and, after each stage, ``system/``. Random draws of step k come from (seed, stage, k) alone, so a run
killed anywhere goes on as if it never stopped.
"""

import functools
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from tqdm import tqdm

from colaworld.adapters.system import ColaSystem, save_system, staged
from colaworld.envs.demos import ClipDataset
from colaworld.experiments.batches import Batch, StepBatches, collate, derived_seed
from colaworld.experiments.stages import TRAINED, TRAINED_BY, StageConfig, StageModel, StageName
from colaworld.experiments.watch import watch
from colaworld.models.video_transformer import VideoTransformer


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How often a run logs, watches and saves."""

    seed: int = 0
    """Of weights, batches and noise."""
    log_every: int = 10
    """Steps between lines of training losses."""
    watch_every: int = 100
    """Steps between looks at held-out clips."""
    checkpoint_seconds: float = 120.0
    """How old a checkpoint may get."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.998
    """Of the averaged weights that are watched and saved."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """accelerate's."""
    compile: bool = False
    """torch.compile the video model's training pass: a minute at the start, a quarter less time a step after it; needs a C++
    compiler."""

    def __post_init__(self) -> None:
        if min(self.log_every, self.watch_every) < 1:
            raise ValueError(
                f"log_every and watch_every must be 1 or more, got {self.log_every} and {self.watch_every}"
            )
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")


@dataclass
class Data:
    """What a run trains on and what it watches."""

    train: ClipDataset
    watched_train: Batch
    held_out: Batch


class Journal:
    """Numbers to ``metrics.jsonl`` and to accelerate's trackers. On resume, lines past the checkpoint are dropped."""

    def __init__(self, accelerator: Accelerator, folder: Path, done: int) -> None:
        self.accelerator, self.path = accelerator, folder / "metrics.jsonl"
        if accelerator.is_main_process and self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _total_step(line) <= done]
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            os.replace(partial, self.path)

    def write(self, stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """One line. ``total`` counts steps over all stages."""
        if not self.accelerator.is_main_process:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"stage": stage, "step": step, "total_step": total, **metrics}) + "\n")
        self.accelerator.log({f"{stage}/{key}": value for key, value in metrics.items()}, step=total)


def _total_step(line: str) -> float:
    try:
        return json.loads(line)["total_step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # a line cut short by a kill


def make_accelerator(folder: Path, config: LoopConfig, trackers: list[str]) -> Accelerator:
    """Every process gets its share of one global batch, whatever their number."""
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=trackers,
        project_dir=str(folder),
    )
    accelerator.init_trackers("tensorboard")
    return accelerator


def read_progress(folder: Path) -> tuple[str | None, int]:
    """Stage and step of the last checkpoint; (None, 0) when there is none."""
    path = folder / "checkpoint" / "progress.json"
    if not path.is_file():
        return None, 0
    try:
        progress = json.loads(path.read_text())
        return progress["stage"], progress["step"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove the checkpoint to begin its stage again") from error


def train_stage(
    accelerator: Accelerator,
    system: ColaSystem,
    stage: StageName,
    config: StageConfig,
    loop: LoopConfig,
    data: Data,
    folder: Path,
    *,
    steps_before: int,
) -> ColaSystem:
    """Train one stage to its end from wherever its checkpoint stands, write ``folder/system`` and return the system
    with EMA weights.

    FloatingPointError when a loss is not finite; what the last checkpoint held stays on disk.
    """
    model = StageModel(system, stage, config)
    if loop.compile:
        compile_training(system.video)
    parameters = model.trained_parameters()
    optimizer = torch.optim.AdamW(parameters, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay)
    scheduler = get_scheduler(
        "cosine", optimizer, num_warmup_steps=config.learning_rate_warmup, num_training_steps=max(config.steps, 1)
    )
    ema = EMAModel(parameters, decay=loop.ema_decay, use_ema_warmup=True, power=0.75)
    resumed, start = read_progress(folder)
    start = start if resumed == stage else 0
    wrapped, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    accelerator._custom_objects.clear()
    accelerator.register_for_checkpointing(ema)
    if start:
        _load_checkpoint(accelerator, folder / "checkpoint")
    ema.to(accelerator.device)
    sampler = StepBatches(
        len(data.train), config.batch_size, seed=loop.seed, stage=stage, start=start, stop=config.steps
    )
    loader = accelerator.prepare(DataLoader(data.train, batch_sampler=sampler, collate_fn=_as_dict))
    journal = Journal(accelerator, folder, steps_before + start)
    saved, shown = time.monotonic(), {}
    bar = tqdm(
        total=config.steps, initial=start, desc=f"{stage:>8}", disable=not accelerator.is_main_process, mininterval=1.0
    )
    for step, tensors in enumerate(loader, start=start):
        batch = Batch(**tensors)
        seed = derived_seed(loop.seed, stage, "noise", step, accelerator.process_index)
        torch.manual_seed(seed)
        loss, metrics = wrapped(batch, step, torch.Generator(accelerator.device).manual_seed(seed))
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of stage {stage} is {loss.item()} at step {step}; see {folder / 'metrics.jsonl'}"
            )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, loop.gradient_clip)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        ema.step(parameters)
        done = step + 1
        bar.update()
        if done % loop.log_every == 0 or done == config.steps:
            shown = {"loss": loss.item(), **{key: value.item() for key, value in metrics.items()}}
            bar.set_postfix({key: f"{value:.3g}" for key, value in shown.items()}, refresh=False)
            journal.write(stage, done, steps_before + done, shown | {"learning_rate": scheduler.get_last_lr()[0]})
        if done % loop.watch_every == 0 or done == config.steps:
            journal.write(
                stage, done, steps_before + done, _watched(ema, parameters, system, stage, data, loop.seed, bar)
            )
        if time.monotonic() - saved > loop.checkpoint_seconds and done < config.steps:
            _checkpoint(accelerator, folder, stage, done)
            saved = time.monotonic()
    bar.close()
    if config.steps:
        ema.copy_to(parameters)
        _recalibrate(system, stage, data)
    if stage == "codec" and config.steps:
        system.codec.standardise(_standardising_frames(data.train))
    system = staged(system, stage)
    if accelerator.is_main_process:
        untrained = {name: None for name in system.parts() if name not in TRAINED_BY[stage]}
        save_system(replace(system, **untrained), folder / "system")
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    accelerator.free_memory()
    accelerator.wait_for_everyone()
    return system


def compile_training(video: VideoTransformer) -> None:
    """Compile what is differentiated; what is only looked at comes in other shapes and seldom, and stays eager."""
    eager = functools.partial(VideoTransformer.two_streams, video)
    compiled = torch.compile(eager, dynamic=False)
    # On the instance, so that no checkpoint holds it.
    video.two_streams = lambda *frames, **others: (compiled if torch.is_grad_enabled() else eager)(*frames, **others)


def _as_dict(clips: list) -> dict[str, torch.Tensor]:
    return vars(collate(clips))  # accelerate splits and moves dicts of tensors


def _watched(ema, parameters, system, stage: str, data: Data, seed: int, bar: tqdm) -> dict[str, float]:
    """The watched numbers under the EMA weights, also shown above the bar."""
    ema.store(parameters)
    ema.copy_to(parameters)
    norm = {key: value.clone() for key, value in system.bottleneck.state_dict().items() if key.startswith("norm.")}
    _recalibrate(system, stage, data)
    numbers = watch(staged(system, stage), stage, data.watched_train, data.held_out, seed=seed)
    ema.restore(parameters)
    system.bottleneck.load_state_dict(norm, strict=False)
    bar.write(f"  {stage} held out: " + "  ".join(f"{key} {value:.3f}" for key, value in numbers.items()))
    return {f"held_out/{key}": value for key, value in numbers.items()}


@torch.no_grad()
def _recalibrate(system: ColaSystem, stage: StageName, data: Data) -> None:
    """The bottleneck standardises by the averaged weights' own statistics, where those weights changed."""
    if "inverse_dynamics" in TRAINED[stage]:
        system.bottleneck.recalibrate(system.inverse_dynamics(system.codec.encode(data.watched_train.frames)))


def _load_checkpoint(accelerator: Accelerator, path: Path) -> None:
    """ValueError naming the folder when a file in it is damaged or missing."""
    try:
        accelerator.load_state(str(path))
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path}: the checkpoint cannot be read ({first}); remove it to begin its stage again"
        ) from error


def _checkpoint(accelerator: Accelerator, folder: Path, stage: str, step: int) -> None:
    """Everything the loop needs, in a new folder that replaces the old one only when it is whole."""
    fresh, final, old = folder / "checkpoint.partial", folder / "checkpoint", folder / "checkpoint.old"
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(fresh))
    if accelerator.is_main_process:
        (fresh / "progress.json").write_text(json.dumps({"stage": stage, "step": step}))
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            os.replace(final, old)
        os.replace(fresh, final)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def _standardising_frames(dataset: ClipDataset) -> torch.Tensor:
    """About two thousand frames, spread over all trajectories."""
    step = max(1, len(dataset) // 512)
    return torch.cat([torch.from_numpy(dataset[index].frames[::4]) for index in range(0, len(dataset), step)])
