"""Data as clips: one dataset over everything that a source can be.

A clip is ``length`` frames ``uint8 (T, 3, height, width)``, upright, with the action chunks ``float32 (T - 1,
frame_skip, A)`` between them: ``actions[k]`` leads from ``frames[k]`` to ``frames[k + 1]``. What a path holds is told
by its content: recordings of ``envs/recording.py``, starter folders, LIBERO's own files, LeRobot data sets,
folders of videos (each read in a file of its own).
"""

from bisect import bisect_right
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from colaworld.envs.encoded import is_encoded_folder, read_encoded
from colaworld.envs.episode import Clip, EncodedAs, Episode, Source, Split, recorded_source
from colaworld.envs.lerobot import is_lerobot_folder, read_lerobot
from colaworld.envs.libero_hdf5 import is_libero_file, read_libero
from colaworld.envs.recorded import read_recording
from colaworld.envs.recording import ACTION_DIM, SceneHeader, open_recording
from colaworld.envs.source_options import SourceOptions
from colaworld.envs.starter import TABLE, StarterScene, read_starter, starter_path
from colaworld.envs.video_folder import read_videos, videos_in

__all__ = ["Clip", "ClipDataset", "Episode", "SourceOptions", "starter_path"]

class Cropped(NamedTuple):
    """Names a clip of encoded data under one of its crops."""

    clip: int
    copy: int


class ClipDataset:
    """All windows of ``length`` frames in the sources; a map-style dataset for torch's ``DataLoader``.

    ``sources`` are ``.hdf5`` files (of ``experiments/collect.py`` or LIBERO's) or folders of them, starter folders,
    LeRobot data sets and folders of ``.mp4``; ``options`` say what the files of others do not. Starter folders are
    decoded at once, and so are ``.hdf5`` files by default; ``in_memory=False`` (or ``options.stream``) unpacks our own
    once into ``<file>.frames.npy`` beside it and maps that into memory, and reads LIBERO's when a frame is asked for.
    Videos and LeRobot's pictures are always decoded when asked for. Encoded data (``envs/encoded.py``) give pictures of
    held-out trajectories and, where ``encoded`` allows it, latents of others. ``split`` keeps the trajectories marked
    so.

    ValueError names file, demo and field where something is missing or has the wrong shape, the field and both values
    where two sources differ in frame size, frame skip, action size, render profile or codec, and an option without a
    use.
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        *,
        length: int,
        split: Split = "train",
        in_memory: bool = True,
        encoded: bool = False,
        options: SourceOptions | None = None,
    ) -> None:
        if length < 2:
            raise ValueError(f"a clip needs at least 2 frames, got length={length}")
        if split not in ("train", "validation", "all"):
            raise ValueError(f"split must be 'train', 'validation' or 'all', got {split!r}")
        if isinstance(sources, str | Path) or not sources:
            raise ValueError(f"sources must be a non-empty list of files or folders of data, got {sources!r}")
        self.length, options = length, options or SourceOptions()
        in_memory = in_memory and not options.stream
        reader = partial(_read_source, options=options, in_memory=in_memory, held_out=split == "validation")
        read = [reader(path) for path in map(Path, sources)]
        self.paths = tuple(map(Path, sources))
        self.sources = [source for found in read for source in found]
        origins = [origin for origin, found in enumerate(read) for _ in found]
        for number, source in enumerate(self.sources):
            _check_agrees(source, self.sources[:number])
            if source.encoded is not None and not encoded:
                raise ValueError(
                    f"{source.path} holds latents, which training and evaluate.py read; pictures are asked for here"
                )
        unused = options.given() - frozenset().union(*(source.uses for source in self.sources))
        if unused:
            raise ValueError(f"source option {min(unused)!r} says nothing of {', '.join(map(str, sources))}")
        self.episodes: list[Episode] = []
        for origin, source in zip(origins, self.sources, strict=True):
            for episode in source.episodes:
                if split in ("all", episode.split):
                    episode = self._batchable(episode, source, in_memory=in_memory)
                    self.episodes.append(replace(episode, origin=origin))
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

    def clips_by_origin(self) -> list[np.ndarray]:
        """Of each of the files and folders that were given, the numbers of its clips, int64 ``(n,)``."""
        starts, of = [0, *self._ends[:-1]], [[np.empty(0, np.int64)] for _ in self.paths]
        for episode, start, end in zip(self.episodes, starts, self._ends, strict=True):
            of[episode.origin].append(np.arange(start, end))
        return [np.concatenate(numbers) for numbers in of]

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
    def encoded(self) -> EncodedAs | None:
        """What stands in the place of pictures; None where pictures do."""
        return self.sources[0].encoded

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

    def __getitem__(self, index: int | Cropped) -> Clip:
        index, copy = index if isinstance(index, Cropped) else (index, None)
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        before = self._ends[number - 1] if number else 0
        return self.episodes[number].clip(index - before, self.length, copy)


def _check_agrees(source: Source, before: Sequence[Source]) -> None:
    for field in ("height", "width", "frame_skip", "render_profile", "action_dim"):
        found = getattr(source, field)
        for first in (getattr(each, field) for each in before):
            if first != found and None not in (first, found):
                raise ValueError(f"{source.path}: {field} is {found!r}, but the sources before it have {first!r}")
    for first in before:
        if source.encoded != first.encoded:
            raise ValueError(f"{source.path} holds {_content(source)}, but {first.path} {_content(first)}")


def _content(source: Source) -> str:
    if source.encoded is None:
        return "pictures"
    crops = f"{source.encoded.copies} crops of up to {source.encoded.pixels} pixels"
    return f"latents of codec {source.encoded.codec[:12]} under {crops if source.encoded.copies else 'no crops'}"


def _read_source(path: Path, options: SourceOptions, *, in_memory: bool, held_out: bool) -> list[Source]:
    """What lies at ``path``, whatever its kind; a starter folder holds several scenes."""
    if not path.exists():
        raise FileNotFoundError(f"no recording at {path}")
    if path.is_dir():
        if is_encoded_folder(path):
            return read_encoded(path, held_out=held_out)
        return _read_folder(path, options, in_memory=in_memory)
    with open_recording(path) as file:
        data = file["data"]
        if is_libero_file(data):
            return [read_libero(path, data, options)]
        return [read_recording(path, data, in_memory=in_memory)]


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
    return [each for file in files for each in _read_source(file, options, in_memory=in_memory, held_out=False)]


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
