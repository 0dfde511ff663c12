"""Whether a run can learn from encoded data: the codec is the one that encoded, and no stage asks for pictures."""

import hashlib
import json

import torch

from colaworld.envs.demos import ClipDataset
from colaworld.experiments.train_config import TrainConfig

SPEED_ALONE = ("batch", "picture_batch")
"""Fields of a codec's config that say how many frames it takes at once."""


def codec_fingerprint(codec: torch.nn.Module) -> str:
    """SHA-256 of a codec's class, config and weights in float32: equal where its latents are."""
    said = {name: value for name, value in codec.config.items() if not name.startswith("_") and name not in SPEED_ALONE}
    digest = hashlib.sha256(json.dumps([type(codec).__name__, said], sort_keys=True, default=str).encode())
    for name, value in sorted(codec.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\0".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_codec(clips: ClipDataset, codec: torch.nn.Module, whose: object) -> None:
    """ValueError when ``clips`` are latents of another codec than ``codec``, that of ``whose``."""
    if clips.encoded is None:
        return
    found = codec_fingerprint(codec)
    if found != clips.encoded.codec:
        raise ValueError(
            f"{clips.paths[0]} was encoded by codec {clips.encoded.codec[:12]}, but that of {whose} is {found[:12]}; "
            "encode the data with it (experiments/encode_latents.py --init)"
        )


def check_stages(config: TrainConfig, clips: ClipDataset) -> None:
    """ValueError naming the flag of a run that asks more of encoded data than latents."""
    if clips.encoded is None:
        return
    holds, stages = f"{clips.paths[0]} holds latents", config.run_stages()
    if "codec" in stages:
        flag = "--stages codec" if config.stages else "--from-scratch"
        raise ValueError(f"{flag}: the codec learns from pictures, but {holds}")
    if config.recipe == "two_stage" and config.lam_output == "pixel":
        raise ValueError(f"--lam-output pixel: the forward dynamics model predicts pictures, but {holds}")
    for name in stages:
        stage = config.stage(name)
        flag = "--joint" if name in ("lam", "world") else f"--{name}"
        if stage.own_crop:
            raise ValueError(f"{flag}.own-crop needs a clip under two crops, but {holds}, under one")
        if stage.shift and not clips.encoded.copies:
            raise ValueError(
                f"{flag}.shift {stage.shift} moves pictures, but {holds}: say {flag}.shift 0, or encode with --crops"
            )
        if stage.shift and stage.shift != clips.encoded.pixels:
            raise ValueError(
                f"{flag}.shift {stage.shift}: {holds} of crops of up to {clips.encoded.pixels} pixels; say that, or 0"
            )
