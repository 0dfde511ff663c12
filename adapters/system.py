"""A whole trained system in one folder: codec, video model, latent action model, conditioner, adapter.

``system.json`` says what the system was made for (frame size, frame skip, render profile) and where each part lies;
every part is a ``config.json`` and safetensors, through diffusers' ``save_pretrained`` / ``from_pretrained``. Video
model, conditioner and codec may be of several classes: the name that ``config.json`` says (``_class_name``) is looked
up among those known here. Nothing in a checkpoint is executed. A part's place may point outside the folder
(``../codec``), so that two systems share one codec.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import PushToHubMixin
from safetensors import SafetensorError

from colaworld.adapters import SHIPPED_PRESET
from colaworld.adapters.action_adapter import ActionAdapter
from colaworld.adapters.hub import PREFIX, located
from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.action_head import ActionHead
from colaworld.models.backbones import BACKBONES, Backbone
from colaworld.models.bottleneck import Bottleneck
from colaworld.models.codec import FrameCodec
from colaworld.models.codecs import CODECS
from colaworld.models.cola import CONTEXT_FRAMES, ColaModel
from colaworld.models.compressed_time import ClipCodec, compressed_time
from colaworld.models.flow import FlowConfig
from colaworld.models.forward_dynamics import ForwardDynamics
from colaworld.models.frame_groups import GroupedConditioner
from colaworld.models.inverse_dynamics import InverseDynamics

FORMAT = 1
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
"""Which of several files of weights each tensor of a large part is in."""
SHARD = "2GB"
"""The largest file of weights that is written."""


def _place(part: type) -> tuple[str, str]:
    return part.__module__, part.__name__


PARTS = {
    "codec": tuple(CODECS.values()),
    "video": tuple(BACKBONES.values()),
    "conditioner": (_place(ActionConditioner), _place(GroupedConditioner)),
    "inverse_dynamics": (_place(InverseDynamics),),
    "bottleneck": (_place(Bottleneck),),
    "adapter": (_place(ActionAdapter),),
    "forward_dynamics": (_place(ForwardDynamics),),
    "action_head": (_place(ActionHead),),
}
"""The parts of a system, each with the modules and names of the classes that it may be of."""


@dataclass(frozen=True, kw_only=True)
class SystemInfo:
    """What a system was made for; everything that touches it later must agree."""

    preset: str
    stage: str
    height: int
    width: int
    frame_skip: int
    action_dim: int
    render_profile: str
    clip: int = 12
    """Frames in a training clip: what lies further was never seen."""
    recipe: str = "cola"
    flow: FlowConfig = FlowConfig()


@dataclass(kw_only=True)
class ColaSystem(PushToHubMixin):
    """The parts, on one device. ``adapter`` is None until it is trained; the action parts are None in an action-free
    system, ``inverse_dynamics`` in one of real actions. ``forward_dynamics`` and ``action_head`` only help in training.

    ``push_to_hub("OWNER/NAME")`` is diffusers' own and uploads the bare folder under diffusers' card; with a card that
    says what the system is, experiments/publish.py does.
    """

    info: SystemInfo
    codec: FrameCodec | ClipCodec
    video: Backbone | None = None
    conditioner: ActionConditioner | GroupedConditioner | None = None
    inverse_dynamics: InverseDynamics | None = None
    bottleneck: Bottleneck | None = None
    adapter: ActionAdapter | None = None
    forward_dynamics: ForwardDynamics | None = None
    action_head: ActionHead | None = None

    def model(self) -> ColaModel:
        """The trainable composition. ValueError when the system is action-free."""
        if self.video is None or self.conditioner is None or self.bottleneck is None:
            raise ValueError(f"a system of stage {self.info.stage!r} has no latent action model")
        time = compressed_time(self.codec, CONTEXT_FRAMES)
        return ColaModel(self.video, self.conditioner, self.inverse_dynamics, self.bottleneck, self.info.flow, time)

    def parts(self) -> dict[str, torch.nn.Module]:
        """The parts that are there, by name."""
        return {name: part for name in PARTS if (part := getattr(self, name)) is not None}

    def enable_gradient_checkpointing(self, function: Callable[..., Any] | None = None) -> None:
        """Of the parts made of many blocks (video model, inverse and forward dynamics), which are computed again in the
        backward pass. ``function``: diffusers' ``gradient_checkpointing_func``.
        """
        for part in self.parts().values():
            if getattr(part, "_supports_gradient_checkpointing", False):
                part.enable_gradient_checkpointing(function)

    def save_pretrained(
        self, save_directory: str | Path, *, safe_serialization: bool = True, variant: str | None = None
    ) -> None:
        """`save_system` under diffusers' name. ValueError when the folder holds something else than a system, or for
        anything but plain safetensors.
        """
        path = Path(save_directory)
        if not safe_serialization or variant is not None:
            raise ValueError("systems are saved as safetensors without variants")
        if path.is_dir() and any(path.iterdir()) and not (path / "system.json").is_file():
            raise ValueError(f"{path} exists and holds something else than a system")
        save_system(self, path)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str | torch.device = "cpu") -> "ColaSystem":
        """`load_system` under diffusers' name; a name without a folder of that name is looked for on the hub."""
        if not str(source).startswith(PREFIX) and not Path(source).exists():
            source = f"{PREFIX}{source}"
        return load_system(source, device=device)


