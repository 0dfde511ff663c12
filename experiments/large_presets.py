"""Sizes and flags of the presets that want more than one GPU, and of narrow ones of the same make for tests.

They have not been trained here: numbers are the paper's where it says them, else chosen.
"""

from dataclasses import replace
from typing import Any

from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.training import LoopConfig
from colaworld.models.flow import FlowConfig
from colaworld.models.stdit3 import XL_2
from colaworld.models.wan import WAN_1_3B


def _papers(*, steps: int) -> StageConfig:
    """The paper's optimiser. Not stated in the paper: weight decay and crops."""
    return StageConfig(steps=steps, batch_size=128, learning_rate=7.5e-5, learning_rate_warmup=2000)


PAPER = {
    "warmup": _papers(steps=8_000),
    "joint": _papers(steps=52_000),
    "adapter": _papers(steps=4_500),  # not stated in the paper
    "adapter_snap": True,
    "loop": LoopConfig(mixed_precision="bf16", gradient_checkpointing=True, accumulate=2),
}
"""Flags of the paper's recipe: 8K steps of warm-up, 52K joint, codes for actions, nothing learned from imagined frames
or through the adapter.
"""
NOISE = FlowConfig(source="noise", mean_fraction=0.0, weight=1.0)
"""The paper's flow."""
PAPER_LAM = {"width": 768, "depth": 12, "heads": 12}
"""The paper's inverse and forward dynamics: 12 layers, width 768, 12 heads."""
NARROW_VAE = {
    "picture_widths": (8, 8, 8, 8),
    "picture_layers": 1,
    "temporal_widths": (8, 8, 8, 8),
    "temporal_blocks": 1,
    "groups": 4,
}
NARROW_WAN_VAE = {
    "base_dim": 4,
    "z_dim": 4,
    "num_res_blocks": 1,
    "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
}

BASE: dict[str, Any] = {
    "pixels": 128,
    "codec": {"channels": (64, 96), "latent_channels": 8},
    "video": {"width": 768, "depth": 12, "heads": 12, "mlp_ratio": 4.0, "max_frames": 16},
    "conditioner": {"width": 512, "depth": 4, "heads": 8},
    "inverse_dynamics": {"width": 512, "depth": 6, "heads": 8},
    "forward_dynamics": {"width": 512, "depth": 6, "heads": 8},
    "adapter": {"context_frames": 2, "hidden": 512, "depth": 3},
    "flags": {
        "loop": LoopConfig(mixed_precision="bf16"),
        "codec": StageConfig(steps=20_000, batch_size=64, learning_rate=1e-3, learning_rate_warmup=500, shift=8),
        "pretrain": StageConfig(
            steps=40_000, batch_size=64, learning_rate=3e-4, learning_rate_warmup=1000, shift=8
        ),
        "warmup": StageConfig(steps=4_000, batch_size=64, learning_rate=2e-4, learning_rate_warmup=500, shift=8),
        "joint": StageConfig(
            steps=16_000, batch_size=64, learning_rate=2e-4, learning_rate_warmup=500, shift=8, imagined=0.2
        ),
        "adapter": StageConfig(
            steps=8_000,
            batch_size=64,
            learning_rate=2e-4,
            learning_rate_warmup=500,
            shift=6,
            imagined=0.35,
            through_adapter=0.75,
            adapter_weight=0.05,
        ),
    },
}
"""One node of several GPUs, 128x128."""

OPENSORA: dict[str, Any] = {
    "pixels": 256,
    "backbone": "opensora",
    "codec_name": "opensora",
    "video": XL_2,
    "conditioner": {"width": 1152, "depth": 6, "heads": 16, "mlp_ratio": 2.0},
    "inverse_dynamics": PAPER_LAM,
    "forward_dynamics": PAPER_LAM,
    "adapter": {"context_frames": 0, "hidden": 512, "depth": 2},
    "flow": replace(NOISE, ratio=None),
    "flags": {"clip": 14, **PAPER},
}
"""OpenSora 1.2 and its VAE, with the paper's recipe. Clips are two frames to start from and 12 more, in 3 latents. Flow
times are moved as OpenSora's (``stdit3_time``): at 256x256 and 4 latents by a ratio of 1, which is not at all.
"""

WAN: dict[str, Any] = {
    "pixels": 256,
    "backbone": "wan",
    "codec_name": "wan",
    "codec": {"chunk": 1},
    "video": WAN_1_3B,
    "conditioner": {"width": 1152, "depth": 6, "heads": 16, "mlp_ratio": 2.0},
    "inverse_dynamics": PAPER_LAM,
    "forward_dynamics": PAPER_LAM,
    "adapter": {"context_frames": 0, "hidden": 512, "depth": 2},
    "flow": NOISE,
    "flags": PAPER,
}
"""Wan 2.1 1.3B and its VAE with the same recipe. Differs from OpenSora's and from Wan's own use: every frame is a
picture of its own, one latent a frame, so that a plan's actions enter one by one.
"""

WAN4: dict[str, Any] = {**WAN, "codec_name": "wan_clips", "codec": {}, "flags": {"clip": 14, **PAPER}}
"""The same with four frames to a latent, as Wan was trained (``WanClips``): 5 latents instead of 14 for as many frames,
and inverse dynamics that reads pixels.
"""

NANO_OPENSORA: dict[str, Any] = {
    "pixels": 32,
    "backbone": "opensora",
    "codec_name": "opensora",
    "codec": NARROW_VAE,
    "video": {"width": 32, "depth": 1, "heads": 2, "max_frames": 6},
    "conditioner": {"width": 32, "depth": 1, "heads": 2},
    "inverse_dynamics": {"width": 32, "depth": 1, "heads": 2},
    "bottleneck": {"entries": 8, "width": 8},
    "forward_dynamics": {"width": 32, "depth": 1, "heads": 2},
    "adapter": {"context_frames": 0, "hidden": 32, "depth": 2},
    "flow": FlowConfig(ratio=None),
}

NANO_WAN: dict[str, Any] = {
    "pixels": 32,
    "backbone": "wan",
    "codec_name": "wan",
    "codec": {"chunk": 1, "batch": 64, "sizes": NARROW_WAN_VAE},
    "video": {"width": 32, "depth": 1, "heads": 2, "mlp_ratio": 2.0, "max_frames": 16},
    "conditioner": {"width": 32, "depth": 1, "heads": 2},
    "inverse_dynamics": {"width": 32, "depth": 1, "heads": 2},
    "bottleneck": {"entries": 8, "width": 8},
    "forward_dynamics": {"width": 32, "depth": 1, "heads": 2},
    "adapter": {"context_frames": 2, "hidden": 32, "depth": 2},
}

NANO_WAN4: dict[str, Any] = {
    **NANO_WAN,
    "codec_name": "wan_clips",
    "codec": {"batch": 64, "sizes": NARROW_WAN_VAE},
    "adapter": {"context_frames": 0, "hidden": 32, "depth": 2},
}
