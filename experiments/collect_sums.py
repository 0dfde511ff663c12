"""Checksums of what was recorded, over content: numbers and pictures of each episode, not the HDF5 file around them.

A list has one line for each episode::

    <sha256>  <scene>/<seed>  <brightness> <gripper x y z> <first object x y z> ...

The hash is over states, actions and frames. After it stands what can be compared without having the original: the mean
of all pixels (tenths), and where the gripper and each object are at the end (millimetres). On one machine a recording
repeats to the byte. On another CPU rounding may differ, and contacts make small differences larger: with
starts disturbed by one part in 10^13, 10 of 11 episodes of 60 steps ended within the tolerances below, one push did
not.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from colaworld.envs.recording import SceneHeader, demo_names, open_recording

SUMS = "SHA256SUMS"
GRIPPER_TOLERANCE = 0.01
"""Metres between the gripper's final positions."""
OBJECT_TOLERANCE = 0.03
"""Metres between an object's final positions."""
BRIGHTNESS_TOLERANCE = 1.0
"""Of 255, between the means of all pixels."""
HASHED = ("states", "actions", "obs/agentview_rgb")


@dataclass(frozen=True, kw_only=True)
class EpisodeSum:
    """One line of the list. ``places``: int64 (1 + objects, 3), millimetres, the gripper first."""

    sha256: str
    brightness: float
    places: np.ndarray

    def close_to(self, other: "EpisodeSum") -> bool:
        """Whether both end alike, within the tolerances of this file."""
        if self.places.shape != other.places.shape:
            return False
        apart = np.linalg.norm(self.places - other.places, axis=1) / 1000
        alike = abs(self.brightness - other.brightness) <= BRIGHTNESS_TOLERANCE
        return bool(alike and apart[0] <= GRIPPER_TOLERANCE and (apart[1:] <= OBJECT_TOLERANCE).all())


Sums = Mapping[str, EpisodeSum]
"""By ``<scene>/<seed>``."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Names of the episodes that agree, and that do not."""

    exact: tuple[str, ...]
    within_tolerance: tuple[str, ...]
    off: tuple[str, ...]
    missing: tuple[str, ...]
    """In the list, not in the recording."""
    extra: tuple[str, ...]
    """In the recording, not in the list."""


def check_episode(demo: h5py.Group, where: str) -> None:
    """ValueError when a field is missing or its length does not fit the number of frames."""
    lengths = {"states": 0, "obs/agentview_rgb": 0, "obs/ee_pos": 0, "obs/object_pos": 0, "actions": 1}
    for field in lengths:
        if field not in demo:
            raise ValueError(f"{where}: field {field!r} is missing")
    if "seed" not in demo.attrs:
        raise ValueError(f"{where}: attribute 'seed' is missing")
    frames = len(demo["obs/agentview_rgb"])
    for field, fewer in lengths.items():
        if len(demo[field]) != frames - fewer:
            raise ValueError(
                f"{where}: field {field!r} has {len(demo[field])} entries for {frames} frames, not {frames - fewer}"
            )


def episode_sum(demo: h5py.Group, where: str) -> EpisodeSum:
    """Read one recorded episode; ValueError names ``where`` when it cannot be read."""
    check_episode(demo, where)
    digest = hashlib.sha256()
    try:
        for field in HASHED:
            array = demo[field][()]
            digest.update(f"{field} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        frames = demo["obs/agentview_rgb"][()]
        places = np.concatenate([demo["obs/ee_pos"][-1:], demo["obs/object_pos"][-1]])
    except OSError as error:
        raise ValueError(f"{where} cannot be read (damaged?): {error}") from error
    return EpisodeSum(
        sha256=digest.hexdigest(),
        brightness=round(float(frames.mean()), 1),
        places=np.round(places * 1000).astype(np.int64),
    )


def recording_sums(files: Iterable[Path]) -> dict[str, EpisodeSum]:
    """The list of all episodes in the recorded ``files``."""
    found: dict[str, EpisodeSum] = {}
    for path in files:
        with open_recording(path) as file:
            scene = SceneHeader.read(file["data"].attrs, path).scene
            for name in demo_names(file["data"]):
                entry = episode_sum(file["data"][name], f"{path}: {name}")
                found[f"{scene}/{int(file['data'][name].attrs['seed'])}"] = entry
    return found


def folder_sums(folder: Path) -> dict[str, EpisodeSum]:
    """The list of all recordings in ``folder``."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of recordings at {folder}")
    files = sorted(folder.glob("*.hdf5"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no recording (*.hdf5)")
    return recording_sums(files)


def content_hash(sums: Sums) -> str:
    """One SHA-256 over the hashes of all episodes."""
    return hashlib.sha256("".join(f"{sums[name].sha256}  {name}\n" for name in sorted(sums)).encode()).hexdigest()


def sums_text(sums: Sums) -> str:
    """The list as ``read_sums`` reads it back."""
    lines = []
    for name in sorted(sums):
        entry = sums[name]
        lines.append(f"{entry.sha256}  {name}  {entry.brightness} {' '.join(map(str, entry.places.ravel()))}\n")
    return "".join(lines)


def read_sums(path: Path) -> dict[str, EpisodeSum]:
    """FileNotFoundError or ValueError names the file and the line that is not right."""
    if not path.is_file():
        raise FileNotFoundError(f"no list of checksums at {path}")
    found: dict[str, EpisodeSum] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            sha256, name, brightness, *places = line.split()
            if len(sha256) != 64:
                raise ValueError
            found[name] = EpisodeSum(
                sha256=sha256, brightness=float(brightness), places=np.array(places, np.int64).reshape(-1, 3)
            )
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not '<sha256>  <scene>/<seed>  <numbers>': {line!r}") from error
    return found


def compare(listed: Sums, found: Sums) -> Comparison:
    """Sort every episode of ``listed`` by how ``found`` agrees with it."""
    both = [name for name in listed if name in found]
    exact = [name for name in both if listed[name].sha256 == found[name].sha256]
    differing = [name for name in both if listed[name].sha256 != found[name].sha256]
    close = [name for name in differing if listed[name].close_to(found[name])]
    return Comparison(
        exact=tuple(exact),
        within_tolerance=tuple(close),
        off=tuple(name for name in differing if not listed[name].close_to(found[name])),
        missing=tuple(name for name in listed if name not in found),
        extra=tuple(name for name in found if name not in listed),
    )
