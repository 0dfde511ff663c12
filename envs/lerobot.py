"""LeRobotDataset v3 (``meta/info.json``), read at the model's rate without the package that wrote it.

``meta/episodes/*/*.parquet`` says for each episode its length, the file ``data/*/*.parquet`` of its rows and, for each
camera, the file ``videos/<camera>/*/*.mp4`` and the seconds in it from which to which it lasts: one video holds many
episodes. A row's action is the one taken *at* its picture: it leads from picture k to picture k + 1. The numbers of all
rows are read at once, pictures when they are asked for.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange

from colaworld.envs.episode import Demo, Source, foreign_source
from colaworld.envs.pictures import Orientation, model_frames
from colaworld.envs.source_options import SourceOptions
from colaworld.envs.video import VideoFile

if TYPE_CHECKING:
    import pyarrow

INFO = "meta/info.json"
LAYOUT = "v3."
USES = frozenset({"camera", "orientation", "fps", "rate", "height", "width", "render_profile"})


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where the pictures of an episode lie: every row's time in ``video``, seconds ``(rows,)``, and how far off a
    picture may be."""

    video: VideoFile
    times: np.ndarray
    tolerance: float

    def read(
        self, frame_skip: int, orientation: Orientation, size: tuple[int, int], numbers: Sequence[int]
    ) -> np.ndarray:
        """Frames ``numbers``, uint8 ``(len(numbers), 3, height, width)``."""
        wanted, shown = self.times[[number * frame_skip for number in numbers]], self.video.times
        right = np.searchsorted(shown, wanted).clip(0, len(shown) - 1)
        left = (right - 1).clip(0)
        nearest = np.where(np.abs(shown[left] - wanted) <= np.abs(shown[right] - wanted), left, right)
        off = np.abs(shown[nearest] - wanted)
        if off.max() > self.tolerance:
            missed = wanted[off.argmax()]
            raise ValueError(f"{self.video.path}: no picture at {missed:.3f} s, the nearest is {off.max():.3f} s away")
        return model_frames(self.video.read(nearest.tolist()), orientation, size)


def is_lerobot_folder(folder: Path) -> bool:
    """Whether ``folder`` says that it is a LeRobot data set."""
    return (folder / INFO).is_file()


def read_lerobot(folder: Path, options: SourceOptions) -> Source:
    """All episodes of the data set in ``folder``, through one camera; without actions when it has none.

    FileNotFoundError for a file that its tables name and is not there; ValueError names file, field and value: another
    layout version, an unknown camera, tables that disagree, a rate that is no multiple of the model's.
    """
    info = _read_info(folder)
    camera, stored = _camera(folder, info["features"], options)
    stated = float(info["fps"])
    frame_skip = options.frame_skip(options.fps or stated, folder / INFO)
    size, action_dim = options.size(*stored), _action_dim(info["features"])
    position = _position_columns(info["features"])
    columns = ["episode_index", "frame_index", "timestamp"]
    columns += ["action"] * (action_dim is not None) + ["observation.state"] * (position is not None)
    rows_of, videos = _Rows(folder, info, columns), {}
    demos = []
    for entry in _episode_entries(folder, camera):
        rows = rows_of(entry)
        span = _span(folder, info, camera, entry, rows, stated, videos)
        count = (entry["length"] - 1) // frame_skip + 1
        actions = None
        if action_dim is not None:
            actions = rearrange(rows["action"][: (count - 1) * frame_skip], "(t k) a -> t k a", k=frame_skip)
        demos.append(
            Demo(
                name=f"episode_{entry['episode_index']:06d}",
                number=entry["episode_index"],
                count=count,
                read=partial(span.read, frame_skip, options.orientation or "upright", size),
                actions=actions,
                ee_pos=None if position is None else rows["observation.state"][::frame_skip][:, position],
            )
        )
    return foreign_source(
        folder,
        demos,
        size=size,
        frame_skip=frame_skip,
        render_profile=options.render_profile,
        action_dim=action_dim,
        kind="demonstration",
        uses=USES,
    )


def _read_info(folder: Path) -> Mapping[str, Any]:
    path = folder / INFO
    try:
        info = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    version = str(info.get("codebase_version"))
    if not version.startswith(LAYOUT):
        raise ValueError(f"{path}: codebase_version is {version!r}, this reader knows {LAYOUT}x; convert with LeRobot")
    for name in ("fps", "features", "data_path", "video_path"):
        if not info.get(name):
            raise ValueError(f"{path}: field {name!r} is missing")
    return info


def _camera(folder: Path, features: Mapping[str, Any], options: SourceOptions) -> tuple[str, tuple[int, int]]:
    """The key of the chosen camera, and the height and width of its pictures."""
    cameras = {key: each for key, each in features.items() if each.get("dtype") in ("video", "image")}
    named = options.camera or (next(iter(cameras)) if len(cameras) == 1 else None)
    chosen = next((key for key in cameras if named in (key, key.rpartition(".")[2])), None)
    if chosen is None:
        said = "say which camera" if options.camera is None else f"camera is {options.camera!r}"
        raise ValueError(f"{folder / INFO}: {said}, there are {', '.join(cameras) or 'none'}")
    feature = cameras[chosen]
    if feature["dtype"] != "video":
        raise ValueError(
            f"{folder / INFO}: camera {chosen!r} is stored as {feature['dtype']!r}, this reader knows 'video'"
        )
    shape, names = feature["shape"], list(feature.get("names") or ("height", "width", "channels"))
    return chosen, (shape[names.index("height")], shape[names.index("width")])


