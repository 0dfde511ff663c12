"""Error of imagined frames against function evaluations a frame, of a world model and of those distilled from it.

    python experiments/few_step_curve.py                              # the weights that ship
    python experiments/few_step_curve.py runs/train runs/few_step     # teacher first; what it imagines is the reference

Held-out windows are imagined from two frames under their real actions, as plans are, in 1, 2, 4, 8 and 16 Euler steps
a frame; all runs and numbers of steps see the same windows and the same noise. The truth is the real clip as the codec
returns it, so that the flow is judged and not the codec. Four kinds of measure, because the first two reward the mean
of all that could follow, however blurred, which one step from noise gives before any distillation:

- latent error (mean square) and PSNR of one imagined frame;
- energy score of the latents (Gneiting and Raftery 2007), ``mean |x - y| - mean |x - x'| / 2`` over ``draws`` futures x
  of each window with truth y: lowest, in the mean, for futures distributed as the truth is;
- sharpness: mean size of the picture's gradient over that of the true frame's, 1 at its best, where the true frame
  differs from the last one seen (everywhere, where none does);
- Frechet distance of all windows' first frames, at equal n.

"from teacher" is the mean squared distance from what the first run imagines in most steps from the same noise. Writes
``few_step_curve.json``, ``few_step_curve.png`` and strips of frames into ``--out``.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import imageio.v3 as iio
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from colaworld.adapters.system import ColaSystem, load_system, weights_path
from colaworld.adapters.world import ColaWorld
from colaworld.envs.demos import ClipDataset, SourceOptions, starter_path
from colaworld.envs.whole_file import whole_file
from colaworld.experiments.batches import Batch
from colaworld.experiments.cli import main
from colaworld.experiments.few_step_plot import draw_curves
from colaworld.experiments.held_out import HORIZONS as REPORTED
from colaworld.experiments.held_out import MOVED, HeldOutConfig, held_out_windows, strip
from colaworld.experiments.intervals import bootstrap_mean
from colaworld.experiments.planning_world import system_folder, system_hash
from colaworld.experiments.provenance import git_revision
from colaworld.experiments.train_few_step import few_step_account
from colaworld.experiments.video_metrics import VideoMetricsConfig, video_metrics
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.flow import SamplerConfig

FORMAT = 1
CLIPWISE = ("latent_error", "psnr", "energy", "sharpness", "from_teacher")


@dataclass(frozen=True, kw_only=True)
class CurveConfig:
    """What is imagined."""

    steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Function evaluations a frame."""
    horizons: tuple[int, ...] = (1, 5)
    """Frames after the context that are judged."""
    clips: int = 64
    """Held-out windows."""
    draws: int = 2
    """Futures of each window; from the bare last frame there is only one."""
    seed: int = 0
    """Of windows and noise."""

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1 or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"--steps must be different numbers of 1 or more, got {self.steps}")
        if not self.horizons or not 1 <= min(self.horizons) <= max(self.horizons) <= max(REPORTED):
            raise ValueError(f"--horizons must lie in 1..{max(REPORTED)}, got {self.horizons}")
        if self.clips < 2 or self.draws < 2:
            raise ValueError(f"--clips and --draws must be 2 or more, got {self.clips} and {self.draws}")


def few_step_curve(
    runs: tyro.conf.Positional[tuple[Path, ...]] = (),
    data: tuple[Path, ...] = (),
    source: SourceOptions = SourceOptions(),
    out: Path = Path("runs/few_step_curve"),
    strips: int = 2,
    config: Annotated[CurveConfig, tyro.conf.arg(name="")] = CurveConfig(),
    video: VideoMetricsConfig = VideoMetricsConfig(),
) -> None:
    """Print the curves, write them as JSON and as a plot.

    Args:
        runs: folders of runs or systems, the teacher first; default: the weights that ship.
        data: what train_world_model.py takes; held-out trajectories are imagined; default: the starter data.
        source: how to read data that colaworld did not record.
        out: folder for what is written.
        strips: how many windows are drawn, each imagined in one step and in four.
        config: what is imagined.
        video: the Frechet distance's features.
    """
    folders = [system_folder(run) for run in runs] or [weights_path()]
    systems = [load_system(folder) for folder in folders]
    check_comparable(folders, systems)
    clips = ClipDataset(
        data or (starter_path(),), length=CONTEXT_FRAMES + max(REPORTED), split="validation", options=source
    )
    clips.require_actions("a curve under real actions")
    windows, _ = held_out_windows(clips.episodes, HeldOutConfig(clips=config.clips, strips=0, seed=config.seed))
    names = [str(run) for run in runs] or ["tiny"]
    imagined = imagine_all(names, systems, windows, config)
    report = judge(systems[0], windows, imagined, config, video)
    for name, folder, system in zip(names, folders, systems, strict=True):
        about = {"checkpoint": system_hash(folder), "few_step": few_step_account(folder)}
        report["runs"][name] = {**about, "flow": asdict(system.info.flow), **report["runs"][name]}
    report = {"format": FORMAT, "revision": git_revision(), "config": asdict(config), **report}
    with whole_file(out / "few_step_curve.json") as partial:
        partial.write_text(json.dumps(report) + "\n")
    draw_curves(report, out / "few_step_curve.png")
    drawn = draw_strips(systems[0], windows, imagined, strips, out)
    print(table(report), f"curves: {out / 'few_step_curve.json'}", *drawn, sep="\n")


