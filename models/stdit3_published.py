"""OpenSora 1.2's published weights as an ``STDiT3``, with a list of what was dropped and what is new.

Names of the text layers may be left over; apart from them every name and shape must fit.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from colaworld.models.opensora_weights import fill, local, read_json
from colaworld.models.stdit3 import STDiT3
from colaworld.models.stdit3_blocks import RotaryEmbedding

NAMES = {
    "width": "hidden_size",
    "depth": "depth",
    "heads": "num_heads",
    "mlp_ratio": "mlp_ratio",
    "latent_channels": "in_channels",
    "input_sq_size": "input_sq_size",
    "pred_sigma": "pred_sigma",
    "caption_channels": "caption_channels",
    "model_max_length": "model_max_length",
}
"""Our names of what ``config.json`` says to its own."""
ROTARY = "rope.freqs"


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was read. The action conditioner is not part of it: all of that is new."""

    model: STDiT3
    dropped: tuple[str, ...]
    """Names in the weights that the model has no place for: the text layers, unless ``text``."""
    new: tuple[str, ...]
    """Names in the model that the weights lack: the fixed rotary frequencies at most."""


def load_published(source: str | Path, *, text: bool = False, **sizes: Any) -> Published:
    """The published weights in ``source``, a folder or a name on the hub.

    ``sizes``: arguments of ``STDiT3`` that the folder does not say (``latent_height``, ``latent_width``,
    ``max_frames``, ``fps``). Files that are missing, sizes that the folder contradicts, names or shapes that do not
    fit: ValueError with the file, the name and what was found.
    """
    folder = local(source)
    file = folder / "config.json"
    config = read_json(file)
    if config.get("qk_norm") is not True:
        raise ValueError(f"{file}: qk_norm must be true, got {config.get('qk_norm')!r}")
    patch = config.get("patch_size")
    if not isinstance(patch, list) or len(patch) != 3 or patch[0] != 1 or patch[1] != patch[2]:
        raise ValueError(f"{file}: patch_size must be [1, p, p], got {patch!r}")
    said = {ours: config[theirs] for ours, theirs in NAMES.items() if theirs in config} | {"patch": patch[1]}
    for name in said.keys() & sizes.keys():
        if sizes[name] != said[name]:
            raise ValueError(f"{name}={sizes[name]!r}, but {file} says {said[name]!r}")
    with torch.device("meta"):
        model = STDiT3(**(said | sizes), text=text)
    dropped, new = fill(model, folder, may_drop=_is_text, may_lack=(ROTARY,))
    if new:
        model.rope = RotaryEmbedding(model.config.width // model.config.heads)
    return Published(model=model.eval(), dropped=dropped, new=new)


def _is_text(name: str) -> bool:
    return name.startswith("y_embedder.") or ".cross_attn." in name