def weights_path(preset: str = SHIPPED_PRESET, name: str = "cola") -> Path:
    """Where the weights that ship with the package lie: ``name`` is ``"cola"`` (whole system) or ``"pretrained"``
    (action-free).
    """
    return Path(__file__).parent / "weights" / preset / name


def save_system(
    system: ColaSystem,
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    codec: str | None = None,
    shard: str = SHARD,
) -> None:
    """Write the folder ``path``, whole or not at all. ``codec``: a relative place of an already written codec to
    point to. ``shard``: a part's weights that are larger than this come in several files, with an index.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    places = {}
    for name, part in system.parts().items():
        places[name] = codec if name == "codec" and codec is not None else name
        if places[name] == name:
            # A copy: saving in bf16 must not round the weights that go on training.
            part = torch.nn.Module.to(deepcopy(part), dtype)
            part.save_pretrained(partial / name, safe_serialization=True, max_shard_size=shard)
    forget_places(partial)
    text = {"format": FORMAT, "parts": places, **asdict(system.info)}
    (partial / "system.json").write_text(json.dumps(text, indent=2) + "\n")
    take_place(partial, path)


def take_place(partial: Path, path: Path) -> None:
    """The finished folder ``partial`` becomes ``path``, in place of what was there."""
    if path.exists():
        old = path.with_name(f".{path.name}.old-{os.getpid()}")
        os.replace(path, old)
        os.replace(partial, path)
        shutil.rmtree(old)
    else:
        os.replace(partial, path)


def forget_places(folder: Path) -> None:
    """Parts that were loaded from a folder carry its name in their configs (diffusers' ``_name_or_path``): nobody's
    concern where they are read.
    """
    for path in folder.rglob("config.json"):
        text = json.loads(path.read_text())
        if text.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(text, indent=2) + "\n")


def load_system(path: str | Path, *, device: str | torch.device = "cpu") -> ColaSystem:
    """Read a folder of ``save_system``, that of a run, or ``hub:OWNER/NAME``, in float32 and evaluation mode.

    FileNotFoundError when the folder or a part is missing; ValueError naming file and field when one is damaged or of
    another format.
    """
    path = located(path)
    described = path / "system.json"
    if not described.is_file():
        lacking = f"{described.name} is missing" if path.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"no system at {path}: {lacking}")
    try:
        text = json.loads(described.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{described}: not valid JSON ({error})") from error
    if text.get("format") != FORMAT:
        raise ValueError(f"{described}: format is {text.get('format')!r}, this version reads {FORMAT}")
    if not isinstance(text.get("parts"), dict):
        raise ValueError(f"{described}: field 'parts' is missing")
    parts = {name: _load_part(name, path / place, device) for name, place in text["parts"].items()}
    return ColaSystem(info=_info(text, described), **parts)


def _load_part(name: str, path: Path, device: str | torch.device) -> torch.nn.Module:
    if name not in PARTS:
        raise ValueError(f"{path.parent / 'system.json'}: unknown part {name!r}, expected one of {', '.join(PARTS)}")
    weights = path / (INDEX if (path / INDEX).is_file() else WEIGHTS)
    for needed in (path / "config.json", weights):
        if not needed.is_file():
            raise FileNotFoundError(f"the {name} of the system is missing: no file {needed}")
    kind = _class_of(name, path / "config.json")
    _check_shards(path / INDEX)
    try:
        part, loading = kind.from_pretrained(
            path,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{weights}: cannot be read as a {kind.__name__} ({first})") from error
    for problem in ("missing_keys", "unexpected_keys"):
        if loading[problem]:  # diffusers would only warn and leave such weights as they were drawn
            raise ValueError(f"{weights}: {problem.replace('_', ' ')}, the first of them {min(loading[problem])!r}")
    return part.to(device).eval()


def _check_shards(index: Path) -> None:
    """Nothing but safetensors is read, whatever a list of shards says."""
    if not index.is_file():
        return
    try:
        named = set(json.loads(index.read_text())["weight_map"].values())
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: is not a list of shards ({error})") from error
    for file in named:
        if not isinstance(file, str) or Path(file).name != file or Path(file).suffix != ".safetensors":
            raise ValueError(f"{index}: field 'weight_map' names {file!r}, expected safetensors beside it")


def _class_of(name: str, config: Path) -> type:
    """The class that a part's ``config.json`` names, among those that the part may be of."""
    try:
        text = json.loads(config.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{config}: not valid JSON ({error})") from error
    written = text.get("_class_name") if isinstance(text, dict) else None
    for module, known in PARTS[name]:
        if known == written:
            return getattr(import_module(module), known)
    expected = ", ".join(known for _, known in PARTS[name])
    raise ValueError(f"{config}: field '_class_name' of a {name} must be one of {expected}, got {written!r}")


def _info(text: Mapping[str, Any], where: Path) -> SystemInfo:
    text = {"recipe": "cola", **text}  # older systems had no other
    names = [field.name for field in fields(SystemInfo)]
    for name in names:
        if name not in text:
            raise ValueError(f"{where}: field {name!r} is missing")
    values = {name: text[name] for name in names if name != "flow"}
    return SystemInfo(**values, flow=FlowConfig(**text["flow"]))


def staged(system: ColaSystem, stage: str) -> ColaSystem:
    """The same parts under another stage's name."""
    return replace(system, info=replace(system.info, stage=stage))