def check_comparable(folders: Sequence[Path], systems: Sequence[ColaSystem]) -> None:
    """ValueError when a run cannot imagine real actions, or in other latents than the first."""
    for folder, system in zip(folders, systems, strict=True):
        if system.adapter is None or system.info.stage != "adapter":
            raise ValueError(f"{folder} has only been trained to stage {system.info.stage!r}; curves need 'adapter'")
        own, first = system.codec.state_dict(), systems[0].codec.state_dict()
        if own.keys() != first.keys() or not all(torch.equal(own[key], first[key]) for key in own):
            raise ValueError(f"{folder} has another codec than {folders[0]}: their latents do not compare")


Imagined = dict[str, dict[int, Tensor]]
"""Run -> steps -> latents ``(draws, n, horizon, C, h, w)``."""


def imagine_all(names: Sequence[str], systems: Sequence[ColaSystem], windows: Batch, config: CurveConfig) -> Imagined:
    """Futures of all windows by each system in each number of steps, from the same noise."""
    found: Imagined = {name: {} for name in names}
    with tqdm(total=len(names) * len(config.steps), desc="imagine") as bar:
        for name, system in zip(names, systems, strict=True):
            for steps in config.steps:
                found[name][steps] = imagine(system, windows, steps, config)
                bar.update()
    return found


@torch.no_grad()
def imagine(system: ColaSystem, windows: Batch, steps: int, config: CurveConfig) -> Tensor:
    """Futures ``(draws, n, horizon, C, h, w)`` of the windows under their real actions."""
    world, known, horizon = ColaWorld(system, SamplerConfig(steps=steps)), CONTEXT_FRAMES - 1, max(config.horizons)
    context = torch.stack([world.encode(clip[:CONTEXT_FRAMES]) for clip in windows.frames])
    start = world.imagination.start(context, world.latent_actions(windows.actions[:, :known], context))
    futures: list[Tensor] = []
    for number in range(config.draws):
        chance = torch.Generator().manual_seed(1000 * config.seed + number)
        noise = world.imagination.noise(start, horizon, chance, count=len(context))
        if noise is None and futures:  # nothing is random
            futures.append(futures[0])
            continue
        chosen = world.adapted(windows.actions[:, known:])
        futures.append(world.imagination.roll_out(start, chosen, horizon, noise=noise))
    return torch.stack(futures)


@torch.no_grad()
def judge(
    system: ColaSystem, windows: Batch, imagined: Imagined, config: CurveConfig, video: VideoMetricsConfig
) -> dict[str, Any]:
    """All measures of all runs, and the paired differences between one step and others (``T4``: the first run's
    four).
    """
    latents = torch.stack([system.codec.encode(clip) for clip in windows.frames])
    truth = _pictures(system, latents)
    reference = next(iter(imagined.values()))[max(config.steps)]
    runs: dict[str, Any] = {}
    for name, by_steps in imagined.items():
        curve: dict[str, Any] = {}
        for steps, futures in by_steps.items():
            pictures = torch.cat([truth[:, :CONTEXT_FRAMES], _pictures(system, futures[0])], dim=1)
            seen = video_metrics(
                truth[:, : pictures.shape[1]], pictures, video, horizons=config.horizons, context=CONTEXT_FRAMES
            )
            curve[str(steps)] = {}
            for horizon in config.horizons:
                at, frame = horizon - 1, CONTEXT_FRAMES - 1 + horizon
                clipwise = latent_measures(futures[:, :, at], latents[:, frame])
                clipwise["from_teacher"] = _square(futures[:, :, at] - reference[:, :, at]).mean(dim=0).tolist()
                clipwise["psnr"] = seen[str(horizon)]["psnr"]
                moved = (truth[:, frame] - truth[:, CONTEXT_FRAMES - 1]).abs().amax(dim=1) > MOVED
                clipwise["sharpness"] = sharpness(pictures[:, frame], truth[:, frame], moved).tolist()
                curve[str(steps)][str(horizon)] = {
                    **{measure: asdict(bootstrap_mean(clipwise[measure])) for measure in CLIPWISE},
                    "frechet": seen[str(horizon)]["frechet"],
                    "clips": {measure: [round(value, 5) for value in clipwise[measure]] for measure in CLIPWISE},
                }
        runs[name] = {"curve": curve}
        if 1 in by_steps:
            first = next(iter(runs.values()))["curve"]
            compared = {steps: found for steps, found in curve.items() if steps != "1"}
            if first is not curve:
                compared |= {f"T{steps}": found for steps, found in first.items()}
            runs[name]["one_step_minus"] = {other: paired(curve["1"], found) for other, found in compared.items()}
    return {"windows": len(latents), "runs": runs}


