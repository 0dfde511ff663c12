"""Action-free videos: a folder of ``.mp4`` files of any size and rate, each one episode.

Frame j of an episode is what the video shows ``j / rate`` seconds after its first frame, cut from its centre to the
shape that the model sees and resized. Which files are held out is decided by their names within the folder.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from colaworld.envs.episode import Demo, Source, foreign_source
from colaworld.envs.pictures import Orientation, model_frames
from colaworld.envs.source_options import CONTROL_RATE, SourceOptions
from colaworld.envs.video import VideoFile

SIDE = 64
"""Pixels of a frame's side where no size is said."""
USES = frozenset({"orientation", "rate", "height", "width", "render_profile"})


def videos_in(folder: Path) -> list[Path]:
    """The ``.mp4`` files in ``folder`` and the folders inside it, by name."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".mp4" and path.is_file())


def read_videos(folder: Path, options: SourceOptions) -> Source:
    """All videos of ``folder``; frames are decoded when asked for.

    ValueError names the file that cannot be decoded, was cut short or is slower than the model's rate.
    """
    paths = videos_in(folder)
    size = options.size(SIDE, SIDE)
    # Without actions there is nothing to cut into chunks: the number only says what such a chunk would be in LIBERO.
    frame_skip = max(1, round(CONTROL_RATE / options.rate))
    demos = []
    for number, path in enumerate(paths):
        video = VideoFile(path)
        chosen = at_rate(video, options.rate)
        video.read(chosen[:1])  # a file that cannot be decoded is named now, not in the middle of a run
        read = partial(_read_frames, video, chosen, options.orientation or "upright", size)
        name = path.relative_to(folder).as_posix()
        demos.append(Demo(name=name, number=number, count=len(chosen), read=read))
    return foreign_source(
        folder,
        demos,
        size=size,
        frame_skip=frame_skip,
        render_profile=options.render_profile,
        action_dim=None,
        kind="video",
        uses=USES,
    )


def at_rate(video: VideoFile, rate: float) -> list[int]:
    """The numbers of the frames that ``video`` shows every ``1 / rate`` seconds from its first. ValueError names the
    file when it has fewer frames a second than that."""
    times = video.times - video.times[0]
    if len(times) < 2 or video.fps < rate * (1 - 1e-3):
        raise ValueError(f"{video.path}: {video.fps:g} frames a second are fewer than the model's rate of {rate:g}")
    slack = 0.01 / rate  # timestamps are rounded to the file's own unit
    asked = np.arange(int((times[-1] + slack) * rate) + 1) / rate
    return (np.searchsorted(times, asked + slack, side="right") - 1).tolist()


def _read_frames(
    video: VideoFile,
    chosen: Sequence[int],
    orientation: Orientation,
    size: tuple[int, int],
    numbers: Sequence[int],
) -> np.ndarray:
    """Frames ``numbers``, uint8 ``(len(numbers), 3, height, width)``."""
    return model_frames(video.read([chosen[number] for number in numbers]), orientation, size)
