"""One loop that trains every stage: accelerate (DDP or FSDP), AdamW, a learning rate schedule, an EMA, atomic
checkpoints, exact resume.

A run folder holds ``metrics.jsonl`` (every number ever logged), ``tensorboard/``, ``checkpoint/`` (the last one,
replaced whole) and, after each stage, ``system/``. Random draws of step k come from (seed, stage, k) alone, so a run
killed anywhere goes on as if it never stopped.
"""

import contextlib
import functools
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from diffusers.optimization import get_scheduler
from tqdm import tqdm

from colaworld.adapters.system import ColaSystem, save_system, staged
from colaworld.envs.demos import ClipDataset
from colaworld.experiments.averages import Averages
from colaworld.experiments.batch_parts import Part, agreed, means, parts_of
from colaworld.experiments.batches import (
    Batch,
    StepBatches,
    collate,
    crop_copies,
    cropped,
    derived_seed,
    fixed_choice,
    frame_latents,
)
from colaworld.experiments.budget import StageCost, record_cost, step_flops
from colaworld.experiments.guard import Guard, GuardConfig, Verdict
from colaworld.experiments.loader import WaitingTime, clip_loader, load_loader, on_device
from colaworld.experiments.loop_config import LoopConfig
from colaworld.experiments.mixture import Mixture
from colaworld.experiments.recipes import RECIPES, StageName, Turn
from colaworld.experiments.run_folder import Journal, Progress, load_checkpoint, read_progress, save_checkpoint
from colaworld.experiments.sharding import fill_codebook, shard_on_cpu, sharding_plugin
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.stages import StageModel
from colaworld.experiments.throughput import in_words, throughput_of
from colaworld.experiments.watch import watch
from colaworld.models.backbones import Backbone


PATIENCE = timedelta(hours=2)
"""How long processes wait for the main one, which evaluates alone."""
RECALIBRATING_CLIPS, RECALIBRATING_BATCH = 256, 32


@dataclass
class Data:
    """What a run trains on and what it watches."""

    train: ClipDataset
    watched_train: Batch
    held_out: Batch
    labelled: ClipDataset | None = None
    """Clips whose actions a recipe may see before the adapter stage; None: none."""
    known: Sequence[int] | None = None
    """Numbers of the training clips whose actions are known, where few are: turns that learn from them draw half of
    every batch from these. None: all are known."""
    weights: Sequence[float] = ()
    """Shares of a batch of the data sets that ``train`` was made of; none: every clip is drawn alike."""

    @functools.cached_property
    def labelled_mixture(self) -> Mixture | None:
        """The same of ``labelled``."""
        return Mixture.of(self.labelled, self.weights)


