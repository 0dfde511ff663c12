"""The codecs by name: ``frames`` is trained here, the others are published generators' own and stay as they are."""

from importlib import import_module

CODECS = {
    "frames": ("colaworld.models.codec", "FrameCodec"),
    "opensora": ("colaworld.models.opensora_vae", "OpenSoraVAE"),
    "wan": ("colaworld.models.wan_vae", "WanVAE"),
    "wan_clips": ("colaworld.models.wan_clips", "WanClips"),
}
"""Name to module and class. Modules are imported when they are asked for."""


def codec_class(name: str) -> type:
    """The class of a codec's ``name``. ValueError for names that are not in ``CODECS``."""
    if name not in CODECS:
        raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {name!r}")
    module, found = CODECS[name]
    return getattr(import_module(module), found)