def latent_measures(futures: Tensor, truth: Tensor) -> dict[str, list[float]]:
    """Mean squared error and energy score, one a window, of ``futures (draws, n, C, h, w)`` against ``truth (n, C, h,
    w)``.
    """
    draws, size = len(futures), futures[0, 0].numel()
    to_truth = (_square(futures - truth) * size).sqrt().mean(dim=0)
    apart = (_square(futures[:, None] - futures[None]) * size).sqrt().sum(dim=(0, 1)) / (draws * (draws - 1))
    return {"latent_error": _square(futures - truth).mean(dim=0).tolist(), "energy": (to_truth - apart / 2).tolist()}


def sharpness(pictures: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """Mean size of the gradient of ``pictures (n, 3, height, width)`` over that of ``truth``, in the pixels ``where (n,
    height, width)``, or in all where there are none: ``(n,)``.
    """
    chosen = (where | ~where.flatten(1).any(dim=1)[:, None, None]).float()

    def steepness(frames: Tensor) -> Tensor:
        down, across = torch.gradient(frames, dim=(-2, -1))
        return ((down.abs() + across.abs()).mean(dim=1) * chosen).sum(dim=(1, 2))

    return steepness(pictures) / steepness(truth).clamp_min(1e-6)


def paired(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Mean differences over windows, with intervals, of every measure at every horizon."""
    return {
        horizon: {
            measure: asdict(
                bootstrap_mean(
                    [a - b for a, b in zip(one[horizon]["clips"][measure], found["clips"][measure], strict=True)]
                )
            )
            for measure in CLIPWISE
        }
        for horizon, found in other.items()
    }


def _square(difference: Tensor) -> Tensor:
    return difference.square().flatten(-3).mean(dim=-1)


def _pictures(system: ColaSystem, latents: Tensor) -> Tensor:
    return torch.stack([system.codec.decode(clip).add(1.0).div(2.0).clamp(0.0, 1.0) for clip in latents])


def draw_strips(system: ColaSystem, windows: Batch, imagined: Imagined, count: int, out: Path) -> list[str]:
    """Pictures of the first ``count`` windows: the real clip as the codec returns it, then each run in one step and in
    four (or as many as there are).
    """
    said = []
    for number in range(min(count, len(windows.frames))):
        horizon = next(iter(next(iter(imagined.values())).values())).shape[2]
        clip = windows.frames[number, CONTEXT_FRAMES - 1 : CONTEXT_FRAMES + horizon]
        rows = {"real": _pictures(system, system.codec.encode(clip)[None])[0]}
        for name, by_steps in imagined.items():
            for steps in sorted({min(by_steps), 4 if 4 in by_steps else max(by_steps)}):
                future = _pictures(system, by_steps[steps][:1, number])[0]
                rows[f"{name} in {steps}"] = torch.cat([rows["real"][:1], future])
        with whole_file(out / f"strip_{number}.png") as partial:
            iio.imwrite(partial, strip(list(rows.values())), extension=".png")
        said = [f"strips (rows: {', '.join(rows)}): {out}"]
    return said


def table(report: dict[str, Any]) -> str:
    """The curves as text: means over windows with 95 % intervals, and one step less the others (``T``: of the first
    run), window by window.
    """
    lines = [f"{report['windows']} held-out windows, means [95 % interval over windows]"]
    heads = ("latent error", "PSNR (dB)", "energy score", "sharpness", "from teacher")
    head = f"{'h':>2}{'steps':>6}" + "".join(f"{title:>31}" for title in heads) + f"{'Frechet (at n)':>20}"
    order = ("latent_error", "psnr", "energy", "sharpness", "from_teacher")
    for name, run in report["runs"].items():
        lines += [f"{name} (from {'noise' if run['flow']['source'] == 'noise' else 'the last frame'})", head]
        for horizon in report["config"]["horizons"]:
            for steps, found in run["curve"].items():
                at = found[str(horizon)]
                cells = "".join(f" {_cell(at[measure]):>30}" for measure in order)
                far = at["frechet"]
                value = "-" if far["value"] is None else f"{far['value']:.3f}"
                lines.append(f"{horizon:>2}{steps:>6}{cells}{value:>12} ({far['plain']:.3f})")
        for steps, found in run.get("one_step_minus", {}).items():
            for horizon, at in found.items():
                cells = "".join(f" {_cell(at[measure]):>30}" for measure in order)
                lines.append(f"{horizon:>2} {'1-' + steps:>5}{cells}")
    return "\n".join(lines)


def _cell(interval: dict[str, float]) -> str:
    return "{estimate:.4g} [{low:.4g}, {high:.4g}]".format(**interval)


if __name__ == "__main__":
    main(few_step_curve)
