"""Presets: every size and every number of steps in one frozen place. ``tiny`` trains and plans on two CPU cores.

``large_presets`` has those that want more than one GPU, and narrow ones of the same make.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

import torch

from colaworld.adapters.action_adapter import ActionAdapter, AdapterKind
from colaworld.adapters.system import ColaSystem, SystemInfo
from colaworld.experiments.batches import derived_seed
from colaworld.experiments.large_presets import BASE, NANO_OPENSORA, NANO_WAN, NANO_WAN4, OPENSORA, WAN, WAN4
from colaworld.experiments.recipes import RecipeName
from colaworld.experiments.stage_config import StageConfig
from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.action_head import ActionHead
from colaworld.models.backbones import backbone_class
from colaworld.models.bottleneck import Bottleneck, BottleneckKind
from colaworld.models.codecs import codec_class
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.compressed_time import compressed_time
from colaworld.models.flow import FlowConfig
from colaworld.models.forward_dynamics import ForwardDynamics
from colaworld.models.frame_groups import GroupedConditioner
from colaworld.models.inverse_dynamics import InverseDynamics


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes of the parts, as keyword arguments of their classes; the widths that must agree are filled in by
    ``build``."""

    name: str
    pixels: int = 64
    """Height and width of the frames that it is meant for; a run takes its data's."""
    backbone: str = "own"
    """Of ``models.backbones``."""
    codec_name: str = "frames"
    """Of ``models.codecs``."""
    codec: dict[str, Any] = field(default_factory=dict)
    video: dict[str, Any] = field(default_factory=dict)
    conditioner: dict[str, Any] = field(default_factory=dict)
    inverse_dynamics: dict[str, Any] = field(default_factory=dict)
    bottleneck: dict[str, Any] = field(default_factory=dict)
    forward_dynamics: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    flow: FlowConfig = FlowConfig()
    flags: dict[str, Any] = field(default_factory=dict)
    """Flags of ``TrainConfig`` whose defaults are others than its own."""

    @property
    def trains_codec(self) -> bool:
        """Whether the codec is trained here; published ones come with their weights."""
        return self.codec_name == "frames"


PRESETS = {
    "tiny": Preset(
        name="tiny",
        codec={"channels": (48, 64), "latent_channels": 8},
        video={"width": 192, "depth": 3, "heads": 6, "mlp_ratio": 2.0, "max_frames": 16},
        conditioner={"width": 128, "depth": 2, "heads": 4},
        inverse_dynamics={"width": 128, "depth": 2, "heads": 4},
        forward_dynamics={"width": 128, "depth": 2, "heads": 4},
        adapter={"context_frames": 2, "hidden": 192, "depth": 3},
    ),
    # ``tiny`` with convolutions in the place of attention over patches: learns what moves in fewer steps.
    "tiny_conv": Preset(
        name="tiny_conv",
        backbone="conv",
        codec={"channels": (48, 64), "latent_channels": 8},
        video={"width": 96, "depth": 6, "mlp_ratio": 1.0, "context": CONTEXT_FRAMES, "max_frames": 16},
        conditioner={"width": 128, "depth": 2, "heads": 4},
        inverse_dynamics={"width": 128, "depth": 2, "heads": 4},
        forward_dynamics={"width": 128, "depth": 2, "heads": 4},
        adapter={"context_frames": 2, "hidden": 192, "depth": 3, "dropout": 0.0},
        flags={
            "adapter_context": False,  # one without frames caught up in 650 steps (results/backbones)
            "codec": StageConfig(steps=8000, batch_size=12, learning_rate=2e-3),
            "pretrain": StageConfig(steps=2000, batch_size=8, learning_rate=2e-3, shift=0),
            "warmup": StageConfig(steps=400, learning_rate=1e-3, shift=0),
            "joint": StageConfig(steps=1600, learning_rate=1.5e-3, shift=0, imagined=0.2),
            "adapter": StageConfig(
                steps=6000, learning_rate=1.5e-3, shift=0, imagined=0.35, through_adapter=0.75, adapter_weight=0.05
            ),
        },
    ),
    # One GPU and half an hour; still plans on a CPU. At most 7 M parameters in all, whatever the recipe (two_stage's
    # latent action model has a decoder of its own). Two thirds are the video model's, which plans are made of: beside
    # ``tiny`` it alone is wider and deeper, because codes say as little here and pictures are as large.
    "small": Preset(
        name="small",
        codec={"channels": (48, 64), "latent_channels": 8},
        video={"width": 240, "depth": 4, "heads": 6, "mlp_ratio": 2.0, "max_frames": 16},
        conditioner={"width": 128, "depth": 2, "heads": 4},
        inverse_dynamics={"width": 128, "depth": 2, "heads": 4},
        forward_dynamics={"width": 128, "depth": 2, "heads": 4},
        adapter={"context_frames": 2, "hidden": 192, "depth": 3},
    ),
    "base": Preset(name="base", **BASE),
    "opensora": Preset(name="opensora", **OPENSORA),
    "wan": Preset(name="wan", **WAN),
    "wan4": Preset(name="wan4", **WAN4),
    # For tests: everything is there, nothing is learned well.
    "nano": Preset(
        name="nano",
        pixels=32,
        codec={"channels": (8, 8), "latent_channels": 4},
        video={"width": 32, "depth": 1, "heads": 2, "max_frames": 16},
        conditioner={"width": 32, "depth": 1, "heads": 2},
        inverse_dynamics={"width": 32, "depth": 1, "heads": 2},
        bottleneck={"entries": 8, "width": 8},
        forward_dynamics={"width": 32, "depth": 1, "heads": 2},
        adapter={"context_frames": 2, "hidden": 32, "depth": 2},
    ),
    "nano_opensora": Preset(name="nano_opensora", **NANO_OPENSORA),
    "nano_wan": Preset(name="nano_wan", **NANO_WAN),
    "nano_wan4": Preset(name="nano_wan4", **NANO_WAN4),
}
PresetName = Literal[
    "tiny", "tiny_conv", "small", "base", "opensora", "wan", "wan4", "nano", "nano_opensora", "nano_wan", "nano_wan4"
]


