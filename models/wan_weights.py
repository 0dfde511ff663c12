"""What a folder of diffusers' Wan says, in our names, and whether its weights all found their place.

Reading itself is diffusers' (``ModelMixin.from_pretrained``: shards, hub, ``subfolder``, ``torch_dtype``), which makes
up what the weights lack and passes over what it has no place for; here neither goes unnoticed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PUBLISHED = "WanTransformer3DModel"
"""The class that diffusers' ``transformer/config.json`` names."""

NAMES = {
    "latent_channels": "in_channels",
    "depth": "num_layers",
    "heads": "num_attention_heads",
    "text_dim": "text_dim",
    "freq_dim": "freq_dim",
}
"""Our names of what ``config.json`` says to its own."""

NEEDED = ("in_channels", "num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim")

ONLY = {
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}
"""What Wan's text-to-video models have in common; the image-to-video ones have layers more."""


def is_text(name: str) -> bool:
    """Whether a weight of this ``name`` belongs to the text: its embedding, the cross-attention and its norm."""
    return name.startswith("condition_embedder.text_embedder.") or ".attn2." in name or ".norm2." in name


def sizes(config: Mapping[str, Any], where: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The published ``config`` as arguments of ``WanBackbone``. ValueError, with ``where`` it is from, for another
    architecture and for ``given`` arguments that it contradicts.
    """
    for name in NEEDED:
        if not isinstance(config.get(name), int):
            raise ValueError(f"{where}: {name} must be a whole number, got {config.get(name)!r}")
    for name, value in ONLY.items():
        if config.get(name, value) != value:
            raise ValueError(f"{where}: {name} must be {value!r}, got {config[name]!r}")
    patch = config.get("patch_size", [1, 2, 2])
    if len(patch) != 3 or patch[0] != 1 or patch[1] != patch[2]:
        raise ValueError(f"{where}: patch_size must be [1, p, p], got {patch!r}")
    if config.get("out_channels") not in (None, config["in_channels"]):
        raise ValueError(f"{where}: out_channels must be {config['in_channels']}, got {config['out_channels']!r}")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    said = {ours: config[theirs] for ours, theirs in NAMES.items() if theirs in config}
    said |= {"width": width, "mlp_ratio": config["ffn_dim"] / width, "patch": patch[1]}
    for name in said.keys() & given.keys():
        if given[name] != said[name]:
            raise ValueError(f"{name}={given[name]!r}, but {where} says {said[name]!r}")
    return said


def checked(
    found: Mapping[str, list[str]], source: str | Path, may_drop: Callable[[str], bool] = lambda name: False
) -> None:
    """ValueError where diffusers' loading info ``found`` says that weights in ``source`` have no place, apart from
    those that ``may_drop``, or that some are missing.
    """
    foreign = sorted(name for name in found["unexpected_keys"] if not may_drop(name))
    if foreign:
        raise ValueError(f"{source}: {foreign[0]} has no place in the model (of {len(foreign)} such names)")
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(f"{source}: {len(missing)} names are missing, the first is {missing[0]}")
