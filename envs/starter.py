"""Starter data: real LIBERO trajectories small enough to ship, so that training starts without recording.

A starter folder holds one H.264 video (yuv444p, lossy) for each scene, all its trajectories one after the other, and
``starter.hdf5`` with everything else but the simulator states. ``envs/demos.py`` reads such a folder as a source beside
recorded files. Actions are exact (they are drawn as multiples of 1/64), positions are rounded to a tenth of a
millimetre.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import h5py
import imageio_ffmpeg
import numpy as np
from av.video.reformatter import VideoReformatter
from einops import rearrange

from colaworld.envs.recording import SceneHeader, replacing

ACTION_UNIT = 1 / 64
METRES_UNIT = 1e-4
TABLE = "starter.hdf5"


@dataclass(frozen=True, kw_only=True)
class StarterScene:
    """N trajectories of T frames from one scene."""

    header: SceneHeader
    frames: np.ndarray
    """uint8 ``(N, T, 3, height, width)``."""
    actions: np.ndarray
    """float32 ``(N, T - 1, frame_skip, 7)``."""
    ee_pos: np.ndarray
    """float32 ``(N, T, 3)``, metres."""
    object_pos: np.ndarray
    """float32 ``(N, T, n, 3)``, metres."""
    object_names: tuple[str, ...]
    seeds: np.ndarray
    """int64 ``(N,)``."""
    kinds: tuple[str, ...]
    splits: tuple[str, ...]


def starter_path() -> Path:
    """The starter folder that ships with the package."""
    return Path(__file__).parent / "starter"


def second_path() -> Path:
    """The second data set that ships with the package, of other scene families than the starter data: a kitchen and a
    floor, 46 trajectories of 61 frames each (half of them experts'), of which 4 are held out.
    """
    return Path(__file__).parent / "second"


def write_starter(folder: Path, scenes: Sequence[StarterScene], *, crf: float, keyframe_every: int) -> None:
    """Pack ``scenes`` into ``folder``; ``crf`` is x264's quality (lower is larger), ``keyframe_every`` in frames."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        write_video(
            folder / f"{scene.header.scene}.mp4",
            rearrange(scene.frames, "n t c h w -> (n t) h w c"),
            crf=crf,
            keyframe_every=keyframe_every,
        )
    with replacing(folder / TABLE) as file:
        for scene in scenes:
            _write_scene(file.create_group(scene.header.scene), scene)


def write_video(path: Path, frames: np.ndarray, *, crf: float, keyframe_every: int) -> None:
    """``frames`` uint8 ``(T, height, width, 3)`` as H.264 with full colour resolution and no frame reordering."""
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (frames.shape[2], frames.shape[1]),
        pix_fmt_in="rgb24",
        pix_fmt_out="yuv444p",
        fps=4,
        codec="libx264",
        quality=None,
        macro_block_size=1,
        output_params=["-crf", str(crf), "-preset", "veryslow", "-bf", "0", "-g", str(keyframe_every), "-threads", "1"],
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def read_starter(folder: Path) -> list[StarterScene]:
    """Every scene of a starter folder; FileNotFoundError or ValueError names the file that is missing or does not
    fit."""
    table = folder / TABLE
    if not table.exists():
        raise FileNotFoundError(f"{folder} is no starter folder: {TABLE} is missing")
    with h5py.File(table, "r") as file:
        return [_read_scene(file[name], folder / f"{name}.mp4") for name in sorted(file)]


def _write_scene(group: h5py.Group, scene: StarterScene) -> None:
    scene.header.write(group.attrs)
    group.attrs["object_names"] = list(scene.object_names)
    steps = np.round(scene.actions / ACTION_UNIT)
    if np.abs(steps * ACTION_UNIT - scene.actions).max() > 1e-6:
        raise ValueError(
            f"{scene.header.scene}: actions are not multiples of {ACTION_UNIT}, so they cannot be packed exactly"
        )
    arrays = {
        "actions": steps.astype(np.int8),
        "ee_pos": _tenths_of_millimetres(scene.ee_pos),
        "object_pos": _tenths_of_millimetres(scene.object_pos),
        "seeds": scene.seeds,
        "kinds": np.array(scene.kinds, dtype="S"),
        "splits": np.array(scene.splits, dtype="S"),
    }
    for name, array in arrays.items():
        group.create_dataset(name, data=array, compression="gzip", compression_opts=9, shuffle=True)


def _tenths_of_millimetres(metres: np.ndarray) -> np.ndarray:
    farthest = np.abs(metres).max()
    if farthest > 3.2:
        raise ValueError(f"a position of {farthest:.2f} m from the origin does not fit the starter data (3.2 m)")
    return np.round(metres / METRES_UNIT).astype(np.int16)


def _read_scene(group: h5py.Group, video: Path) -> StarterScene:
    header = SceneHeader.read(group.attrs, video.parent / TABLE)
    count, steps = group["actions"].shape[:2]
    frames = _read_video(video)
    shape = (count * (steps + 1), header.height, header.width, 3)
    if frames.shape != shape:
        raise ValueError(f"{video}: pictures of shape {frames.shape}, but {TABLE} asks for {shape}")
    return StarterScene(
        header=header,
        frames=np.ascontiguousarray(rearrange(frames, "(n t) h w c -> n t c h w", n=count)),
        actions=group["actions"][()].astype(np.float32) * np.float32(ACTION_UNIT),
        ee_pos=group["ee_pos"][()].astype(np.float32) * np.float32(METRES_UNIT),
        object_pos=group["object_pos"][()].astype(np.float32) * np.float32(METRES_UNIT),
        object_names=tuple(str(name) for name in group.attrs["object_names"]),
        seeds=group["seeds"][()],
        kinds=tuple(kind.decode() for kind in group["kinds"][()]),
        splits=tuple(split.decode() for split in group["splits"][()]),
    )


def _read_video(path: Path) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(f"no starter video at {path}")
    # One reformatter for all frames: a frame's own is set up anew each time, which takes ten times as long as decoding.
    reformatter = VideoReformatter()
    try:
        with av.open(str(path)) as container:
            return np.stack(
                [reformatter.reformat(frame, format="rgb24").to_ndarray() for frame in container.decode(video=0)]
            )
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be decoded (cut short?): {error}") from error
