"""Pack recordings into a starter folder (videos and a table), and say what the video compression costs::

    python experiments/pack_starter.py --sources data/goal.hdf5 data/spatial.hdf5 --crf 24
    python experiments/pack_starter.py --sources data/play-v1 --out data/play-v1-packed --max-mib 25

One video for each scene; recordings of the same scene are joined. Everything is kept but the simulator states. What is
printed is measured on what the reader gives back.
"""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from colaworld.envs.demos import ClipDataset, Episode
from colaworld.envs.recording import SceneHeader
from colaworld.envs.starter import TABLE, StarterScene, read_starter, starter_path, write_starter
from colaworld.experiments.cli import main

MOVED = 20
"""A pixel moves when some channel changes by more than this (of 255) from one frame to the next."""
CRF_RANGE = (4, 45)
"""Lowest and highest crf to choose from."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Peak signal-to-noise ratio in dB of packed against recorded frames."""

    mean: float
    """Mean over frames."""
    worst: float
    """The worst frame."""
    moving: float
    """All pixels that move, pooled."""


def pack_starter(
    sources: tuple[Path, ...],
    out: Path = starter_path(),
    crf: float | None = None,
    max_mib: float | None = None,
    keyframe_every: int = 310,
    max_episodes: int = 330,
) -> None:
    """Write the starter folder ``out``.

    Args:
        sources: recorded HDF5 files, or folders of them.
        out: the folder to write.
        crf: x264's constant rate factor; lower is larger and better. Left out, 24, or what --max-mib allows.
        max_mib: choose the lowest whole crf with which the folder takes at most so many MiB.
        keyframe_every: frames between key frames; the camera stands still, so a long way costs nothing but seeking.
        max_episodes: at most this many trajectories of a scene, in the order recorded.
    """
    if not sources:
        raise ValueError("--sources names no recording")
    if crf is not None and max_mib is not None:
        raise ValueError("--max-mib chooses the crf: leave out --crf")
    if max_mib is not None and not max_mib > 0:
        raise ValueError(f"max_mib must be above 0, got {max_mib}")
    recorded = _scenes(sources, max_episodes)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")

    def pack(each: float) -> float:
        shutil.rmtree(partial, ignore_errors=True)
        write_starter(partial, recorded, crf=each, keyframe_every=keyframe_every)
        size = sum(file.stat().st_size for file in partial.iterdir()) / 2**20
        print(f"crf {each:g}: {size:.2f} MiB", flush=True)
        return size

    try:
        if max_mib is not None:
            crf, last = fitting_crf(pack, max_mib)
            if last != crf:
                pack(crf)
        else:
            pack(24.0 if crf is None else crf)
        _put_in_place(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for before, after in zip(recorded, read_starter(out), strict=True):
        found = fidelity(before.frames, after.frames)
        print(
            f"{before.header.scene}: {len(before.frames)} trajectories, PSNR {found.mean:.1f} dB mean, "
            f"{found.worst:.1f} dB worst frame, {found.moving:.1f} dB on moving pixels"
        )
    print(f"{out}: {sum(file.stat().st_size for file in out.iterdir()) / 2**20:.2f} MiB")


def fitting_crf(pack: Callable[[int], float], limit: float) -> tuple[int, int]:
    """The lowest whole crf in ``CRF_RANGE`` for which ``pack(crf)``, a size that falls with crf, is at most ``limit``;
    and the crf that was packed last.

    ValueError when even the highest is too large.
    """
    too_low, fits = CRF_RANGE[0] - 1, CRF_RANGE[1] + 1
    crf, slope, before = 24, -1 / 6, None  # x264 halves its output about every six steps of crf
    while fits - too_low > 1:
        size = pack(crf)
        too_low, fits = (too_low, crf) if size <= limit else (crf, fits)
        if before is not None and size != before[1]:
            slope = min(-0.01, math.log2(size / before[1]) / (crf - before[0]))
        before = crf, size
        guess = crf + math.ceil(math.log2(limit / size) / slope)
        crf = min(max(guess, too_low + 1), fits - 1)
    if fits > CRF_RANGE[1]:
        raise ValueError(f"even crf {CRF_RANGE[1]} takes {size:.2f} MiB, more than the {limit:g} MiB of --max-mib")
    return fits, before[0]


def _put_in_place(partial: Path, out: Path) -> None:
    """Give the folder ``partial`` the name ``out``; what was a starter folder there goes."""
    if out.exists() and not (out / TABLE).exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something else than starter data; choose another --out")
    old = partial.with_suffix(".old")
    if out.exists():
        os.replace(out, old)
    os.replace(partial, out)
    shutil.rmtree(old, ignore_errors=True)


def fidelity(recorded: np.ndarray, packed: np.ndarray) -> Fidelity:
    """Compare uint8 frames ``(N, T, 3, height, width)``."""
    squared = (recorded.astype(np.float32) - packed) ** 2
    step = np.abs(np.diff(recorded.astype(np.int16), axis=1)).max(axis=2, keepdims=True) > MOVED
    moving = np.broadcast_to(step, squared[:, 1:].shape)
    per_frame = _decibel(squared.mean(axis=(2, 3, 4)))
    return Fidelity(
        mean=float(per_frame.mean()),
        worst=float(per_frame.min()),
        moving=float(_decibel(squared[:, 1:][moving].mean())) if moving.any() else float(per_frame.mean()),
    )


def _decibel(squared_error: np.ndarray) -> np.ndarray:
    return 10 * np.log10(255.0**2 / np.maximum(squared_error, 1e-3))


def _scenes(sources: tuple[Path, ...], max_episodes: int) -> list[StarterScene]:
    """The trajectories of ``sources``, stacked for each scene in the order of the scenes' names."""
    headers: dict[str, SceneHeader] = {}
    episodes: dict[str, list[Episode]] = {}
    for source in sources:
        dataset = ClipDataset([source], length=2, split="all")
        if not dataset.scenes:
            raise ValueError(f"{source}: starter data are packed from colaworld's own recordings, and this is none")
        for header in dataset.scenes:
            if headers.setdefault(header.scene, header) != header:
                raise ValueError(f"{source}: recorded as {header}, an earlier source as {headers[header.scene]}")
        for episode in dataset.episodes:
            episodes.setdefault(episode.scene, []).append(episode)
    return [_stack(headers[scene], episodes[scene][:max_episodes]) for scene in sorted(headers)]


def _stack(header: SceneHeader, episodes: list[Episode]) -> StarterScene:
    lengths = {len(episode.frames) for episode in episodes}
    if len(lengths) > 1:
        raise ValueError(f"{header.scene}: trajectories of {sorted(lengths)} frames; a starter scene needs one length")
    return StarterScene(
        header=header,
        frames=np.stack([episode.frames for episode in episodes]),
        actions=np.stack([episode.actions for episode in episodes]),
        ee_pos=np.stack([episode.ee_pos for episode in episodes]),
        object_pos=np.stack([episode.object_pos for episode in episodes]),
        object_names=episodes[0].object_names,
        seeds=np.array([episode.seed for episode in episodes], np.int64),
        kinds=tuple(episode.kind for episode in episodes),
        splits=tuple(episode.split for episode in episodes),
    )


if __name__ == "__main__":
    main(pack_starter)
