"""Imagined video on held-out trajectories: does the model beat copying the last frame, and are its actions used?

    python experiments/held_out.py                             # the weights that ship, on held-out starter data
    python experiments/held_out.py --run runs/train --data my.hdf5

From two context frames the model imagines on its own for up to ten steps, driven by the inverse dynamics model's codes,
by the adapter's codes (real actions), and by either of them shuffled between trajectories. The error is squared pixel
error on *moving* pixels: those that differ by more than ``MOVED`` between the last context frame and the true frame.
Intervals are of a ratio of errors, bootstrapped over trajectories: those of several windows count once.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import imageio.v3 as iio
import numpy as np
import torch
import tyro
from einops import rearrange, repeat
from torch import Tensor

from colaworld.adapters.system import ColaSystem, load_system, weights_path
from colaworld.adapters.world import ColaWorld
from colaworld.envs.demos import ClipDataset, Episode, SourceOptions, starter_path
from colaworld.experiments.batches import Batch, collate
from colaworld.experiments.cli import main
from colaworld.experiments.intervals import bootstrap_ratio
from colaworld.experiments.planning_world import system_folder
from colaworld.models.clip_imagination import over_frames
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.imagination import Imagination, given

MOVED = 0.06  # of a pixel's range [0, 1], in any colour; the codec's own error is below it
HORIZONS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig:
    """How many held-out windows to imagine, and how many to draw."""

    clips: int = 64
    """Held-out windows that are imagined."""
    strips: int = 6
    """How many of them are drawn."""
    seed: int = 0
    """Which windows."""

    def __post_init__(self) -> None:
        if self.clips < 2 or not 0 <= self.strips <= self.clips:
            raise ValueError(
                f"held-out clips must be 2 or more and strips between 0 and clips, got {self.clips}, {self.strips}"
            )


def report_held_out(system: ColaSystem, episodes: Sequence[Episode], config: HeldOutConfig, folder: Path) -> dict:
    """Imagine, print a table, write ``held_out.json`` and picture strips into ``folder``."""
    windows, trajectories = held_out_windows(episodes, config)
    imagined = imagine_variants(system, windows)
    return write_held_out(windows, imagined, trajectories, config, folder)


def write_held_out(
    windows: Batch, imagined: dict[str, Tensor], trajectories: Sequence[str], config: HeldOutConfig, folder: Path
) -> dict:
    """The second half of `report_held_out`, for windows that have been imagined."""
    truth = windows.frames.float().cpu() / 255.0
    report = compare(truth, imagined, trajectories)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "held_out.json").write_text(
        json.dumps({"clips": len(truth), "seed": config.seed, **report}, indent=2) + "\n"
    )
    for number in range(config.strips):
        rows = {
            "real": truth[number],
            **{name: frames[number] for name, frames in imagined.items() if "shuffled" not in name},
        }
        iio.imwrite(folder / f"strip_{number}.png", strip(list(rows.values())))
    print(
        table(report),
        f"strips (rows: real, {', '.join(name for name in imagined if 'shuffled' not in name)}): {folder}",
        sep="\n",
    )
    return report


def long_enough(episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes of at least context + 10 frames; ValueError when there are fewer than two."""
    length = CONTEXT_FRAMES + max(HORIZONS)
    fitting = [episode for episode in episodes if len(episode.frames) >= length]
    if len(fitting) < 2:
        raise ValueError(f"held-out evaluation needs 2 trajectories of at least {length} frames, found {len(fitting)}")
    return fitting


def trajectory_of(episode: Episode) -> str:
    """What a trajectory is called: windows of the same are not independent."""
    return f"{episode.scene}/{episode.demo}/{episode.seed}"


def held_out_windows(episodes: Sequence[Episode], config: HeldOutConfig) -> tuple[Batch, list[str]]:
    """Windows of context + 10 frames, with their action chunks, from as many different trajectories as there are; and
    the trajectory of each."""
    length, fitting = CONTEXT_FRAMES + max(HORIZONS), long_enough(episodes)
    draw = np.random.default_rng(config.seed)
    windows, trajectories = [], []
    for number in range(config.clips):
        if number % len(fitting) == 0:
            order = draw.permutation(len(fitting))
        episode = fitting[order[number % len(fitting)]]
        start = int(draw.integers(len(episode.frames) - length + 1))
        windows.append(episode.clip(start, length))
        trajectories.append(trajectory_of(episode))
    return collate(windows), trajectories


@torch.no_grad()
def imagine_variants(system: ColaSystem, windows: Batch) -> dict[str, Tensor]:
    """Frames ``(n, context + 10, 3, height, width)`` in [0, 1] of each variant, context frames as the codec returns
    them.
    """
    device = next(system.video.parameters()).device
    for part in system.parts().values():
        part.eval()
    model = system.model()
    frames, actions = windows.frames.to(device), windows.actions.to(device)
    latents = system.codec.encode(frames)
    imagination = over_frames(Imagination(system.video, system.conditioner, system.info.flow), system.codec)
    context, known, horizon = latents[:, :CONTEXT_FRAMES], CONTEXT_FRAMES - 1, max(HORIZONS)

    def decoded(future: Tensor) -> Tensor:
        return system.codec.decode(torch.cat([context, future], dim=1)).add(1.0).div(2.0).cpu()

    def by_codes(these: Tensor) -> Tensor:
        start = imagination.start(context, codes[:, :known])
        return decoded(imagination.roll_out(start, given(these[:, known:]), horizon))

    variants: dict[str, Tensor] = {}
    if system.inverse_dynamics is not None:
        codes = model.latent_actions(latents).latents
        variants = {"IDM codes": by_codes(codes), "IDM codes, shuffled": by_codes(codes.roll(1, dims=0))}
    if system.info.stage == "adapter" or system.inverse_dynamics is None:
        snapped = system.bottleneck.codes and not system.adapter.config.snap

        def by_actions(these: Tensor, snap: bool | None = None) -> Tensor:
            world = ColaWorld(system, snap=snap)
            start = imagination.start(context, world.latent_actions(actions[:, :known], context))
            return decoded(imagination.roll_out(start, world.adapted(these[:, known:]), horizon))

        others = actions.roll(1, dims=0)
        variants |= {"adapter": by_actions(actions), "adapter, shuffled": by_actions(others)}
        if snapped:  # the paper's adapter answers with codes
            variants["adapter's codes"] = by_actions(actions, True)
            variants["adapter's codes, shuffled"] = by_actions(others, True)
    return variants