def _action_dim(features: Mapping[str, Any]) -> int | None:
    return int(features["action"]["shape"][0]) if "action" in features else None


def _position_columns(features: Mapping[str, Any]) -> list[int] | None:
    """Which columns of the state are the gripper's x, y and z, when their names say so."""
    names = features.get("observation.state", {}).get("names")
    if isinstance(names, Mapping):
        names = next(iter(names.values()), None)
    if not isinstance(names, list) or not {"x", "y", "z"} <= set(map(str, names)):
        return None
    return [names.index(axis) for axis in ("x", "y", "z")]


def _episode_entries(folder: Path, camera: str) -> list[dict[str, Any]]:
    """What ``meta/episodes`` says of each episode, by number."""
    video = [f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")]
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index", *video]
    paths = sorted((folder / "meta" / "episodes").rglob("*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{folder} lists no episodes: meta/episodes holds no .parquet file")
    entries = [entry for path in paths for entry in _read_table(path, columns).to_pylist()]
    return sorted(entries, key=lambda entry: entry["episode_index"])


class _Rows:
    """The numbers of an episode's rows; one data file, which holds many episodes, is kept at a time."""

    def __init__(self, folder: Path, info: Mapping[str, Any], columns: Sequence[str]) -> None:
        self.folder, self.pattern, self.columns = folder, info["data_path"], columns
        self._path: Path | None = None
        self._table: dict[str, np.ndarray] = {}

    def __call__(self, entry: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The columns' values ``(rows, ...)``. ValueError when they are not the ``length`` rows of the episode."""
        path = self.folder / self.pattern.format(
            chunk_index=entry["data/chunk_index"], file_index=entry["data/file_index"]
        )
        if path != self._path:
            table = _read_table(path, self.columns)
            self._table, self._path = {name: _as_array(table[name], name, path) for name in self.columns}, path
        mine = np.flatnonzero(self._table["episode_index"] == entry["episode_index"])
        rows = {name: values[mine] for name, values in self._table.items()}
        where = f"{path}: episode {entry['episode_index']}"
        if not np.array_equal(rows["frame_index"], np.arange(entry["length"])):
            raise ValueError(f"{where} has {len(mine)} rows, meta/episodes says length {entry['length']}")
        if "action" in rows and not np.isfinite(rows["action"]).all():
            raise ValueError(f"{where}: field 'action' holds values that are not finite")
        return rows


def _span(
    folder: Path,
    info: Mapping[str, Any],
    camera: str,
    entry: Mapping[str, Any],
    rows: Mapping[str, np.ndarray],
    fps: float,
    videos: dict[Path, VideoFile],
) -> Span:
    key = f"videos/{camera}"
    path = folder / info["video_path"].format(
        video_key=camera, chunk_index=entry[f"{key}/chunk_index"], file_index=entry[f"{key}/file_index"]
    )
    start, end = entry[f"{key}/from_timestamp"], entry[f"{key}/to_timestamp"]
    if abs((end - start) * fps - entry["length"]) > 0.5:
        raise ValueError(
            f"{path}: episode {entry['episode_index']} lasts from {start:.3f} s to {end:.3f} s, at {fps:g} frames "
            f"a second not its length of {entry['length']}"
        )
    if path not in videos:
        videos[path] = VideoFile(path)
    return Span(video=videos[path], times=start + rows["timestamp"].astype(np.float64), tolerance=0.5 / fps)


def _read_table(path: Path, columns: Iterable[str]) -> "pyarrow.Table":
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{path}: reading it needs pyarrow; install it with pip install 'colaworld[data]'") from error
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            present = set(file.schema_arrow.names)
            for column in columns:
                if column not in present:
                    raise ValueError(f"{path}: column {column!r} is missing")
            return file.read(list(columns))
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is not a readable parquet file (cut short?): {str(error).splitlines()[0]}") from error


def _as_array(column: "pyarrow.ChunkedArray", name: str, path: Path) -> np.ndarray:
    """``(rows,)`` of a column of numbers, ``(rows, n)`` of one of lists of n numbers."""
    rows, chunk = len(column), column.combine_chunks()
    if not hasattr(chunk, "flatten") or not str(chunk.type).startswith(("fixed_size_list", "list")):
        return chunk.to_numpy(zero_copy_only=False)
    values = chunk.flatten().to_numpy(zero_copy_only=False)
    if rows == 0 or len(values) % rows:
        raise ValueError(f"{path}: column {name!r} holds {len(values)} numbers in {rows} rows, not the same in each")
    return rearrange(values, "(rows n) -> rows n", rows=rows)
