"""Data as clips: one dataset over everything that a source can be.

A clip is ``length`` frames ``uint8 (T, 3, height, width)``, upright, with the action chunks ``float32 (T - 1,
frame_skip, A)`` between them: ``actions[k]`` leads from ``frames[k]`` to ``frames[k + 1]``. What a path holds is told
by its content: recordings of ``envs/recording.py`` (read here), starter folders, LIBERO's own files, LeRobot data sets,
folders of videos (each read in a file of its own).
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import h5py
import numpy as np
from einops import rearrange

from colaworld.envs.episode import Clip, Episode, Source, Split, recorded_source
from colaworld.envs.lerobot import is_lerobot_folder, read_lerobot
from colaworld.envs.libero_hdf5 import is_libero_file, read_libero
from colaworld.envs.recording import ACTION_DIM, SceneHeader, demo_names, open_recording
from colaworld.envs.source_options import SourceOptions
from colaworld.envs.starter import TABLE, StarterScene, read_starter, starter_path
from colaworld.envs.video_folder import read_videos, videos_in

__all__ = ["Clip", "ClipDataset", "Episode", "SourceOptions", "starter_path"]


class ClipDataset:
    """All windows of ``length`` frames in the sources; a map-style dataset for torch's ``DataLoader``.

    ``sources`` are ``.hdf5`` files (of ``experiments/collect.py`` or LIBERO's) or folders of them, starter folders,
    LeRobot data sets and folders of ``.mp4``; ``options`` say what the files of others do not. Starter folders are
    decoded at once, and so are ``.hdf5`` files by default; ``in_memory=False`` unpacks our own once into
    ``<file>.frames.npy`` beside it and maps that into memory, and reads LIBERO's when a frame is asked for. Videos and
    LeRobot's pictures are always decoded when asked for. ``split`` keeps the trajectories marked so.

    ValueError names file, demo and field where something is missing or has the wrong shape, the field and both values
    where two sources differ in frame size, frame skip, action size or render profile, and an option without a use.
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        *,
        length: int,
        split: Split = "train",
        in_memory: bool = True,
        options: SourceOptions | None = None,
    ) -> None:
        if length < 2:
            raise ValueError(f"a clip needs at least 2 frames, got length={length}")
        if split not in ("train", "validation", "all"):
            raise ValueError(f"split must be 'train', 'validation' or 'all', got {split!r}")
        if isinstance(sources, str | Path) or not sources:
            raise ValueError(f"sources must be a non-empty list of files or folders of data, got {sources!r}")
        self.length, options = length, options or SourceOptions()
        self.sources = [
            source for path in map(Path, sources) for source in _read_source(path, options, in_memory=in_memory)
        ]
        for number, source in enumerate(self.sources):
            _check_agrees(source, self.sources[:number])
        unused = options.given() - frozenset().union(*(source.uses for source in self.sources))
        if unused:
            raise ValueError(f"source option {min(unused)!r} says nothing of {', '.join(map(str, sources))}")
        self.episodes: list[Episode] = []
        for source in self.sources:
            for episode in source.episodes:
                if split in ("all", episode.split):
                    self.episodes.append(self._batchable(episode, source, in_memory=in_memory))
        self._index(f"split {split!r} of {', '.join(map(str, sources))}")

    def _index(self, what: str) -> None:
        """Number the windows of the episodes. ValueError naming ``what`` when there are none."""
        windows = (max(0, len(episode.frames) - self.length + 1) for episode in self.episodes)
        self._ends = list(accumulate(windows))
        if not self._ends or self._ends[-1] == 0:
            longest = max((len(episode.frames) for episode in self.episodes), default=0)
            raise ValueError(
                f"no clip of length={self.length} in {what}: "
                f"{len(self.episodes)} trajectories, the longest of {longest} frames"
            )

    def windows_of(self, episodes: Sequence[Episode]) -> list[int]:
        """The numbers of the clips that lie in ``episodes``, some of its own."""
        chosen = {id(episode) for episode in episodes}
        starts = [0, *self._ends[:-1]]
        return [
            index
            for episode, start, end in zip(self.episodes, starts, self._ends, strict=True)
            if id(episode) in chosen
            for index in range(start, end)
        ]

    def only(self, episodes: Sequence[Episode], what: str = "what was chosen") -> "ClipDataset":
        """A dataset over the same sources with the windows of ``episodes`` alone (some of its own, or changed copies).

        ValueError when they hold no window.
        """
        chosen = copy(self)
        chosen.episodes = list(episodes)
        chosen._index(what)
        return chosen

    def _batchable(self, episode: Episode, source: Source, *, in_memory: bool) -> Episode:
        """The episode with actions of the size that all others have, and with its frames loaded where that is asked."""
        if source.action_dim is None and self.action_dim != ACTION_DIM:
            absent = np.full((*episode.actions.shape[:2], self.action_dim), np.nan, np.float32)
            episode = replace(episode, actions=absent)
        if in_memory and source.loadable:
            episode = replace(episode, frames=episode.frames[:])
        return episode

    def require_actions(self, purpose: str) -> None:
        """ValueError naming the first source that is action-free, and ``purpose``."""
        for source in self.sources:
            if source.action_dim is None:
                raise ValueError(f"{source.path} holds no actions, which {purpose} needs")

    @property
    def scenes(self) -> list[SceneHeader]:
        """Headers of the sources that colaworld recorded."""
        return [source.header for source in self.sources if source.header is not None]

    @property
    def height(self) -> int:
        return self.sources[0].height

    @property
    def width(self) -> int:
        return self.sources[0].width

    @property
    def frame_skip(self) -> int:
        return self.sources[0].frame_skip

    @property
    def render_profile(self) -> str:
        return self.sources[0].render_profile

    @property
    def action_dim(self) -> int:
        """Of the sources that have actions; 7 when none has."""
        return next((source.action_dim for source in self.sources if source.action_dim is not None), ACTION_DIM)

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


