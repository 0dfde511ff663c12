"""Recorded demonstrations as clips: the reader of what ``envs/recording.py`` and ``envs/starter.py`` write.

A clip is ``length`` frames ``uint8 (T, 3, height, width)``, upright, with the action chunks ``float32 (T - 1,
frame_skip, 7)`` between them: ``actions[k]`` leads from ``frames[k]`` to ``frames[k + 1]``. Files of another pairing
(LIBERO's own store the picture after the step) are refused, since nothing later would show the slip.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

import h5py
import numpy as np
from einops import rearrange

from colaworld.envs.recording import ACTION_DIM, SceneHeader, demo_names, open_recording
from colaworld.envs.starter import StarterScene, read_starter, starter_path

__all__ = ["Clip", "ClipDataset", "Episode", "starter_path"]

Split = Literal["train", "validation", "all"]


class Clip(NamedTuple):
    """One training window of T frames."""

    frames: np.ndarray
    """uint8 ``(T, 3, height, width)``, upright RGB."""
    actions: np.ndarray
    """float32 ``(T - 1, frame_skip, 7)`` in [-1, 1]."""
    ee_pos: np.ndarray
    """float32 ``(T, 3)``: the gripper in the world frame, metres."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One whole trajectory of T frames, and where it comes from."""

    frames: np.ndarray
    """uint8 ``(T, 3, height, width)``."""
    actions: np.ndarray
    """float32 ``(T - 1, frame_skip, 7)``."""
    ee_pos: np.ndarray
    """float32 ``(T, 3)``, metres."""
    object_pos: np.ndarray
    """float32 ``(T, n, 3)``, metres, in the order of ``object_names``."""
    object_names: tuple[str, ...]
    seed: int
    kind: str
    split: str
    scene: str
    demo: str

    def clip(self, start: int, length: int) -> Clip:
        """The window of ``length`` frames that begins at frame ``start``."""
        return Clip(
            self.frames[start : start + length],
            self.actions[start : start + length - 1],
            self.ee_pos[start : start + length],
        )


class ClipDataset:
    """All windows of ``length`` frames in recorded files and starter folders; a map-style dataset for torch's
    ``DataLoader``.

    ``sources`` are ``.hdf5`` files of ``experiments/collect.py`` or folders of ``envs/starter.py``. ``in_memory=False``
    unpacks the frames of an HDF5 file once into ``<file>.frames.npy`` beside it and maps that into memory; a starter
    folder is small and is always decoded. ``split`` keeps the trajectories marked so when they were recorded.

    ValueError names file, demo and field where something is missing or has the wrong shape, and the field and both
    values where two sources differ in frame size, frame skip, action size or render profile.
    """

    def __init__(
        self, sources: Sequence[str | Path], *, length: int, split: Split = "train", in_memory: bool = True
    ) -> None:
        if length < 2:
            raise ValueError(f"a clip needs at least 2 frames, got length={length}")
        if split not in ("train", "validation", "all"):
            raise ValueError(f"split must be 'train', 'validation' or 'all', got {split!r}")
        if isinstance(sources, str | Path) or not sources:
            raise ValueError(f"sources must be a non-empty list of .hdf5 files or starter folders, got {sources!r}")
        self.length = length
        self.scenes: list[SceneHeader] = []
        self.episodes: list[Episode] = []
        for source in map(Path, sources):
            for header, episodes in _read_source(source, in_memory=in_memory):
                self._check_agrees(header, source)
                self.scenes.append(header)
                self.episodes += [episode for episode in episodes if split in ("all", episode.split)]
        self._ends = list(accumulate(max(0, len(episode.frames) - length + 1) for episode in self.episodes))
        if not self._ends or self._ends[-1] == 0:
            longest = max((len(episode.frames) for episode in self.episodes), default=0)
            raise ValueError(
                f"no clip of length={length} in split {split!r} of {', '.join(map(str, sources))}: "
                f"{len(self.episodes)} trajectories, the longest of {longest} frames"
            )

    def _check_agrees(self, header: SceneHeader, source: Path) -> None:
        for field in ("height", "width", "frame_skip", "render_profile"):
            first, found = getattr(self.scenes[0] if self.scenes else header, field), getattr(header, field)
            if first != found:
                raise ValueError(f"{source}: {field} is {found!r}, but the sources before it have {first!r}")

    @property
    def height(self) -> int:
        return self.scenes[0].height

    @property
    def width(self) -> int:
        return self.scenes[0].width

    @property
    def frame_skip(self) -> int:
        return self.scenes[0].frame_skip

    @property
    def render_profile(self) -> str:
        return self.scenes[0].render_profile

    @property
    def action_dim(self) -> int:
        return ACTION_DIM

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Clip:
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        before = self._ends[number - 1] if number else 0
        return self.episodes[number].clip(index - before, self.length)


