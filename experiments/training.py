"""One loop that trains every stage: accelerate, AdamW, a learning rate schedule, an EMA, atomic checkpoints, exact
resume.

A run folder holds ``metrics.jsonl`` (every number ever logged), ``tensorboard/``, ``checkpoint/`` (the last one,
replaced whole) and, after each stage, ``system/``. Random draws of step k come from (seed, stage, k) alone, so a run
killed anywhere goes on as if it never stopped.
"""

import contextlib
import functools
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import broadcast_object_list
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from colaworld.adapters.system import ColaSystem, save_system, staged
from colaworld.envs.demos import ClipDataset
from colaworld.experiments.batch_parts import Part, WaitingTime, agreed, means, parts_of
from colaworld.experiments.batches import Batch, StepBatches, collate, crop_copies, cropped, derived_seed, frame_latents
from colaworld.experiments.budget import StageCost, record_cost, step_flops
from colaworld.experiments.guard import CodebookCollapse, Guard, GuardConfig, Verdict
from colaworld.experiments.mixture import Mixture
from colaworld.experiments.recipes import RECIPES, StageName, Turn
from colaworld.experiments.run_folder import Journal, Progress, load_checkpoint, read_progress, save_checkpoint
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.stages import StageModel
from colaworld.experiments.watch import watch
from colaworld.models.backbones import Backbone


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
    accumulate: int = 1
    """Parts that a process works a batch off in, one after another, to save memory. Batch statistics are then each
    part's own."""
    gradient_checkpointing: bool = False
    """Whether the blocks of video model, inverse and forward dynamics are computed again in the backward pass, to save
    memory."""
    loader_workers: int = 0
    """Processes that read clips ahead; 0 reads them between steps."""
    compile: bool = False
    """torch.compile the video model's training pass: a minute at the start, a quarter less time a step after it; needs
    a C++ compiler."""

    def __post_init__(self) -> None:
        if min(self.log_every, self.watch_every) < 1:
            raise ValueError(
                f"log_every and watch_every must be 1 or more, got {self.log_every} and {self.watch_every}"
            )
        if self.accumulate < 1 or self.loader_workers < 0:
            raise ValueError(
                f"accumulate must be 1 or more and loader_workers 0 or more, got {self.accumulate} and "
                f"{self.loader_workers}"
            )
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")


@dataclass
class Data:
    """What a run trains on and what it watches."""

    train: ClipDataset
    watched_train: Batch
    held_out: Batch
    labelled: ClipDataset | None = None
    """Clips whose actions a recipe may see before the adapter stage; None: none."""
    known: Sequence[int] | None = None
    """Numbers of the training clips whose actions are known, where few are: a recipe of real actions draws half of
    every batch from them. None: all are known."""
    weights: Sequence[float] = ()
    """Shares of a batch of the data sets that ``train`` was made of; none: every clip is drawn alike."""

    @functools.cached_property
    def labelled_mixture(self) -> Mixture | None:
        """The same of ``labelled``."""
        return Mixture.of(self.labelled, self.weights)