def _check_agrees(source: Source, before: Sequence[Source]) -> None:
    for field in ("height", "width", "frame_skip", "render_profile", "action_dim"):
        found = getattr(source, field)
        for first in (getattr(each, field) for each in before):
            if first != found and None not in (first, found):
                raise ValueError(f"{source.path}: {field} is {found!r}, but the sources before it have {first!r}")


def _read_source(path: Path, options: SourceOptions, *, in_memory: bool) -> list[Source]:
    """What lies at ``path``, whatever its kind; a starter folder holds several scenes."""
    if not path.exists():
        raise FileNotFoundError(f"no recording at {path}")
    if path.is_dir():
        return _read_folder(path, options, in_memory=in_memory)
    with open_recording(path) as file:
        data = file["data"]
        if is_libero_file(data):
            return [read_libero(path, data, options)]
        header = SceneHeader.read(data.attrs, path)
        names = demo_names(data)
        for name in names:
            _check_demo(data[name], f"{path}: {name}", header)
        pictures = _loaded_frames(data, names) if in_memory else _mapped_frames(data, names, path, header)
        episodes = [_episode(data[name], name, header, frames) for name, frames in zip(names, pictures, strict=True)]
        return [recorded_source(path, header, episodes)]


def _read_folder(folder: Path, options: SourceOptions, *, in_memory: bool) -> list[Source]:
    if (folder / TABLE).exists():
        return [recorded_source(folder, scene.header, _starter_episodes(scene)) for scene in read_starter(folder)]
    if is_lerobot_folder(folder):
        return [read_lerobot(folder, options)]
    if videos_in(folder):
        return [read_videos(folder, options)]
    files = sorted(folder.glob("*.hdf5"))
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no data: {TABLE} is missing, and so are meta/info.json (LeRobot), .mp4 and .hdf5 files"
        )
    return [source for file in files for source in _read_source(file, options, in_memory=in_memory)]


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