def make_accelerator(folder: Path, config: LoopConfig, trackers: list[str]) -> Accelerator:
    """Every process gets its share of one global batch, whatever their number. Nothing is written yet.

    ValueError where ``config.parallel`` cannot be had.
    """
    plugin = sharding_plugin(config)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        # Split batches: one step of the schedule a batch. Loaders are ours and know their part already.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        fsdp_plugin=plugin,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        log_with=trackers,
        project_dir=str(folder),
    )
    if plugin is not None:
        shard_on_cpu(accelerator, plugin)
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
    stored: torch.dtype = torch.float32,
) -> ColaSystem:
    """Train one stage of the system's recipe to its end from wherever its checkpoint stands, write ``folder/system`` and
    ``budget.json``, and return the system with EMA weights. ``stream_before``: steps that earlier stages of the same
    stream of clips have taken; ``stored``: what the weights in the folder are rounded to, those returned are not.

    FloatingPointError when a loss is not finite, CodebookCollapse when the guard says stop; what the last checkpoint
    held stays on disk.
    """
    recipe = RECIPES[system.info.recipe]
    turn = recipe.turn(stage)
    model = StageModel(system, turn, config, steps_before=stream_before)
    watcher = Guard(guard, system.bottleneck.code_sizes)
    most = watcher.limit(stage, config.steps)
    flops = _flops(accelerator, model, data, most)  # in every process: batch statistics are shared by all
    progress = read_progress(folder)
    if progress.stage != stage:
        progress = Progress(stage=stage, parallel=loop.parallel)
    if progress.parallel != loop.parallel:
        raise ValueError(
            f"{folder / 'checkpoint'}: was written with --loop.parallel {progress.parallel}, got {loop.parallel}; "
            "go on as before, or remove it to begin its stage again"
        )
    clips = StepBatches(
        len(data.train),
        config.batch_size,
        seed=loop.seed,
        stage=turn.stream,
        start=stream_before + progress.step,
        stop=stream_before + most,
        half_of=data.known if turn.wants_labels else None,
        mixture=Mixture.of(data.train, data.weights),
        copies=crop_copies(data.train, config.shift),
        part=accelerator.process_index,
        parts=accelerator.num_processes,
    )
    loader = clip_loader(data.train, clips, workers=loop.loader_workers, device=accelerator.device)
    copy = None
    if accelerator.is_fsdp2:
        copy, system = system, replace(system, **{name: deepcopy(part) for name, part in system.parts().items()})
        model = StageModel(system, turn, config, steps_before=stream_before)
        if progress.step == 0 and most:
            with accelerator.autocast():
                fill_codebook(model, _first(accelerator, loop, turn, data, clips))
    if loop.compile:
        compile_training(system.video)
    if loop.gradient_checkpointing:
        system.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(
        model.trained_parameters(), config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    scheduler = get_scheduler(
        # A stage without a fixed end has nothing to decay towards.
        "cosine" if most == config.steps else "constant_with_warmup",
        optimizer,
        num_warmup_steps=config.learning_rate_warmup,
        num_training_steps=max(config.steps, 1),
    )
    wrapped, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    parameters = model.trained_parameters()  # sharded by now
    averages = Averages(system, parameters, loop.ema_decay, copy)
    accelerator._custom_objects.clear()
    if not accelerator.is_fsdp2:  # the main process has all of them
        accelerator.register_for_checkpointing(averages.ema)
    if progress.step:
        load_checkpoint(accelerator, folder / "checkpoint", averages.ema)
        load_loader(loader, accelerator, folder / "checkpoint")
    averages.ema.to(accelerator.device)
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
    speed = throughput_of(accelerator, loop, reading, config.batch_size, lambda step: flops[model.imagines(step)])
    for step, tensors in enumerate(reading, start=progress.step):
        seed = derived_seed(loop.seed, turn.stream, "noise", stream_before + step, 0)
        torch.manual_seed(seed)
        losses = []
        for part in parts_of(on_device(tensors, accelerator.device), accelerator, loop.accumulate, seed):
            last = len(losses) == loop.accumulate - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(wrapped):
                with accelerator.autocast():
                    loss, metrics = wrapped(part.batch, step, part.chance, _labelled(data, turn, config, seed, part))
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
        averages.step()
        speed.step(step)
        done = step + 1
        bar.update()
        if done % loop.log_every == 0 or done == config.steps:
            shown = means(losses, accelerator)
            shown |= {"learning_rate": scheduler.get_last_lr()[0], **speed.lately()}
            bar.set_postfix({key: f"{value:.3g}" for key, value in shown.items()}, refresh=False)
            journal.write(stage, done, steps_before + done, shown)
        if done % loop.watch_every == 0 or done in (config.steps, most):
            with speed.aside():
                numbers = _watched(averages, turn, data, loop.seed, bar)
            journal.write(stage, done, steps_before + done, numbers)
            verdict = watcher.judge(journal.looks, stage=stage, planned=config.steps)
            verdict = broadcast_object_list([verdict])[0]  # all processes go on, or none
            watcher.heed(verdict)
            if verdict.news or (done >= config.steps and guard.action == "extend"):
                say(bar, f"guard: {verdict.why}")
            if done >= config.steps and not verdict.goes_on:
                break
        if done < most and agreed(time.monotonic() - saved > loop.checkpoint_seconds, accelerator):
            reached = replace(progress, step=done, seconds=time.monotonic() - began)
            with speed.aside():
                save_checkpoint(accelerator, folder, reached, averages.ema, loader)
            saved = time.monotonic()
    pace, trained = speed.overall(), sum(parameter.numel() for parameter in parameters)
    if pace:
        say(bar, f"{stage}: {in_words(pace)}")
    bar.close()
    system = averages.taken()
    if config.steps:
        _recalibrate(system, turn, _recalibrating_clips(data, loop.seed))
    if stage == "codec" and config.steps:
        system.codec.standardise(_standardising_frames(data.train))
    system = staged(system, stage)
    if accelerator.is_main_process:
        cost = StageCost(
            steps=done,
            samples=done * (config.batch_size + _labelled_clips(data, turn, config, accelerator.num_processes)),
            seconds=time.monotonic() - began,
            flops=config.batch_size * sum(flops[model.imagines(step)] for step in range(done)),
            parameters=trained,
            waited=reading.seconds,
            training_seconds=speed.seconds,
            clips_per_second=pace.get("clips_per_second"),
            flops_utilisation=pace.get("flops_utilisation"),
            why=verdict.why if verdict is not None and most > config.steps else "as planned",
        )
        record_cost(folder, stage, cost)
        save_system(only_trained(system, recipe.trained_by(stage)), folder / "system", dtype=stored)
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


def _flops(accelerator: Accelerator, model: StageModel, data: Data, steps: int) -> dict[bool, float]:
    """Operations for each clip of a step's batch, by whether it is one of the ``steps`` on imagined frames."""
    config, clips = model.config, min(2, len(data.watched_train.frames))
    batch = Batch(**{name: value[:clips] for name, value in vars(data.watched_train).items()})
    labelled = None
    if data.labelled is not None and config.action_weight:
        labelled = Batch(**{name: value[: max(1, clips // 2)] for name, value in vars(batch).items()})

    def one(step: int) -> float:
        generator = torch.Generator(accelerator.device).manual_seed(0)
        return step_flops(model, lambda copy: copy(batch, step, generator, labelled)[0]) / clips

    state = torch.random.get_rng_state()
    kinds = {model.imagines(step): one(step) for step in (0, config.steps - 1, steps - 1) if steps}
    torch.random.set_rng_state(state)
    return kinds


def _first(accelerator: Accelerator, loop: LoopConfig, turn: Turn, data: Data, clips: StepBatches) -> Part:
    """What the first step begins with; torch's generator is left as it will be then."""
    seed = derived_seed(loop.seed, turn.stream, "noise", clips.start, 0)
    torch.manual_seed(seed)
    batch = collate([data.train[index] for index in clips.of_step(clips.start)]).to(accelerator.device)
    return next(parts_of(batch, accelerator, loop.accumulate, seed))


def _labelled_clips(data: Data, turn: Turn, config: StageConfig, parts: int) -> int:
    """How many labelled clips a step takes besides its batch, over all ``parts``."""
    if data.labelled is None or not config.action_weight or "inverse_dynamics" not in turn.trained:
        return 0
    return parts * max(1, config.batch_size // parts // 2)


def _labelled(data: Data, turn: Turn, config: StageConfig, seed: int, part: Part) -> Batch | None:
    """Labelled clips for the action head, half as many as the batch has; of these the part's own."""
    draw, share = np.random.default_rng(derived_seed(seed, "labelled")), part.chance
    clips, mixture = _labelled_clips(data, turn, config, share.parts), data.labelled_mixture
    if not clips:
        return None
    count = clips // share.parts
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


def _watched(averages: Averages, turn: Turn, data: Data, seed: int, bar: tqdm) -> dict[str, float]:
    """The watched numbers under the averaged weights, also shown above the bar."""
    with averages.looked_at() as system:
        _recalibrate(system, turn, [data.watched_train])
        numbers = watch(staged(system, turn.stage), turn, data.watched_train, data.held_out, seed=seed)
    say(bar, f"{turn.stage} held out: " + "  ".join(f"{key} {value:.3f}" for key, value in numbers.items()))
    return {f"held_out/{key}": value for key, value in numbers.items()}


@torch.no_grad()
def _recalibrate(system: ColaSystem, turn: Turn, clips: Iterable[Batch]) -> None:
    """The bottleneck standardises by the averaged weights' own statistics on ``clips``, where those weights changed."""
    if "inverse_dynamics" in turn.trained and system.bottleneck.codes:
        raw = [system.inverse_dynamics(frame_latents(system.codec, batch.frames)) for batch in clips]
        system.bottleneck.recalibrate(torch.cat(raw))


def _recalibrating_clips(data: Data, seed: int) -> Iterator[Batch]:
    """What a trained stage keeps its statistics of, a few at a time: with few clips in all, the codes of others would
    turn on which these were.
    """
    chosen = fixed_choice(data.train, RECALIBRATING_CLIPS, seed, Mixture.of(data.train, data.weights))
    for begin in range(0, len(chosen), RECALIBRATING_BATCH):
        part = [data.train[index] for index in chosen[begin : begin + RECALIBRATING_BATCH]]
        yield collate(part).to(data.watched_train.frames.device)


def _standardising_frames(dataset: ClipDataset) -> torch.Tensor:
    """About two thousand frames, spread over all trajectories."""
    step = max(1, len(dataset) // 512)
    return torch.cat([torch.from_numpy(dataset[index].frames[::4]) for index in range(0, len(dataset), step)])
