"""Frames of a video file by number, decoding only the way from the nearest keyframe to each."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter


class VideoFile:
    """A video at ``path``; opened anew at each read, so that nothing stays open and it can be sent to other processes.

    FileNotFoundError when there is none; ValueError names the file that cannot be decoded or was cut short.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"no video at {path}")
        self.path = path

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Timestamps ``(N,)`` of all frames in order, those of keyframes, and the length of their unit in seconds."""
        try:
            with av.open(str(self.path)) as container:
                stream = _video_stream(container, self.path)
                packets = [
                    (packet.pts, packet.is_keyframe)
                    for packet in container.demux(stream)
                    if packet.pts is not None and packet.size and not packet.is_discard
                ]
                promised, unit = stream.frames, float(stream.time_base)
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{self.path} cannot be decoded (cut short?): {error}") from error
        if not packets or len(packets) < promised:
            raise ValueError(f"{self.path} was cut short: {len(packets)} of {promised} frames are there")
        stamps = np.array(sorted(stamp for stamp, _ in packets), np.int64)
        return stamps, np.array(sorted(stamp for stamp, key in packets if key), np.int64), unit

    @property
    def times(self) -> np.ndarray:
        """When each frame is shown, seconds: float64 ``(N,)``, ascending."""
        return self._index[0] * self._index[2]

    @property
    def fps(self) -> float:
        """Frames a second, on average."""
        times = self.times
        return float((len(times) - 1) / (times[-1] - times[0])) if len(times) > 1 else 0.0

    def read(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """The frames ``numbers`` (ascending), uint8 ``(height, width, 3)`` each, turned as the file says."""
        stamps = self._index[0][list(numbers)].tolist()
        try:
            with av.open(str(self.path)) as container:
                found = list(self._decode(container, stamps))
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{self.path} cannot be decoded (damaged?): {error}") from error
        if len(found) < len(stamps):
            raise ValueError(f"{self.path} cannot be decoded (damaged?): frame {numbers[len(found)]} does not appear")
        return found

    def _decode(self, container: av.container.InputContainer, stamps: Sequence[int]) -> Iterator[np.ndarray]:
        stream = _video_stream(container, self.path)
        keyframes, reformatter = self._index[1], VideoReformatter()
        decoded, frame = iter(()), None
        for stamp in stamps:
            before = int(keyframes[max(0, np.searchsorted(keyframes, stamp, side="right") - 1)])
            if frame is None or frame.pts < before:
                container.seek(before, stream=stream)
                decoded = container.decode(stream)
                frame = next(decoded, None)
                if frame is not None and frame.pts > stamp:  # landed too late: some files index their keyframes badly
                    container.seek(int(self._index[0][0]), stream=stream)
                    decoded = container.decode(stream)
                    frame = next(decoded, None)
            while frame is not None and frame.pts < stamp:
                frame = next(decoded, None)
            if frame is None or frame.pts != stamp:
                return
            picture = reformatter.reformat(frame, format="rgb24").to_ndarray()
            yield np.rot90(picture, round(frame.rotation / 90))


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    if not container.streams.video:
        raise ValueError(f"{path} holds no video stream")
    return container.streams.video[0]