def compare(truth: Tensor, imagined: dict[str, Tensor], trajectories: Sequence[str]) -> dict:
    """Errors on moving pixels relative to copying the last frame, at each horizon, with 95 % bootstrap intervals
    over the ``trajectories`` of the windows. ValueError when fewer than two of them move.
    """
    last = truth[:, CONTEXT_FRAMES - 1]
    report: dict = {"rows": []}
    for horizon in HORIZONS:
        real = truth[:, CONTEXT_FRAMES - 1 + horizon]
        moving = ((real - last).abs().amax(dim=1, keepdim=True) > MOVED).float()

        def errors(frames: Tensor) -> np.ndarray:
            square = (frames - real).square().mean(dim=1, keepdim=True)
            return ((square * moving).sum(dim=(1, 2, 3)) / moving.sum(dim=(1, 2, 3)).clamp_min(1.0)).double().numpy()

        kept = moving.sum(dim=(1, 2, 3)).numpy() > 0
        names = np.array(list(trajectories))[kept]
        if len(set(names)) < 2:
            raise ValueError(
                f"held-out video stands still: of {len(truth)} windows {kept.sum()} move at step {horizon} (a pixel by "
                f"more than {MOVED} of its range), of {len(set(names))} trajectories, and the error on moving pixels "
                "needs 2; take more windows or data in which something moves"
            )
        copy = errors(last)[kept]
        for name, frames in imagined.items():
            mine = errors(frames[:, CONTEXT_FRAMES - 1 + horizon])[kept]
            row = {"horizon": horizon, "variant": name, "windows": int(kept.sum()), "copy": float(copy.mean())}
            row |= {"error": float(mine.mean()), "reduction": float(1.0 - mine.mean() / copy.mean())}
            row["below_copy"] = _below(copy - mine, copy, names)
            if name + ", shuffled" in imagined:
                wrong = errors(imagined[name + ", shuffled"][:, CONTEXT_FRAMES - 1 + horizon])[kept]
                row["below_shuffled"] = _below(wrong - mine, copy, names)
            report["rows"].append(row)
    return report


def _below(differences: np.ndarray, copy: np.ndarray, trajectories: np.ndarray) -> list[float]:
    """Paired differences ``(n,)`` in units of the copy's error, each a mean over windows, and their 95 % interval."""
    numbers = np.unique(trajectories, return_inverse=True)[1]
    interval = bootstrap_ratio(np.bincount(numbers, differences), np.bincount(numbers, copy))
    return [interval.estimate, interval.low, interval.high]


def table(report: dict) -> str:
    """The report as text."""
    lines = [
        "error on moving pixels of held-out video, relative to copying the last frame "
        "[95 % interval over trajectories]",
        f"{'variant':<27}{'step':>5}{'below copy':>28}{'below shuffled actions':>30}",
    ]
    for row in report["rows"]:
        below = "{:6.1%} [{:6.1%}, {:6.1%}]".format(*row["below_copy"])
        shuffled = "{:6.1%} [{:6.1%}, {:6.1%}]".format(*row["below_shuffled"]) if "below_shuffled" in row else ""
        lines.append(f"{row['variant']:<27}{row['horizon']:>5}{below:>28}{shuffled:>30}")
    return "\n".join(lines)


def strip(rows: Sequence[Tensor], scale: int = 2) -> np.ndarray:
    """Rows of frames ``(T, 3, height, width)`` in [0, 1] as one picture, enlarged without smoothing."""
    picture = (
        rearrange(torch.stack(list(rows)), "r t c h w -> (r h) (t w) c").clamp(0, 1).mul(255).round().byte().numpy()
    )
    return repeat(picture, "h w c -> (h i) (w j) c", i=scale, j=scale)


def held_out(
    run: Path | None = None,
    data: tuple[Path, ...] = (),
    source: SourceOptions = SourceOptions(),
    out: Path = Path("runs/held_out"),
    config: Annotated[HeldOutConfig, tyro.conf.arg(name="")] = HeldOutConfig(),
) -> None:
    """Imagine held-out clips with a trained system, print the table, write ``held_out.json`` and strips.

    Args:
        run: folder of a training run or of a trained system; the weights that ship when not given.
        data: what train_world_model.py takes; its held-out trajectories are imagined; default: the starter data.
        source: how to read data that colaworld did not record.
        out: folder for ``held_out.json`` and the strips.
        config: how many clips, which, and how many are drawn.
    """
    system = load_system(system_folder(run) if run else weights_path())
    length = CONTEXT_FRAMES + max(HORIZONS)
    clips = ClipDataset(data or (starter_path(),), length=length, split="validation", options=source)
    if system.info.stage == "adapter":
        clips.require_actions("a system with an adapter")
    report_held_out(system, clips.episodes, config, out)


if __name__ == "__main__":
    main(held_out)
