"""What every reader of data gives: episodes of frames with the actions between them, and windows cut from those.

``actions[k]`` leads from ``frames[k]`` to ``frames[k + 1]``, whatever the file's own pairing. What a source does not
hold (actions of plain videos, positions of most) is NaN: it stacks into batches like the rest, and using it shows.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from colaworld.envs.frame_stream import SHARED, FrameStream, MappedFrames
from colaworld.envs.recording import ACTION_DIM, SceneHeader

if TYPE_CHECKING:
    from colaworld.envs.encoded import StoredFrames

Split = Literal["train", "validation", "all"]


class Clip(NamedTuple):
    """One training window of T frames."""

    frames: np.ndarray
    """uint8 ``(T, 3, height, width)``, upright RGB; of encoded data latents float32 ``(T, C, h, w)``."""
    actions: np.ndarray
    """float32 ``(T - 1, frame_skip, A)``, 7 in [-1, 1] in LIBERO; NaN from an action-free source."""
    ee_pos: np.ndarray
    """float32 ``(T, 3)``: the gripper in the world frame, metres; NaN where the source does not say."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One whole trajectory of T frames, and where it comes from."""

    frames: "np.ndarray | FrameStream | MappedFrames | StoredFrames"
    """uint8 ``(T, 3, height, width)``, of encoded data latents float32 ``(T, C, h, w)``; ``frames[:]`` is always an
    array."""
    actions: np.ndarray
    """float32 ``(T - 1, frame_skip, A)``."""
    ee_pos: np.ndarray
    """float32 ``(T, 3)``, metres."""
    object_pos: np.ndarray
    """float32 ``(T, n, 3)``, metres, in the order of ``object_names``."""
    object_names: tuple[str, ...]
    """Movable objects, and drawers by the name of their joint, which are where their handle is."""
    seed: int
    kind: str
    split: str
    scene: str
    demo: str
    origin: int = 0
    """Which of a data set's files and folders it is from, counted as they were given."""
    crops: "Sequence[StoredFrames]" = ()
    """Of encoded data: latents ``(T, C, h, w)`` of the trajectory's shifted copies."""

    def clip(self, start: int, length: int, copy: int | None = None) -> Clip:
        """The window of ``length`` frames that begins at frame ``start``; ``copy``: under which of its crops."""
        frames = self.frames if copy is None else self.crops[copy]
        return Clip(
            frames[start : start + length],
            self.actions[start : start + length - 1],
            self.ee_pos[start : start + length],
        )


@dataclass(frozen=True, kw_only=True)
class EncodedAs:
    """What encoded data hold in the place of pictures."""

    codec: str
    """Fingerprint of the codec that made the latents."""
    copies: int
    """Shifted copies of each training trajectory."""
    pixels: int
    """By how much they are shifted at most; 0 where there are none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """One file or folder of data, read. ``header`` is there for what colaworld recorded itself."""

    path: Path
    height: int
    width: int
    frame_skip: int
    render_profile: str
    action_dim: int | None
    """None: action-free."""
    episodes: list[Episode]
    header: SceneHeader | None = None
    loadable: bool = False
    """Whether its frames are few enough to be loaded at once, where they are streams."""
    uses: frozenset[str] = frozenset()
    """Names of the `SourceOptions` that were asked in reading it."""
    encoded: EncodedAs | None = None
    """None: its frames are pictures."""


def recorded_source(
    path: Path, header: SceneHeader, episodes: list[Episode], uses: frozenset[str] = frozenset()
) -> Source:
    """A source of colaworld's own making."""
    return Source(
        path=path,
        height=header.height,
        width=header.width,
        frame_skip=header.frame_skip,
        render_profile=header.render_profile,
        action_dim=ACTION_DIM,
        episodes=episodes,
        header=header,
        uses=uses,
    )


@dataclass(frozen=True, kw_only=True)
class Demo:
    """An episode as a reader finds it: T frames that ``read(numbers)`` decodes, uint8 ``(len(numbers), 3, height,
    width)``, the action chunks between them ``(T - 1, frame_skip, A)`` and the gripper at them ``(T, 3)``, or None."""

    name: str
    number: int
    count: int
    read: Callable[[Sequence[int]], np.ndarray]
    actions: np.ndarray | None = None
    ee_pos: np.ndarray | None = None


def foreign_source(
    path: Path,
    demos: Sequence[Demo],
    *,
    size: tuple[int, int],
    frame_skip: int,
    render_profile: str,
    action_dim: int | None,
    kind: str,
    uses: frozenset[str],
    loadable: bool = False,
) -> Source:
    """A source that colaworld did not record: split by the demos' names, frames read when they are asked for, no object
    positions, NaN for what is None."""
    episodes = []
    for demo, split in zip(demos, splits_by_name([demo.name for demo in demos]), strict=True):
        actions, ee_pos = demo.actions, demo.ee_pos
        if actions is None:
            actions = np.full((max(0, demo.count - 1), frame_skip, ACTION_DIM), np.nan)
        if ee_pos is None:
            ee_pos = np.full((demo.count, 3), np.nan)
        episodes.append(
            Episode(
                frames=FrameStream(demo.read, (demo.count, 3, *size), SHARED),
                actions=np.asarray(actions, np.float32),
                ee_pos=np.asarray(ee_pos, np.float32),
                object_pos=np.zeros((demo.count, 0, 3), np.float32),
                object_names=(),
                seed=demo.number,
                kind=kind,
                split=split,
                scene=str(path),
                demo=demo.name,
            )
        )
    return Source(
        path=path,
        height=size[0],
        width=size[1],
        frame_skip=frame_skip,
        render_profile=render_profile,
        action_dim=action_dim,
        episodes=episodes,
        loadable=loadable,
        uses=uses,
    )


def splits_by_name(names: Sequence[str]) -> list[str]:
    """``"train"`` or ``"validation"`` for each name, by the names alone.

    Held out are the names whose hash lies in the lowest tenth; where these are fewer than two, the two lowest (one of
    two or three names), and never all. So a source that grows moves nothing once two names lie in that tenth.
    """
    hashes = [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) for name in names]
    lowest_tenth = sum(value < 2**64 / 10 for value in hashes)
    count = min(max(lowest_tenth, min(2, len(names) // 2)), len(names) - 1)
    held_out = set(sorted(range(len(names)), key=hashes.__getitem__)[:count])
    return ["validation" if number in held_out else "train" for number in range(len(names))]