def make_accelerator(folder: Path, config: LoopConfig, trackers: list[str]) -> Accelerator:
    """Every process gets its share of one global batch, whatever their number. Nothing is written yet."""
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=trackers,
        project_dir=str(folder),
    )
    return accelerator


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
    stream_before: int = 0,
    guard: GuardConfig = GuardConfig(),
) -> ColaSystem:
    """Train one stage of the system's recipe to its end from wherever its checkpoint stands, write ``folder/system`` and
    ``budget.json``, and return the system with EMA weights. ``stream_before``: steps that earlier stages of the same
    stream of clips have taken.

    FloatingPointError when a loss is not finite, CodebookCollapse when the guard says stop; what the last checkpoint
    held stays on disk.
    """
    recipe = RECIPES[system.info.recipe]
    turn = recipe.turn(stage)
    model = StageModel(system, turn, config, steps_before=stream_before)
    watcher = Guard(guard, system.bottleneck.code_sizes)
    most = watcher.limit(stage, config.steps)
    flops = _flops(accelerator, model, data, stage)  # in every process: batch statistics are shared by all
    if loop.compile:
        compile_training(system.video)
    if loop.gradient_checkpointing:
        system.enable_gradient_checkpointing()
    parameters = model.trained_parameters()
    optimizer = torch.optim.AdamW(parameters, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay)
    scheduler = get_scheduler(
        # A stage without a fixed end has nothing to decay towards.
        "cosine" if most == config.steps else "constant_with_warmup",
        optimizer,
        num_warmup_steps=config.learning_rate_warmup,
        num_training_steps=max(config.steps, 1),
    )
    ema = EMAModel(parameters, decay=loop.ema_decay, use_ema_warmup=True, power=0.75)
    progress = read_progress(folder)
    if progress.stage != stage:
        progress = Progress(stage=stage)
    wrapped, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    accelerator._custom_objects.clear()
    accelerator.register_for_checkpointing(ema)
    if progress.step:
        load_checkpoint(accelerator, folder / "checkpoint")
    ema.to(accelerator.device)
    clips = StepBatches(
        len(data.train),
        config.batch_size,
        seed=loop.seed,
        stage=turn.stream,
        start=stream_before + progress.step,
        stop=stream_before + most,
        half_of=data.known if turn.reads == "actions" else None,
        mixture=Mixture.of(data.train, data.weights),
        copies=crop_copies(data.train, config.shift),
    )
    loader = accelerator.prepare(
        DataLoader(data.train, batch_sampler=clips, collate_fn=_as_dict, num_workers=loop.loader_workers)
    )
    journal = Journal(accelerator, folder, steps_before + progress.step)
    verdict: Verdict | None = None
    done = progress.step
    began, saved, shown = time.monotonic() - progress.seconds, time.monotonic(), {}
    bar = tqdm(
        total=config.steps,
        initial=progress.step,
        desc=f"{stage:>8}",
        disable=not accelerator.is_main_process,
        mininterval=1.0,
    )
    reading = WaitingTime(loader)
    for step, tensors in enumerate(reading, start=progress.step):
        seed = derived_seed(loop.seed, turn.stream, "noise", stream_before + step, 0)
        torch.manual_seed(seed)
        losses = []
        for part in parts_of(Batch(**tensors), accelerator, loop.accumulate, seed):
            last = len(losses) == loop.accumulate - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(wrapped):
                loss, metrics = wrapped(part.batch, step, part.chance, _labelled(data, config, seed, part))
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss of stage {stage} is {loss.item()} at step {step}; see {folder / 'metrics.jsonl'}"
                    )
                accelerator.backward(loss / loop.accumulate)
            losses.append({"loss": loss.detach(), **metrics})
        accelerator.clip_grad_norm_(parameters, loop.gradient_clip)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        ema.step(parameters)
        done = step + 1
        bar.update()
        if done % loop.log_every == 0 or done == config.steps:
            shown = means(losses, accelerator)
            bar.set_postfix({key: f"{value:.3g}" for key, value in shown.items()}, refresh=False)
            journal.write(stage, done, steps_before + done, shown | {"learning_rate": scheduler.get_last_lr()[0]})
        if done % loop.watch_every == 0 or done in (config.steps, most):
            numbers = _watched(ema, parameters, system, turn, data, loop.seed, bar)
            journal.write(stage, done, steps_before + done, numbers)
            verdict = watcher.judge(journal.looks, stage=stage, planned=config.steps)
            verdict = broadcast_object_list([verdict])[0]  # all processes go on, or none
            if verdict.collapsed and guard.action == "stop":
                raise CodebookCollapse(verdict.why)
            if verdict.news or (done >= config.steps and guard.action == "extend"):
                say(bar, f"guard: {verdict.why}")
            if done >= config.steps and not verdict.goes_on:
                break
        if done < most and agreed(time.monotonic() - saved > loop.checkpoint_seconds, accelerator):
            save_checkpoint(accelerator, folder, Progress(stage=stage, step=done, seconds=time.monotonic() - began))
            saved = time.monotonic()
    bar.close()
    if config.steps:
        ema.copy_to(parameters)
        _recalibrate(system, turn, data)
    if stage == "codec" and config.steps:
        system.codec.standardise(_standardising_frames(data.train))
    system = staged(system, stage)
    if accelerator.is_main_process:
        cost = StageCost(
            steps=done,
            samples=done * config.batch_size,
            seconds=time.monotonic() - began,
            flops=flops * config.batch_size * done / max(1, config.steps),
            parameters=sum(parameter.numel() for parameter in parameters),
            waited=reading.seconds,
            why=verdict.why if verdict is not None and most > config.steps else "as planned",
        )
        record_cost(folder, stage, cost)
        save_system(only_trained(system, recipe.trained_by(stage)), folder / "system")
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    accelerator.free_memory()
    accelerator.wait_for_everyone()
    return system


