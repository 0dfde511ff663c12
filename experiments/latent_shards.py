"""What ``experiments/encode_latents.py`` writes: which trajectory lies in which shard, a shard's tensors, the index.

Everything but the sums is known before the first frame is encoded (``plan.json``), so that a killed run goes on, and
processes take turns at the shards without a word to each other. ``envs/encoded.py`` has the layout.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from colaworld.envs.demos import ClipDataset, Episode, SourceOptions
from colaworld.envs.encoded import FORMAT, INDEX, shard_hash
from colaworld.envs.whole_file import whole_file
from colaworld.experiments.batches import derived_seed, random_shift
from colaworld.experiments.encoded_data import codec_fingerprint

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PLAN = "plan.json"
OF_SOURCE = ("height", "width", "frame_skip", "render_profile", "action_dim")


def plan_shards(
    data: ClipDataset,
    codec: nn.Module,
    *,
    dtype: str,
    crops: Mapping[str, int],
    options: SourceOptions,
    shard_bytes: float,
) -> tuple[dict[str, Any], list[list[Episode]]]:
    """The index without its sums, and the episodes of each shard; ``data`` are of all splits."""
    numbers = [number for number, source in enumerate(data.sources) for _ in source.episodes]
    shards, held, room = [], [], 0.0
    for episode, source in zip(data.episodes, numbers, strict=True):
        size = _bytes(episode, codec.latent_shape, DTYPES[dtype].itemsize, crops["copies"])
        if not shards or size > room:
            shards.append([])
            held.append([])
            room = shard_bytes
        room -= size
        held[-1].append(episode)
        told = {name: getattr(episode, name) for name in ("scene", "demo", "seed", "kind", "split", "object_names")}
        shards[-1].append({"source": source, "frames": len(episode.frames), **told})
    read = {name: value for name, value in asdict(options).items() if name != "stream"}
    plan = {
        "format": FORMAT,
        "codec": {
            "fingerprint": codec_fingerprint(codec),
            "class": type(codec).__name__,
            "config": {name: value for name, value in codec.config.items() if not name.startswith("_")},
        },
        "latent": {"shape": codec.latent_shape, "dtype": dtype},
        "crops": dict(crops),
        "source": read,
        "sources": [
            {"path": each.path.name, "bytes": _size(each.path), **{name: getattr(each, name) for name in OF_SOURCE}}
            | {"header": None if each.header is None else asdict(each.header)}
            for each in data.sources
        ],
        "shards": [
            {"file": f"shard-{number:05d}.safetensors", "trajectories": told} for number, told in enumerate(shards)
        ],
    }
    return json.loads(json.dumps(plan, default=str)), held


def _bytes(episode: Episode, latent: Sequence[int], item: int, copies: int) -> int:
    count, size = len(episode.frames), 1
    for side in latent:
        size *= side
    copies = copies if episode.split == "train" else 0
    pictures = 0 if episode.split == "train" else count * 3 * episode.frames.shape[2] * episode.frames.shape[3]
    return count * size * item * (1 + copies) + pictures + episode.actions.nbytes + episode.object_pos.nbytes


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*.*")
    return sum(file.stat().st_size for file in files if file.suffix in (".hdf5", ".mp4", ".parquet", ".json"))


def begin(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan, or go on with the one that is there. ValueError when it is another, with the first field."""
    there = next((folder / name for name in (INDEX, PLAN) if (folder / name).is_file()), None)
    if there is None:
        if folder.exists() and any(not each.name.startswith(PLAN) for each in folder.iterdir()):
            raise ValueError(f"--out {folder} holds something else than encoded data")
        with whole_file(folder / PLAN) as partial:
            partial.write_text(json.dumps(plan) + "\n")
        return
    try:
        before = json.loads(there.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{there}: not valid JSON ({error})") from error
    for entry in before.get("shards", ()):
        entry.pop("sha256", None)
        entry.pop("bytes", None)
    for field, value in plan.items():
        if before.get(field) != value:
            found = f"was {_short(before.get(field))}, not {_short(value)}" if field != "shards" else "differ"
            raise ValueError(f"{there}: begun with other data or flags: {field} {found}; choose another --out")


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 300 else text[:300] + " ..."


def sum_file(shard: Path) -> Path:
    """Where the SHA-256 of a finished shard stands, as ``sha256sum`` writes it."""
    return shard.with_name(f"{shard.name}.sha256")


def is_whole(shard: Path) -> bool:
    """Whether a shard is there as it was written."""
    noted = sum_file(shard)
    return shard.is_file() and noted.is_file() and noted.read_text().split(" ")[0] == shard_hash(shard)


def write_shard(shard: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard and its sum, each whole or not at all."""
    sum_file(shard).unlink(missing_ok=True)
    for left in shard.parent.glob(f"{shard.name}.*.partial"):  # of a run that was killed
        left.unlink()
    with whole_file(shard) as partial:
        save_file(dict(tensors), partial)
        partial.chmod(0o644)  # safetensors leaves it to its owner alone
    digest = shard_hash(shard)
    with whole_file(sum_file(shard)) as partial:
        partial.write_text(f"{digest}  {shard.name}\n")


def finish(folder: Path, plan: Mapping[str, Any]) -> bool:
    """Write the index when every shard has its sum; whether it was. Whoever comes last is right about all."""
    shards = []
    for entry in plan["shards"]:
        path = folder / entry["file"]
        if not path.is_file() or not sum_file(path).is_file():
            return False
        sums = {"sha256": sum_file(path).read_text().split(" ")[0], "bytes": path.stat().st_size}
        shards.append({**entry, **sums})
    with whole_file(folder / INDEX) as partial:
        partial.write_text(json.dumps({**plan, "shards": shards}) + "\n")
    (folder / PLAN).unlink(missing_ok=True)
    return True


@torch.no_grad()
def trajectory_tensors(
    episode: Episode, codec: nn.Module, *, dtype: str, crops: Mapping[str, int], batch: int
) -> dict[str, Tensor]:
    """What a shard holds of a trajectory. ValueError naming it when the type cannot hold its latents."""
    frames = torch.from_numpy(episode.frames[:])
    numbers = ("actions", "ee_pos", "object_pos")
    tensors = {name: torch.from_numpy(getattr(episode, name)).contiguous() for name in numbers}

    def latents(shown: Tensor) -> Tensor:
        device = next(codec.parameters()).device
        found = torch.cat([codec.encode(part.to(device)).to(DTYPES[dtype]).cpu() for part in shown.split(batch)])
        if not torch.isfinite(found).all():
            raise ValueError(f"{episode.demo} of {episode.scene}: latents beyond what --dtype {dtype} holds")
        return found.contiguous()

    tensors["latents"] = latents(frames)
    if episode.split != "train":
        tensors["pictures"] = frames
    elif crops["copies"]:
        shifted = []
        for copy in range(crops["copies"]):
            seed = derived_seed(crops["seed"], "crop", episode.scene, episode.demo, episode.seed, copy)
            shifted.append(latents(random_shift(frames[None], crops["pixels"], torch.Generator().manual_seed(seed))[0]))
        tensors["crops"] = torch.stack(shifted)
    return tensors
