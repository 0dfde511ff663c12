"""Recordings of ``envs/recording.py`` read as a source: pictures all at once, or mapped from an unpacked copy beside
the file.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import h5py
import numpy as np
from einops import rearrange
from filelock import FileLock

from colaworld.envs.episode import Episode, Source, recorded_source
from colaworld.envs.frame_stream import MappedFile, MappedFrames
from colaworld.envs.recording import ACTION_DIM, SceneHeader, demo_names
from colaworld.envs.whole_file import whole_file

UNPACKED = ".frames.npy"
"""Ends the name of the unpacked copy."""


def read_recording(path: Path, data: h5py.Group, *, in_memory: bool) -> Source:
    """All trajectories of the open recording at ``path``.

    ValueError names file, demo and field where something is missing or has the wrong shape.
    """
    header = SceneHeader.read(data.attrs, path)
    names = demo_names(data)
    for name in names:
        _check_demo(data[name], f"{path}: {name}", header)
    pictures = _loaded_frames(data, names) if in_memory else _mapped_frames(data, names, path, header)
    episodes = [_episode(data[name], name, header, frames) for name, frames in zip(names, pictures, strict=True)]
    return recorded_source(path, header, episodes, uses=frozenset({"stream"}))


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
    if "obs/handle_pos" in demo:
        wanted["obs/handle_pos"] = (count, len(demo["obs/handle_pos"].attrs.get("joint_names", ())), 3)
    for field, shape in wanted.items():
        if demo[field].shape != shape:
            raise ValueError(f"{where}: field {field!r} has shape {demo[field].shape}, expected {shape}")
    if demo["obs/agentview_rgb"].dtype != np.uint8:
        raise ValueError(
            f"{where}: field 'obs/agentview_rgb' has type {demo['obs/agentview_rgb'].dtype}, expected uint8"
        )


def _episode(demo: h5py.Group, name: str, header: SceneHeader, frames: np.ndarray) -> Episode:
    positions = demo["obs/object_pos"]
    places, names = positions[()].astype(np.float32), [str(each) for each in positions.attrs["object_names"]]
    if "obs/handle_pos" in demo:  # what learns from objects should learn from drawers too
        handles = demo["obs/handle_pos"]
        places = np.concatenate([places, handles[()].astype(np.float32)], axis=1)
        names += [str(each) for each in handles.attrs["joint_names"]]
    return Episode(
        frames=frames,
        actions=demo["actions"][()].astype(np.float32),
        ee_pos=demo["obs/ee_pos"][()].astype(np.float32),
        object_pos=places,
        object_names=tuple(names),
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


def _mapped_frames(data: h5py.Group, names: Sequence[str], source: Path, header: SceneHeader) -> list[MappedFrames]:
    """The frames as slices of one file in memory's address space; HDF5's compressed chunks cannot be mapped
    themselves. One process unpacks, one trajectory at a time, and others wait for it."""
    counts = [len(data[name]["obs/agentview_rgb"]) for name in names]
    shape = (sum(counts), 3, header.height, header.width)
    unpacked = source.with_name(source.name + UNPACKED)
    ends = list(accumulate(counts))

    def there() -> bool:
        return unpacked.exists() and unpacked.stat().st_mtime_ns >= source.stat().st_mtime_ns

    if not there():
        with FileLock(f"{unpacked}.lock"):
            if not there():
                with whole_file(unpacked) as partial:
                    store = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
                    for name, end, count in zip(names, ends, counts, strict=True):
                        store[end - count : end] = rearrange(data[name]["obs/agentview_rgb"][()], "t h w c -> t c h w")
                    store.flush()
    file = MappedFile(unpacked, shape)
    file.check()
    return [MappedFrames(file, end - count, end) for end, count in zip(ends, counts, strict=True)]