def _read_source(source: Path, *, in_memory: bool) -> list[tuple[SceneHeader, list[Episode]]]:
    if not source.exists():
        raise FileNotFoundError(f"no recording at {source}")
    if source.is_dir():
        return [(scene.header, _starter_episodes(scene)) for scene in read_starter(source)]
    with open_recording(source) as file:
        data = file["data"]
        header = SceneHeader.read(data.attrs, source)
        names = demo_names(data)
        for name in names:
            _check_demo(data[name], f"{source}: {name}", header)
        pictures = _loaded_frames(data, names) if in_memory else _mapped_frames(data, names, source, header)
        episodes = [_episode(data[name], name, header, frames) for name, frames in zip(names, pictures, strict=True)]
        return [(header, episodes)]


def _check_demo(demo: h5py.Group, where: str, header: SceneHeader) -> None:
    """Every field the reader needs is there and has the shape that the header and the number of frames ask for."""
    for field in ("obs/agentview_rgb", "obs/ee_pos", "obs/object_pos", "actions"):
        if field not in demo:
            raise ValueError(f"{where}: field {field!r} is missing")
    for name in ("seed", "kind", "split"):
        if name not in demo.attrs:
            raise ValueError(f"{where}: attribute {name!r} is missing")
    count = len(demo["obs/agentview_rgb"])
    wanted = {
        "obs/agentview_rgb": (count, header.height, header.width, 3),
        "obs/ee_pos": (count, 3),
        "obs/object_pos": (count, len(demo["obs/object_pos"].attrs.get("object_names", ())), 3),
        "actions": (count - 1, header.frame_skip, ACTION_DIM),
    }
    for field, shape in wanted.items():
        if demo[field].shape != shape:
            raise ValueError(f"{where}: field {field!r} has shape {demo[field].shape}, expected {shape}")
    if demo["obs/agentview_rgb"].dtype != np.uint8:
        raise ValueError(
            f"{where}: field 'obs/agentview_rgb' has type {demo['obs/agentview_rgb'].dtype}, expected uint8"
        )


def _episode(demo: h5py.Group, name: str, header: SceneHeader, frames: np.ndarray) -> Episode:
    positions = demo["obs/object_pos"]
    return Episode(
        frames=frames,
        actions=demo["actions"][()].astype(np.float32),
        ee_pos=demo["obs/ee_pos"][()].astype(np.float32),
        object_pos=positions[()].astype(np.float32),
        object_names=tuple(str(each) for each in positions.attrs["object_names"]),
        seed=int(demo.attrs["seed"]),
        kind=str(demo.attrs["kind"]),
        split=str(demo.attrs["split"]),
        scene=header.scene,
        demo=name,
    )


def _loaded_frames(data: h5py.Group, names: Sequence[str]) -> list[np.ndarray]:
    return [
        np.ascontiguousarray(rearrange(data[name]["obs/agentview_rgb"][()], "t h w c -> t c h w")) for name in names
    ]


def _mapped_frames(data: h5py.Group, names: Sequence[str], source: Path, header: SceneHeader) -> list[np.ndarray]:
    """The frames as slices of one file in memory's address space; HDF5's compressed chunks cannot be mapped
    themselves."""
    counts = [len(data[name]["obs/agentview_rgb"]) for name in names]
    shape = (sum(counts), 3, header.height, header.width)
    unpacked = source.with_name(source.name + ".frames.npy")
    if not unpacked.exists() or unpacked.stat().st_mtime_ns < source.stat().st_mtime_ns:
        partial = unpacked.with_name(f"{unpacked.name}.{os.getpid()}.partial")
        store = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        np.concatenate(_loaded_frames(data, names), out=store)
        store.flush()
        os.replace(partial, unpacked)
    store = np.load(unpacked, mmap_mode="c")
    if store.shape != shape:
        raise ValueError(f"{unpacked}: shape is {store.shape}, but {source} holds {shape}; delete the unpacked file")
    ends = list(accumulate(counts))
    return [store[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _starter_episodes(scene: StarterScene) -> list[Episode]:
    return [
        Episode(
            frames=scene.frames[i],
            actions=scene.actions[i],
            ee_pos=scene.ee_pos[i],
            object_pos=scene.object_pos[i],
            object_names=scene.object_names,
            seed=int(scene.seeds[i]),
            kind=scene.kinds[i],
            split=scene.splits[i],
            scene=scene.header.scene,
            demo=f"demo_{i}",
        )
        for i in range(len(scene.frames))
    ]
