"""How an adapter should answer: every kind with and without frames, on one system's frozen codes, side by side::

    python experiments/adapter_choices.py --run runs/train
    python experiments/adapter_choices.py --run runs/train --kinds regress classify --context 0 --fine-tune 75

Paper, adapter robustness: a two-layer MLP from the action alone that regresses to the code vector and snaps to it
(``regress`` with context 0, snapped), then 3K steps that fine-tune the world model. Here each kind (a regression, a
point nearest the right code, classes) with each context is fitted anew on the codes of the same latent action model,
and drives the world model as it is, snapped and unsnapped, beside the inverse dynamics model's (IDM's) own codes and
all of them shuffled between clips; with ``--fine-tune`` again after so many steps of the recipe's adapter stage, each
from the same start. That stage is the run's own, with the flags in its ``config.json``; a system without one gets the
trainer's defaults. Fits and evaluation take the same clips and the same draws for all.

Windows of one trajectory are not independent: intervals are over trajectories.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from colaworld.adapters.action_adapter import ActionAdapter, AdapterKind, codes_of, context_windows, latents_of
from colaworld.adapters.system import ColaSystem, load_system, staged, weights_path
from colaworld.envs.demos import ClipDataset, SourceOptions, starter_path
from colaworld.experiments.action_checks import adapter_confusion
from colaworld.experiments.adapter_fit import AdapterFitConfig, fit_adapter
from colaworld.experiments.batches import Batch, fixed_batch
from colaworld.experiments.cli import main
from colaworld.experiments.episode_log import write_text
from colaworld.experiments.held_out import (
    CONTEXT_FRAMES,
    HORIZONS,
    HeldOutConfig,
    held_out_windows,
    imagine_variants,
)
from colaworld.experiments.intervals import bootstrap_mean
from colaworld.experiments.planning_world import system_folder, system_hash
from colaworld.experiments.presets import PRESETS
from colaworld.experiments.report import aligned
from colaworld.experiments.reproduce_measures import COLLAPSE, health
from colaworld.experiments.reproduce_store import EVALUATION_DIGITS, rounded
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.train_config import TrainConfig
from colaworld.experiments.training import Data, LoopConfig, make_accelerator, train_stage
from colaworld.experiments.video_metrics import VideoMetricsConfig, video_metrics
from colaworld.experiments.watch import mean_error
from colaworld.models.health import health_report, moving_transitions

FORMAT = 1
DRIVERS = {
    "idm": "IDM codes",
    "idm_shuffled": "IDM codes, shuffled",
    "adapter": "adapter",
    "adapter_shuffled": "adapter, shuffled",
    "adapter_codes": "adapter's codes",
    "adapter_codes_shuffled": "adapter's codes, shuffled",
}
"""What drives the world model: the key in the report, and what ``imagine_variants`` calls it."""
STANDARDS = {
    "copy": "last frame copied",
    "codec": "true frames, through the codec",
    "codec_copy": "last frame, through the codec",
}
"""What imagined video, which has passed the codec, is to be compared with."""
WATCHED = 8
"""Clips that a fine-tuning shows numbers of; nothing depends on them."""


def fresh_adapter(system: ColaSystem, kind: AdapterKind, context: int, *, snap: bool, seed: int) -> ActionAdapter:
    """An untrained adapter that fits the system, of its preset's size; without context it has two layers (paper)."""
    channels, rows, columns = system.codec.latent_shape
    size = {**PRESETS[system.info.preset].adapter, "context_frames": context}
    torch.manual_seed(seed)
    return ActionAdapter(
        kind=kind,
        code_sizes=system.bottleneck.code_sizes if kind == "classify" else (),
        snap=snap,
        action_dim=system.info.action_dim,
        frame_skip=system.info.frame_skip,
        latent_action_dim=system.bottleneck.dim,
        latent_channels=channels,
        latent_height=rows,
        latent_width=columns,
        **(size if context else {**size, "depth": 2}),
    ).to(next(system.codec.parameters()).device)


