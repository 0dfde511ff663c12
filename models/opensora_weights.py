"""Reading OpenSora's published weights into modules of the same names, and saying what of them was left out.

A folder holds a ``config.json`` in transformers' style and ``model.safetensors``, or its shards with
``model.safetensors.index.json``. Nothing in it is run. Weights go from the file into the module one shard at a time;
the module is made on the meta device, without memory of its own, so that loading takes that of the weights once.
"""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
HUB = ("hpcai-tech/OpenSora-STDiT-v3", "hpcai-tech/OpenSora-VAE-v1.2")
"""Names on the hub of what is read so."""


def is_published(source: str | Path) -> bool:
    """Whether ``source`` is a folder in the published format, or one of ``HUB``; else it is as diffusers saves."""
    return str(source) in HUB or any((Path(source) / name).exists() for name in (WEIGHTS, INDEX))


def local(source: str | Path) -> Path:
    """The folder of ``source``, fetched where it is a name on the hub."""
    if Path(source).is_dir() or str(source) not in HUB:
        return Path(source)
    return Path(snapshot_download(str(source), allow_patterns=["config.json", "model*.safetensors*"]))


def read_json(path: Path) -> dict[str, Any]:
    """ValueError, with the path, for a file that is missing or is not JSON."""
    if not path.exists():
        raise ValueError(f"{path} is missing")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def fill(
    module: nn.Module,
    folder: Path,
    *,
    may_drop: Callable[[str], bool] = lambda name: False,
    may_lack: Collection[str] = (),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Weights in ``folder`` into a ``module`` on the meta device -> names in the weights that were dropped, and names
    in the module that the weights lack (and are still on the meta device).

    ValueError, with file and name, for what is missing, has no place or another shape.
    """
    lacking, dropped = dict(module.state_dict()), []
    learning = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    for file in _shards(folder):
        try:
            found = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file}: {error}") from error
        kept = {}
        for name, tensor in found.items():
            place = lacking.pop(name, None)
            if place is not None and place.shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)}, the model's {tuple(place.shape)}"
                raise ValueError(f"{file}: {name} has shape {shapes}")
            if place is not None:
                kept[name] = tensor
            elif may_drop(name):
                dropped.append(name)
            else:
                raise ValueError(f"{file}: {name} has no place in the model")
        module.load_state_dict(kept, strict=False, assign=True)
    missing = sorted(set(lacking) - set(may_lack))
    if missing:
        raise ValueError(f"{folder}: {len(missing)} names are missing, the first is {missing[0]}")
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(learning[name])
    return tuple(sorted(dropped)), tuple(sorted(lacking))


def _shards(folder: Path) -> list[Path]:
    indexed = (folder / INDEX).exists()
    names = sorted(set(read_json(folder / INDEX)["weight_map"].values())) if indexed else [WEIGHTS]
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{folder / INDEX}: {name!r} lies outside the folder")
        if not (folder / name).exists():
            raise ValueError(f"{folder / name} is missing")
    return [folder / name for name in names]