PIXEL_PATCH = 8
PartT = TypeVar("PartT")


def build(
    preset: Preset,
    *,
    height: int,
    width: int,
    frame_skip: int,
    action_dim: int,
    render_profile: str,
    recipe: RecipeName = "cola",
    bottleneck: BottleneckKind = "vq",
    tokens: int | None = None,
    entries: int | None = None,
    code_width: int | None = None,
    replace_unused: float = 0.0,
    adapter_kind: AdapterKind = "nearest",
    adapter_context: bool = True,
    adapter_snap: bool = False,
    history: int = 0,
    lam_output: Literal["latent", "pixel"] = "latent",
    action_head: bool = False,
    clip: int = 12,
    flow: FlowConfig | None = None,
) -> ColaSystem:
    """A freshly initialised system for frames and actions of the given sizes (torch's global generator draws the
    weights). ``tokens``, ``entries`` and ``code_width``: of the bottleneck; default: the preset's;
    so is ``replace_unused``, which ``real_actions`` has no use for.
    """
    first = int(torch.randint(2**62, (), device="cpu"))

    def drawn(part: Callable[..., PartT], name: str, **sizes: Any) -> PartT:
        """A part whose weights depend on the seed and its name, not on what was made before it."""
        torch.manual_seed(derived_seed(first, name))
        return part(**sizes)

    codec = drawn(codec_class(preset.codec_name), "codec", height=height, width=width, **preset.codec)
    channels, rows, columns = codec.latent_shape
    latent = _latent(codec.latent_shape)
    time = compressed_time(codec, CONTEXT_FRAMES)
    seen = latent if time is None else _latent(codec.clip_shape)
    video = drawn(backbone_class(preset.backbone), "video", **seen, **preset.video)
    real = recipe == "real_actions"
    chosen = {"tokens": tokens, "entries": entries, "width": code_width, "replace_unused": replace_unused or None}
    asked = {name: value for name, value in chosen.items() if value is not None}
    kind = "continuous" if real else bottleneck
    narrow = drawn(Bottleneck, "bottleneck", kind=kind, **{**preset.bottleneck, **asked})
    conditioner = drawn(
        ActionConditioner if time is None else GroupedConditioner,
        "conditioner",
        **({} if time is None else asdict(time.groups)),
        latent_action_dim=narrow.dim,
        video_width=video.config.width,
        max_steps=video.config.max_frames,
        **preset.conditioner,
    )
    adapter_size = dict(preset.adapter)
    if real or not adapter_context:  # the paper's: two layers, the action alone
        adapter_size |= {"context_frames": 0, "depth": 2}
    if real:  # nothing is withheld from it
        adapter_size |= {"dropout": 0.0}
    if time is not None and clip < time.least:
        raise ValueError(
            f"--clip must be {time.least} frames or more where the codec makes one latent of {time.size}, got {clip}"
        )
    if time is not None and adapter_size["context_frames"]:
        raise ValueError(
            f"preset {preset.name!r}: an adapter that sees frames needs a codec of one latent a frame, this one makes "
            f"one of {time.size}: context_frames must be 0, got {adapter_size['context_frames']}"
        )
    answers = "regress" if real or not narrow.codes else adapter_kind
    adapter = drawn(
        ActionAdapter,
        "adapter",
        kind=answers,
        code_sizes=narrow.code_sizes if answers == "classify" else (),
        snap=adapter_snap,
        action_dim=action_dim,
        frame_skip=frame_skip,
        latent_action_dim=narrow.dim,
        **latent,
        **adapter_size,
    )
    inverse = forward = head = None
    if not real:
        sizes = {"output_dim": narrow.input_dim, "history": history, **latent, **preset.inverse_dynamics}
        inverse = drawn(InverseDynamics, "inverse_dynamics", **sizes)
    if action_head:
        head = drawn(ActionHead, "action_head", latent_action_dim=narrow.dim, action_dim=action_dim)
    if recipe == "two_stage":
        frames = {"channels": channels, "rows": rows, "columns": columns}
        if lam_output == "pixel":
            frames = {"channels": 3, "rows": height, "columns": width, "patch": PIXEL_PATCH}
        forward = drawn(
            ForwardDynamics,
            "forward_dynamics",
            output=lam_output,
            latent_action_dim=narrow.dim,
            tokens=narrow.config.tokens,
            **frames,
            **preset.forward_dynamics,
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
        recipe=recipe,
        flow=(flow or preset.flow).of_clips(height, width, clip if time is None else time.latents_of(clip)),
    )
    return ColaSystem(
        info=info,
        codec=codec,
        video=video,
        conditioner=conditioner,
        inverse_dynamics=inverse,
        bottleneck=narrow,
        adapter=adapter,
        forward_dynamics=forward,
        action_head=head,
    )


def _latent(shape: tuple[int, int, int]) -> dict[str, int]:
    channels, rows, columns = shape
    return {"latent_channels": channels, "latent_height": rows, "latent_width": columns}