def say(bar: tqdm, text: str) -> None:
    """A line above the bar, of the process that has one."""
    if not bar.disable:
        bar.write(f"  {text}")


def only_trained(system: ColaSystem, names: Sequence[str]) -> ColaSystem:
    """The system without the parts that have not learned anything."""
    return replace(system, **{name: None for name in system.parts() if name not in names})


def _flops(accelerator: Accelerator, model: StageModel, data: Data, stage: str) -> float:
    """Operations of a whole stage for each clip of its batches."""
    config, clips = model.config, min(2, len(data.watched_train.frames))
    batch = Batch(**{name: value[:clips] for name, value in vars(data.watched_train).items()})
    labelled = None
    if data.labelled is not None and config.action_weight:
        labelled = Batch(**{name: value[: max(1, clips // 2)] for name, value in vars(batch).items()})

    def one(step: int) -> float:
        generator = torch.Generator(accelerator.device).manual_seed(0)
        return step_flops(model, lambda copy: copy(batch, step, generator, labelled)[0]) / clips

    if not config.steps:
        return 0.0
    state = torch.random.get_rng_state()
    imagined = sum(model.imagines(step) for step in range(config.steps))
    total = (config.steps - imagined) * (one(0) if imagined < config.steps else 0.0)
    total += imagined * (one(config.steps - 1) if imagined else 0.0)
    torch.random.set_rng_state(state)
    return total


def _labelled(data: Data, config: StageConfig, seed: int, part: Part) -> Batch | None:
    """Labelled clips for the action head, half as many as the batch has; of these the part's own."""
    if data.labelled is None or not config.action_weight:
        return None
    draw, share = np.random.default_rng(derived_seed(seed, "labelled")), part.chance
    count = max(1, config.batch_size // share.parts // 2)
    clips, mixture = count * share.parts, data.labelled_mixture
    drawn = draw.integers(len(data.labelled), size=clips) if mixture is None else mixture.draw(draw, clips)
    shown = cropped(drawn, crop_copies(data.labelled, config.shift), derived_seed(seed, "labelled crops"))
    own = shown[share.part * count :][:count]
    return collate([data.labelled[index] for index in own]).to(part.batch.frames.device)


def compile_training(video: Backbone) -> None:
    """Compile what is differentiated; what is only looked at comes in other shapes and seldom, and stays eager."""
    eager = functools.partial(type(video).two_streams, video)
    compiled = torch.compile(eager, dynamic=False)
    # On the instance, so that no checkpoint holds it.
    video.two_streams = lambda *frames, **others: (compiled if torch.is_grad_enabled() else eager)(*frames, **others)


def _as_dict(clips: list) -> dict[str, torch.Tensor]:
    return vars(collate(clips))  # accelerate splits and moves dicts of tensors


def _watched(ema, parameters, system, turn: Turn, data: Data, seed: int, bar: tqdm) -> dict[str, float]:
    """The watched numbers under the EMA weights, also shown above the bar."""
    ema.store(parameters)
    ema.copy_to(parameters)
    norm = {key: value.clone() for key, value in system.bottleneck.state_dict().items() if key.startswith("norm.")}
    _recalibrate(system, turn, data)
    numbers = watch(staged(system, turn.stage), turn, data.watched_train, data.held_out, seed=seed)
    ema.restore(parameters)
    system.bottleneck.load_state_dict(norm, strict=False)
    say(bar, f"{turn.stage} held out: " + "  ".join(f"{key} {value:.3f}" for key, value in numbers.items()))
    return {f"held_out/{key}": value for key, value in numbers.items()}


@torch.no_grad()
def _recalibrate(system: ColaSystem, turn: Turn, data: Data) -> None:
    """The bottleneck standardises by the averaged weights' own statistics, where those weights changed."""
    if "inverse_dynamics" in turn.trained:
        system.bottleneck.recalibrate(system.inverse_dynamics(frame_latents(system.codec, data.watched_train.frames)))


def _standardising_frames(dataset: ClipDataset) -> torch.Tensor:
    """About two thousand frames, spread over all trajectories."""
    step = max(1, len(dataset) // 512)
    return torch.cat([torch.from_numpy(dataset[index].frames[::4]) for index in range(0, len(dataset), step)])
