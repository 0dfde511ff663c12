"""Published weights of a generator and its codec as the system that a run starts from, by ``--init``.

    python experiments/published_system.py --preset opensora --out runs/init
    python experiments/published_system.py --preset wan --video Wan2.1/transformer --codec Wan2.1/vae --out runs/init
    python experiments/train_world_model.py --preset opensora --init runs/init --data my.hdf5 --out runs/opensora

The text layers are left out and listed; what is new (conditioner, latent action model, adapter) is drawn by the run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from colaworld.adapters.system import ColaSystem, save_system, staged
from colaworld.experiments.cli import main
from colaworld.experiments.presets import PRESETS, Preset, build
from colaworld.experiments.train_config import preset_defaults
from colaworld.experiments.train_world_model import check_parts, public_config
from colaworld.models import stdit3_published, wan
from colaworld.models.codecs import codec_class
from colaworld.models.opensora_vae import OpenSoraVAE

PublishedName = Literal["opensora", "wan", "wan4", "nano_opensora", "nano_wan", "nano_wan4"]
WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
Read = tuple[torch.nn.Module, torch.nn.Module, tuple[str, ...]]
"""Codec, video model, names that were dropped."""


def published_system(
    *,
    preset: PublishedName,
    out: Path,
    video: Path | None = None,
    codec: Path | None = None,
    pixels: int | None = None,
    frame_skip: int = 5,
    action_dim: int = 7,
    render_profile: str = "lite",
) -> None:
    """Read the weights, fit them to the preset and write a system.

    Args:
        preset: whose sizes the weights must have.
        out: the system's folder.
        video: a folder of the generator's weights as published; default: they are fetched from the hub.
        codec: the same of its codec.
        pixels: height and width of the frames; default: the preset's.
        frame_skip: simulator steps of one action of the data.
        action_dim: width of the data's actions.
        render_profile: the data's.
    """
    for flag, folder in (("--video", video), ("--codec", codec)):
        check_weights(flag, folder)
    chosen, size = PRESETS[preset], pixels or PRESETS[preset].pixels
    with torch.device("meta"):
        fresh = build(
            chosen,
            height=size,
            width=size,
            frame_skip=frame_skip,
            action_dim=action_dim,
            render_profile=render_profile,
            clip=preset_defaults(preset).clip,
            flow=chosen.flow,
        )
    made_codec, made_video, dropped = READERS[chosen.backbone](chosen, fresh, video, codec)
    system = staged(ColaSystem(info=fresh.info, codec=made_codec, video=made_video), "pretrain")
    check_parts(video or Path(preset), system.parts(), fresh)
    save_system(system, out)
    print(f"left out: {len(dropped)} weights of the text layers, the first {dropped[0] if dropped else 'none'}")
    print(f"system: {out}   next: train_world_model.py --preset {preset} --init {out}")


def check_weights(flag: str, folder: Path | None) -> None:
    """ValueError naming the flag when a folder that it gives does not hold weights: libraries would take it for a name
    on the hub."""
    if folder is None:
        return
    if not folder.is_dir():
        raise ValueError(f"{flag}: there is no folder {folder}")
    for pattern in ("config.json", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise ValueError(f"{flag} {folder}: {pattern} is missing; has the download finished?")


def _opensora(preset: Preset, fresh: ColaSystem, video: Path | None, codec: Path | None) -> Read:
    sizes = {"height": fresh.info.height, "width": fresh.info.width, **preset.codec}
    vae = OpenSoraVAE.from_pretrained(codec or "hpcai-tech/OpenSora-VAE-v1.2", **sizes)
    read = stdit3_published.load_published(video or "hpcai-tech/OpenSora-STDiT-v3", **_clip(fresh))
    return vae, read.model, read.dropped


def _wan(preset: Preset, fresh: ColaSystem, video: Path | None, codec: Path | None) -> Read:
    ours = {name: value for name, value in preset.codec.items() if name != "sizes"}
    ours |= {"height": fresh.info.height, "width": fresh.info.width}
    where = {} if codec else {"subfolder": "vae"}
    vae = codec_class(preset.codec_name).from_pretrained(codec or WAN, **where, **ours)
    found, wanted = public_config(vae.module), public_config(fresh.codec.module)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ValueError(f"{codec or WAN}: {name} is {found.get(name)!r}, preset {preset.name!r} says {value!r}")
    vae.register_to_config(sizes=preset.codec.get("sizes"))  # the same, in the preset's words
    where = {} if video else {"subfolder": "transformer"}
    read = wan.load_published(video or WAN, **where, **_clip(fresh))
    return vae, read.model, read.dropped


def _clip(fresh: ColaSystem) -> dict[str, Any]:
    """What published weights do not say."""
    _, height, width = fresh.video.latent_shape
    return {"latent_height": height, "latent_width": width, "max_frames": fresh.video.config.max_frames}


READERS: dict[str, Callable[[Preset, ColaSystem, Path | None, Path | None], Read]] = {
    "opensora": _opensora,
    "wan": _wan,
}


if __name__ == "__main__":
    main(published_system)
