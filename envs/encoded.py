"""Encoded data: a codec's latents of every frame, in shards that ``experiments/encode_latents.py`` writes.

A folder holds ``shard-00000.safetensors`` and so on, ``<shard>.sha256`` beside each (as ``sha256sum`` writes and checks
them) and, once all are there, ``encoded.json``: which codec made the latents, from which sources read how, their
shapes, which trajectories lie in which shard, and each shard's SHA-256. Trajectory number i of a shard is the tensors

    i.latents     (T, C, h, w)        one latent a frame, in the type that was asked for
    i.crops       (N, T, C, h, w)     of N shifted copies; training trajectories alone
    i.pictures    uint8 (T, 3, height, width)    held-out trajectories alone
    i.actions     float32 (T - 1, frame_skip, A)
    i.ee_pos, i.object_pos    float32 (T, 3), (T, n, 3)

Held-out trajectories are read as pictures, so that an evaluation compares with what was seen, and not with what the
codec makes of it; all others as latents, slices of mapped shards. Sources are those that were encoded, one by one.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from colaworld.envs.episode import EncodedAs, Episode, Source
from colaworld.envs.recording import SceneHeader

INDEX = "encoded.json"
FORMAT = 1


class Shard:
    """A file of tensors at ``path``, mapped into memory in each process that reads it.

    ValueError when it is no whole file of safetensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: safe_open | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Shard, (self.path,)

    def tensor(self, name: str, *index: int | slice) -> np.ndarray:
        """``index`` of the tensor ``name``: numbers with a point as float32, others as they are."""
        if self._file is None:
            try:
                self._file = safe_open(self.path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{self.path} is not a whole shard ({error}); encode_latents.py --verify") from error
        found = self._file.get_slice(name)[index or slice(None)]
        return (found.float() if found.is_floating_point() else found).numpy().copy()


class StoredFrames:
    """T frames of a trajectory in a shard, latents float32 ``(T, C, h, w)`` or pictures uint8 ``(T, 3, height,
    width)``: the tensor ``name``, or of that ``copy``. Indexing with a number or a slice reads just those."""

    def __init__(self, shard: Shard, name: str, shape: tuple[int, ...], copy: int | None = None) -> None:
        self.shard, self.name, self.shape, self.copy = shard, name, shape, copy

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> np.ndarray:
        if not isinstance(index, slice):
            number = range(len(self))[index]
            return self[number : number + 1][0]
        chosen = slice(*index.indices(len(self)))
        return self.shard.tensor(self.name, *(() if self.copy is None else (self.copy,)), chosen)


def is_encoded_folder(folder: Path) -> bool:
    """Whether ``folder`` holds encoded data, finished or not."""
    return (folder / INDEX).is_file() or any(folder.glob("shard-*.safetensors"))


def read_index(folder: Path) -> dict[str, Any]:
    """``encoded.json``. FileNotFoundError when there is none yet; ValueError naming it when it is damaged."""
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: encoding has not ended, run encode_latents.py again to go on")
    try:
        index = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        found = index.get("format") if isinstance(index, dict) else index
        raise ValueError(f"{path}: format is {found!r}, this version reads {FORMAT}")
    for field in ("codec", "latent", "crops", "sources", "shards"):
        if field not in index:
            raise ValueError(f"{path}: field {field!r} is missing")
    return index


def read_encoded(folder: Path, *, held_out: bool) -> list[Source]:
    """The sources that were encoded into ``folder``: their held-out trajectories as pictures, or all as latents.

    FileNotFoundError for a shard that is not there; ValueError for one whose size is another than when it was written.
    """
    index = read_index(folder)
    episodes: list[list[Episode]] = [[] for _ in index["sources"]]
    for entry in index["shards"]:
        shard = _shard(folder, entry)
        for number, each in enumerate(entry["trajectories"]):
            if not held_out or each["split"] == "validation":
                episodes[each["source"]].append(_episode(shard, number, each, index, pictures=held_out))
    encoded = EncodedAs(
        codec=index["codec"]["fingerprint"],
        copies=index["crops"]["copies"],
        pixels=index["crops"]["pixels"],
    )
    return [
        Source(
            path=folder / Path(entry["path"]).name,
            **{name: entry[name] for name in ("height", "width", "frame_skip", "render_profile", "action_dim")},
            episodes=found,
            header=None if entry["header"] is None else SceneHeader(**entry["header"]),
            encoded=None if held_out else encoded,
        )
        for entry, found in zip(index["sources"], episodes, strict=True)
    ]


def _shard(folder: Path, entry: Mapping[str, Any]) -> Shard:
    path = folder / entry["file"]
    if not path.is_file():
        raise FileNotFoundError(f"no shard at {path}")
    if path.stat().st_size != entry["bytes"]:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, {INDEX} says {entry['bytes']}: it was cut short")
    return Shard(path)


def _episode(
    shard: Shard, number: int, entry: Mapping[str, Any], index: Mapping[str, Any], *, pictures: bool
) -> Episode:
    count, latent, copies = entry["frames"], index["latent"]["shape"], 0
    source = index["sources"][entry["source"]]
    name, shape = f"{number}.latents", (count, *latent)
    if pictures:
        name, shape = f"{number}.pictures", (count, 3, source["height"], source["width"])
    elif entry["split"] == "train":
        copies = index["crops"]["copies"]
    return Episode(
        frames=StoredFrames(shard, name, shape),
        **{each: shard.tensor(f"{number}.{each}") for each in ("actions", "ee_pos", "object_pos")},
        object_names=tuple(entry["object_names"]),
        **{each: entry[each] for each in ("seed", "kind", "split", "scene", "demo")},
        crops=tuple(StoredFrames(shard, f"{number}.crops", shape, copy) for copy in range(copies)),
    )


def shard_hash(path: Path) -> str:
    """SHA-256 of a file, read a little at a time."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: Path) -> list[str]:
    """What is wrong with the shards of ``folder``, a sentence each; none when all are as they were written."""
    wrong = []
    for entry in read_index(folder)["shards"]:
        path = folder / entry["file"]
        if not path.is_file():
            wrong.append(f"{path} is missing")
        elif (found := shard_hash(path)) != entry["sha256"]:
            wrong.append(f"{path}: SHA-256 is {found}, {INDEX} says {entry['sha256']}")
    return wrong