def stage_of(steps: int, batch_size: int, run: Path | None = None) -> StageConfig:
    """The adapter stage, of ``steps`` with batches of ``batch_size``: everything else as the run or system in ``run``
    had it, by the ``config.json`` of its run folder, and as trainings have it by default where there is none.

    ValueError naming the file when what it has in that place is no stage.
    """
    usual = TrainConfig().adapter
    path = None if run is None else run_folder(system_folder(run)) / "config.json"
    if path is not None and path.is_file():
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            usual = StageConfig(**said["adapter"]) if "adapter" in said else usual
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: field 'adapter' is no stage of this version ({error})") from error
    grows = min(usual.learning_rate_warmup, steps // 5)
    return replace(usual, steps=steps, batch_size=batch_size, learning_rate_warmup=grows)


def run_folder(path: Path) -> Path:
    """The folder of the run that ``path`` is, or whose system it is."""
    return path.parent if path.name == "system" else path


def fine_tuned(
    system: ColaSystem, stage: StageConfig, train: ClipDataset, held_out: ClipDataset, *, seed: int
) -> ColaSystem:
    """A copy of the system after its recipe's adapter stage: the world model learns on the latent action model's codes
    and the adapter's answers. The system itself is left as it was, and nothing stays on disk.
    """
    loop = LoopConfig(seed=seed, watch_every=max(1, stage.steps), checkpoint_seconds=inf)
    with TemporaryDirectory() as folder:
        accelerator, copy = make_accelerator(Path(folder), loop, ["tensorboard"]), deepcopy(system)
        for part in copy.parts().values():
            part.to(accelerator.device)
        data = Data(
            train=train,
            watched_train=fixed_batch(train, WATCHED, seed=1).to(accelerator.device),
            held_out=fixed_batch(held_out, WATCHED, seed=2).to(accelerator.device),
        )
        copy = train_stage(accelerator, copy, "adapter", stage, loop, data, Path(folder), steps_before=0)
        accelerator.end_training()
        return copy


@torch.no_grad()
def standards(system: ColaSystem, clips: Batch, video: VideoMetricsConfig) -> dict[str, dict[str, Any]]:
    """``{"video": video_metrics}`` of each of ``STANDARDS``; a codec that never saw such a scene bounds all others."""
    frames = clips.frames.to(next(system.codec.parameters()).device)
    truth, through = frames.float().cpu() / 255.0, system.codec.decode(system.codec.encode(frames)).cpu() / 2.0 + 0.5

    def copied(clips: Tensor) -> Tensor:
        last = clips[:, CONTEXT_FRAMES - 1 : CONTEXT_FRAMES]
        return torch.cat([clips[:, :CONTEXT_FRAMES], last.expand_as(clips[:, CONTEXT_FRAMES:])], dim=1)

    videos = {"copy": copied(truth), "codec": through, "codec_copy": copied(through)}
    return {name: {"video": video_metrics(truth, each, video)} for name, each in videos.items()}


@torch.no_grad()
def measure(system: ColaSystem, clips: Batch, video: VideoMetricsConfig) -> dict[str, Any]:
    """What an ``evaluation.json`` says of IDM's codes and of the adapter (next-frame error, video, codebook health,
    confusion) on windows of 2 + 10 frames, under each of ``DRIVERS`` and ``STANDARDS``; and ``relative_error``,
    the squared error from IDM's latent actions as a share of that of their mean.

    Puts all parts in evaluation mode. ValueError for a system without a latent action model or adapter.
    """
    imagined = imagine_variants(staged(system, "adapter"), clips)
    clips = clips.to(next(system.video.parameters()).device)
    latents, model, adapter = system.codec.encode(clips.frames), system.model(), system.adapter
    read = model.latent_actions(latents)
    frames = context_windows(latents, adapter.config.context_frames)
    right, wrong = adapter(clips.actions, frames), adapter(clips.actions.roll(1, dims=0), frames)

    def answered(answer: Tensor, snap: bool | None = None) -> Tensor:
        return latents_of(adapter, system.bottleneck, answer, snap=snap)

    drivers = {"idm": read.latents, "idm_shuffled": read.latents.roll(1, dims=0)}
    drivers |= {"adapter": answered(right), "adapter_shuffled": answered(wrong)}
    if system.bottleneck.codes:
        drivers |= {"adapter_codes": answered(right, True), "adapter_codes_shuffled": answered(wrong, True)}
    truth = clips.frames.float().cpu() / 255.0
    still = (latents[:, 1:] - latents[:, :-1]).square().flatten(1).mean(dim=1)
    report: dict[str, Any] = {"clips": len(truth), **standards(system, clips, video)}
    report["copy"]["next_frame_error"] = still.tolist()
    spread = (read.latents - read.latents.mean(dim=(0, 1))).square().mean()
    for name, variant in DRIVERS.items():
        if variant in imagined:
            error = mean_error(model, latents, drivers[name], per_clip=True)
            report[name] = {"next_frame_error": error.tolist()}
            report[name] |= {"video": video_metrics(truth, imagined[variant], video)}
            report[name] |= {"relative_error": float(F.mse_loss(drivers[name], read.latents) / spread)}
    if read.indices is not None:
        codes, sizes = codes_of(adapter, system.bottleneck, right), system.bottleneck.code_sizes
        moving, confusion = moving_transitions(latents), adapter_confusion(read.indices, codes, sizes)
        report["idm"]["health"] = health_report(read.indices, sizes, moving)
        for name in ("adapter", "adapter_codes"):
            if name in report:
                report[name]["health"] = health_report(codes, sizes, moving)
                report[name]["confusion"] = {"accuracy": confusion.accuracy, "majority": confusion.majority}
    return report


def interval_text(values: Sequence[float] | np.ndarray, trajectories: Sequence[str], digits: int) -> str:
    """Mean over trajectories of values ``(n,)``, one for each window, with its 95 % interval where there are two."""
    values, names = np.asarray(values, float), np.asarray(trajectories)
    means = np.array([values[names == name].mean() for name in dict.fromkeys(trajectories)])
    if len(means) < 2:
        return f"{means.mean():.{digits}f}"
    found = bootstrap_mean(means)
    return f"{found.estimate:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def check_fits(path: Path, system: ColaSystem, clips: ClipDataset) -> None:
    """ValueError naming the field when the data are not such as the system was made for."""
    for name in ("height", "width", "frame_skip", "action_dim", "render_profile"):
        made, found = getattr(system.info, name), getattr(clips, name)
        if made != found:
            raise ValueError(f"{path}: {name} of the system is {made!r}, of the data {found!r}")


def table(choices: Sequence[dict[str, Any]], trajectories: Sequence[str]) -> str:
    """One line for each driver of each choice; a world model's own (IDM's codes, copying) stand once."""
    rows = [("adapter", "world", "driven by", "accuracy", "majority", "error", "next frame")]
    rows[0] += tuple(f"PSNR at {horizon}" for horizon in HORIZONS) + ("utilisation", "max-usage", "entropy")
    shown: set[str] = set()
    for choice in choices:
        report = choice["report"]
        world = "as it was" if not choice["fine_tune"] else f"{choice['name']} +{choice['fine_tune']}"
        still = float(np.mean(report["copy"]["next_frame_error"]))
        for driver, title in {**STANDARDS, **DRIVERS}.items():
            own = driver.startswith("adapter")
            if driver not in report or (not own and world in shown):
                continue
            found = report[driver]
            confusion = found.get("confusion")
            row = [choice["name"] if own else "-", world, title]
            row += ["-", "-"] if not confusion else [f"{np.mean(confusion[k]):.3f}" for k in ("accuracy", "majority")]
            row += [f"{found['relative_error']:.3f}" if own and "shuffled" not in driver else "-"]
            error = found.get("next_frame_error")
            row += ["-" if error is None else interval_text(np.array(error) / still, trajectories, 3)]
            row += [interval_text(found["video"][str(h)]["psnr"], trajectories, 2) for h in HORIZONS]
            healths = [health(driver, each).read(report) if "health" in found else None for each in COLLAPSE]
            row += ["-" if each is None else f"{float(each):.2f}" for each in healths]
            rows.append(tuple(row))
        shown.add(world)
    return "\n".join(aligned(rows))


def adapter_choices(
    run: Path | None = None,
    kinds: tuple[AdapterKind, ...] = ("regress", "nearest", "classify"),
    context: tuple[Literal[0, 1, 2], ...] = (0, 2),
    data: tuple[Path, ...] = (),
    source: SourceOptions = SourceOptions(),
    fit: AdapterFitConfig = AdapterFitConfig(),
    fine_tune: int = 0,
    batch_size: int = 6,
    clips: int = 32,
    video: VideoMetricsConfig = VideoMetricsConfig(),
    seed: int = 0,
    out: Path = Path("runs/adapter_choices.json"),
) -> None:
    """Fit adapters of every kind and context, print what each makes of the system's world model, write JSON.

    Args:
        run: folder of a training run or of a trained system; the weights that ship when not given.
        kinds: how the adapter answers.
        context: frames that the adapter sees.
        data: what train_world_model.py takes; default: the starter data.
        source: how to read data that colaworld did not record.
        fit: budget of each fit.
        fine_tune: steps of the run's adapter stage after each fit; 0: none.
        batch_size: clips in a batch of these steps.
        clips: held-out windows.
        video: feature networks that are files, for FVD and LPIPS.
        seed: of fresh weights, batches and windows.
        out: the JSON file.
    """
    folder = system_folder(run) if run else weights_path()
    system = load_system(folder)
    if system.inverse_dynamics is None or system.bottleneck is None:
        info = system.info
        raise ValueError(f"{folder}: recipe {info.recipe!r} at stage {info.stage!r} has no latent action model")
    train, held_out = (
        ClipDataset(data or (starter_path(),), length=system.info.clip, split=split, options=source)
        for split in ("train", "validation")
    )
    train.require_actions("an adapter")
    check_fits(folder, system, train)
    windows, trajectories = held_out_windows(held_out.episodes, HeldOutConfig(clips=clips, strips=0, seed=seed))
    stage = stage_of(fine_tune, batch_size, run)
    made: list[dict[str, Any]] = []
    for kind in kinds:
        for frames in context:
            choice = {"name": f"{kind}, {frames} frames", "kind": kind, "context": frames}
            fitted = replace(system, adapter=fresh_adapter(system, kind, frames, snap=False, seed=seed))
            said = fit_adapter(fitted, train.episodes, held_out.episodes, fit, seed=seed)
            report = measure(fitted, windows, video)
            made.append({**choice, "fine_tune": 0, "fit": said, "report": report})
            if fine_tune:
                tuned = fine_tuned(fitted, stage, train, held_out, seed=seed)
                report = measure(tuned, windows, video)
                made.append({**choice, "fine_tune": fine_tune, "fit": said, "report": report})
    settings = {"fit": asdict(fit), "fine_tune": fine_tune, "batch_size": batch_size, "seed": seed}
    settings |= {"stage": asdict(stage) if fine_tune else None}
    content = {"format": FORMAT, "recipe": system.info.recipe, "weights": system_hash(folder), "settings": settings}
    content |= {"trajectories": trajectories, "choices": rounded(made, EVALUATION_DIGITS)}
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items())
    write_text(out, "{\n" + ",\n".join(lines) + "\n}\n")
    made.sort(key=lambda choice: choice["fine_tune"])
    print(
        f"{clips} held-out windows of {len(set(trajectories))} trajectories [95 % interval over trajectories]; error: "
        "squared, as a share of the mean's; next frame: squared error, as a share of copying's",
        table(made, trajectories),
        f"written: {out}",
        sep="\n",
    )


if __name__ == "__main__":
    main(adapter_choices)
