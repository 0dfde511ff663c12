"""What was learned about goals in one codec's latents, in a folder beside the system: a distance in metres, one in
steps, a success classifier, a goal-conditioned policy; and an inverse adapter, which acts on plans over codes.

``goal_models.json`` names the codec by a digest of its weights: latents of another codec would be compared without a
murmur. An inverse adapter is bound to the latent action model as well. Each part is a ``config.json`` and safetensors
through diffusers, and appears whole or not at all, so that a training that was cut off goes on with the parts that are
missing.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from colaworld.adapters.inverse_adapter import InverseAdapter
from colaworld.adapters.system import ColaSystem, forget_places
from colaworld.models.codec import FrameCodec
from colaworld.models.goal_distance import GoalDistance
from colaworld.models.goal_policy import GoalPolicy
from colaworld.models.goal_progress import GoalProgress
from colaworld.models.success_classifier import SuccessClassifier

FORMAT = 1
FOLDER = "goal_models"
DESCRIPTION = "goal_models.json"
GOAL_PARTS = {
    "distance": GoalDistance,
    "progress": GoalProgress,
    "success": SuccessClassifier,
    "policy": GoalPolicy,
    "inverse": InverseAdapter,
}
LATENT_ACTIONS = "latent_actions"
"""What is said about an inverse adapter: the digest of the latent action model that it inverts."""


@dataclass(kw_only=True)
class GoalModels:
    """The parts that are there, in evaluation mode, and ``about`` each: what it was trained with and measured at."""

    distance: GoalDistance | None = None
    progress: GoalProgress | None = None
    success: SuccessClassifier | None = None
    policy: GoalPolicy | None = None
    inverse: InverseAdapter | None = None
    about: Mapping[str, Any]

    def part(self, name: str) -> nn.Module:
        """ValueError when the part ``name`` was not trained."""
        part = getattr(self, name)
        if part is None:
            raise ValueError(f"there is no {name} among the goal models; trained: {', '.join(self.about) or 'none'}")
        return part

    def inverse_of(self, system: ColaSystem) -> InverseAdapter:
        """The inverse adapter; ValueError when it was not trained, or for another latent action model than that of
        ``system``: its codes would mean something else.
        """
        part, read = self.part("inverse"), self.about["inverse"].get(LATENT_ACTIONS)
        if read != latent_action_digest(system):
            raise ValueError("the inverse adapter was trained for another latent action model than the system's")
        return part


def codec_digest(codec: FrameCodec) -> str:
    """SHA-256 over the codec's weights as float32: the same on every device and wherever the file lies."""
    return _digest(codec)


def latent_action_digest(system: ColaSystem) -> str:
    """The same over inverse dynamics and bottleneck. ValueError for a system of real actions, which has neither."""
    if system.inverse_dynamics is None or system.bottleneck is None:
        raise ValueError(f"recipe {system.info.recipe!r} has no latent action model")
    return _digest(system.inverse_dynamics, system.bottleneck)


def _digest(*parts: nn.Module) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for name, weights in sorted(part.state_dict().items()):
            digest.update(f"{name} {tuple(weights.shape)}".encode())
            digest.update(weights.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_goal_model(
    folder: str | Path,
    name: str,
    part: nn.Module,
    about: Mapping[str, Any],
    codec: str,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the part ``name`` and what is ``about`` it (plain JSON) into ``folder``, beside others of the same
    ``codec`` (its digest). ValueError for an unknown name, or a folder of another codec.
    """
    folder = Path(folder)
    if name not in GOAL_PARTS:
        raise ValueError(f"unknown goal model {name!r}, expected one of {', '.join(GOAL_PARTS)}")
    described = read_description(folder, codec)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    if dtype != torch.float32:  # a copy: it may go on being used
        part = nn.Module.to(deepcopy(part), dtype)
    part.save_pretrained(partial, safe_serialization=True)
    forget_places(partial)
    # The description goes first out and last in: a part that it names is whole and the one that it means.
    _write_description(folder, codec, {key: value for key, value in described.items() if key != name})
    shutil.rmtree(folder / name, ignore_errors=True)
    os.replace(partial, folder / name)
    _write_description(folder, codec, {**described, name: dict(about)})


def load_goal_models(
    folder: str | Path, codec: FrameCodec, *, device: str | torch.device | None = None
) -> GoalModels:
    """Read a folder of ``save_goal_model``, for latents of ``codec``, onto ``device`` (None: the codec's).

    FileNotFoundError when the folder or a part is missing; ValueError naming file and field when one is damaged, of
    another format, or made for another codec.
    """
    folder = Path(folder)
    if not (folder / DESCRIPTION).is_file():
        raise FileNotFoundError(f"no goal models at {folder}: {DESCRIPTION} is missing")
    about = read_description(folder, codec_digest(codec))
    device = next(codec.parameters()).device if device is None else device
    return GoalModels(about=about, **{name: _load(folder / name, GOAL_PARTS[name]).to(device) for name in about})


def read_description(folder: Path, codec: str) -> dict[str, Any]:
    """What is said ``about`` each part in ``folder``; nothing where there is no folder. ValueError as above."""
    path = folder / DESCRIPTION
    if not path.is_file():
        return {}
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        found = described.get("format") if isinstance(described, dict) else type(described).__name__
        raise ValueError(f"{path}: format is {found!r}, this version reads {FORMAT}")
    if described.get("codec") != codec:
        raise ValueError(f"{path}: codec is {str(described.get('codec'))[:12]}..., the system's is {codec[:12]}...")
    parts = described.get("parts")
    if not isinstance(parts, dict) or set(parts) - set(GOAL_PARTS):
        raise ValueError(f"{path}: field 'parts' must name some of {', '.join(GOAL_PARTS)}, got {parts!r}")
    return parts


def _write_description(folder: Path, codec: str, parts: Mapping[str, Any]) -> None:
    partial = folder / f".{DESCRIPTION}.{os.getpid()}"
    text = json.dumps({"format": FORMAT, "codec": codec, "parts": parts}, indent=2, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, folder / DESCRIPTION)


def _load(path: Path, kind: type[nn.Module]) -> nn.Module:
    weights = path / "diffusion_pytorch_model.safetensors"
    for needed in (path / "config.json", weights):
        if not needed.is_file():
            raise FileNotFoundError(f"a goal model is missing: no file {needed}")
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
        if loading[problem]:
            raise ValueError(f"{weights}: {problem.replace('_', ' ')}, the first of them {min(loading[problem])!r}")
    return part.eval()
