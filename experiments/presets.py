"""Presets: every size and every number of steps in one frozen place. ``tiny`` trains and plans on two CPU cores."""

from dataclasses import dataclass, field
from typing import Any, Literal

from colaworld.adapters.action_adapter import ActionAdapter
from colaworld.adapters.system import ColaSystem, SystemInfo
from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.bottleneck import Bottleneck
from colaworld.models.codec import FrameCodec
from colaworld.models.flow import FlowConfig
from colaworld.models.inverse_dynamics import InverseDynamics
from colaworld.models.video_transformer import VideoTransformer


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes of the parts, as keyword arguments of their classes; the widths that must agree are filled in by ``build``."""

    name: str
    codec: dict[str, Any] = field(default_factory=dict)
    video: dict[str, Any] = field(default_factory=dict)
    conditioner: dict[str, Any] = field(default_factory=dict)
    inverse_dynamics: dict[str, Any] = field(default_factory=dict)
    bottleneck: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    flow: FlowConfig = FlowConfig()


PRESETS = {
    "tiny": Preset(
        name="tiny",
        codec={"channels": (48, 64), "latent_channels": 8},
        video={"width": 192, "depth": 3, "heads": 6, "mlp_ratio": 2.0, "max_frames": 16},
        conditioner={"width": 128, "depth": 2, "heads": 4},
        inverse_dynamics={"width": 128, "depth": 2, "heads": 4},
        adapter={"context_frames": 2, "hidden": 192, "depth": 3},
    ),
    # For tests: everything is there, nothing is learned well.
    "nano": Preset(
        name="nano",
        codec={"channels": (8, 8), "latent_channels": 4},
        video={"width": 32, "depth": 1, "heads": 2, "max_frames": 16},
        conditioner={"width": 32, "depth": 1, "heads": 2},
        inverse_dynamics={"width": 32, "depth": 1, "heads": 2},
        bottleneck={"entries": 8, "width": 8},
        adapter={"context_frames": 2, "hidden": 32, "depth": 2},
    ),
}
PresetName = Literal["tiny", "nano"]


def build(
    preset: Preset,
    *,
    height: int,
    width: int,
    frame_skip: int,
    action_dim: int,
    render_profile: str,
    bottleneck: Literal["vq", "continuous"] = "vq",
    adapter_context: bool = True,
    adapter_snap: bool = False,
    history: int = 0,
    clip: int = 12,
    flow: FlowConfig | None = None,
) -> ColaSystem:
    """A freshly initialised system for frames and actions of the given sizes (torch's global generator draws the
    weights).
    """
    codec = FrameCodec(height=height, width=width, **preset.codec)
    channels, rows, columns = codec.latent_shape
    latent = {"latent_channels": channels, "latent_height": rows, "latent_width": columns}
    video = VideoTransformer(**latent, **preset.video)
    narrow = Bottleneck(kind=bottleneck, **preset.bottleneck)
    conditioner = ActionConditioner(
        latent_action_dim=narrow.dim,
        video_width=video.config.width,
        max_steps=video.config.max_frames,
        **preset.conditioner,
    )
    inverse = InverseDynamics(output_dim=narrow.input_dim, history=history, **latent, **preset.inverse_dynamics)
    adapter_size = dict(preset.adapter)
    if not adapter_context:  # the paper's: two layers, the action alone
        adapter_size |= {"context_frames": 0, "depth": 2}
    adapter = ActionAdapter(
        snap=adapter_snap,
        action_dim=action_dim,
        frame_skip=frame_skip,
        latent_action_dim=narrow.dim,
        **latent,
        **adapter_size,
    )
    info = SystemInfo(
        preset=preset.name,
        stage="new",
        height=height,
        width=width,
        frame_skip=frame_skip,
        action_dim=action_dim,
        render_profile=render_profile,
        clip=clip,
        flow=flow or preset.flow,
    )
    return ColaSystem(
        info=info,
        codec=codec,
        video=video,
        conditioner=conditioner,
        inverse_dynamics=inverse,
        bottleneck=narrow,
        adapter=adapter,
    )
