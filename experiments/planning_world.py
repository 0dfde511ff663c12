"""A trained system from disk, ready to plan in, with its goal models and what a result must say about both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from colaworld.adapters import SHIPPED_PRESET
from colaworld.experiments.provenance import file_hash
from colaworld.planning.protocols import World

if TYPE_CHECKING:  # the models are slow to import; tables and toy tasks do without
    from colaworld.adapters.goal_models import GoalModels
    from colaworld.models.engine import EngineConfig


@dataclass(frozen=True, kw_only=True)
class LoadedWorld:
    """A world, the hash of the weights it came from, and what its frames and steps were (None: any will do); the goal
    models in its latents, where there are some, and the hash of each part of them.
    """

    world: World
    checkpoint: str
    render_profile: str | None = None
    height: int | None = None
    width: int | None = None
    frame_skip: int | None = None
    goal_models: GoalModels | None = None
    goal_hashes: Mapping[str, str] = field(default_factory=dict)


def load_world(
    path: Path | None = None,
    *,
    preset: str = SHIPPED_PRESET,
    device: str = "cpu",
    steps: int = 1,
    std: float = 0.0,
    guidance: float = 1.0,
    snap: bool | None = None,
    engine: EngineConfig | None = None,
    goal_models: Path | None = None,
) -> LoadedWorld:
    """The system at ``path`` (None: the one that ships for ``preset``) as a world, with the ``goal_models`` in that
    folder (None: none).

    ``steps``, ``std`` and ``guidance`` say how its flow is sampled, ``engine`` how it is computed, ``snap`` whether
    latent actions are codes (``ColaWorld``). Raises FileNotFoundError or ValueError naming the part that is missing or
    damaged, ValueError for a device that is not there, for goal models of another codec and for codes that a system
    does not have.
    """
    import torch

    from colaworld.adapters.goal_models import load_goal_models
    from colaworld.adapters.system import load_system, weights_path
    from colaworld.adapters.world import ColaWorld
    from colaworld.models.engine import EngineConfig
    from colaworld.models.flow import SamplerConfig

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: this machine has no CUDA device that PyTorch can use")
    path = system_folder(path) if path else weights_path(preset)
    system = load_system(path, device=device)
    if system.info.stage != "adapter":
        raise ValueError(f"{path} has only been trained to stage {system.info.stage!r}; planning needs 'adapter'")
    if snap and not system.bottleneck.codes:
        raise ValueError(f"--adapter-snap True: {path} has a continuous bottleneck, and no codes to snap to")
    models = load_goal_models(goal_models, system.codec) if goal_models else None
    sampler = SamplerConfig(steps=steps, std=std, guidance=guidance)
    return LoadedWorld(
        world=ColaWorld(system, sampler, snap=snap, engine=engine or EngineConfig()),
        checkpoint=system_hash(path),
        render_profile=system.info.render_profile,
        height=system.info.height,
        width=system.info.width,
        frame_skip=system.info.frame_skip,
        goal_models=models,
        goal_hashes={name: file_hash(goal_models / name) for name in models.about} if models else {},
    )


def goal_models_beside(run: Path) -> Path:
    """Where the goal models of a run's folder, or of a system's, lie: not inside the system, which is replaced as a
    whole whenever it is saved again. Of ``hub:OWNER/NAME`` they were fetched with the system.
    """
    from colaworld.adapters.goal_models import FOLDER
    from colaworld.adapters.hub import PREFIX, located

    run = located(run) if str(run).startswith(PREFIX) else run
    return (run.parent if (run / "system.json").is_file() else run) / FOLDER


def usual_goal_models(run: Path | None, preset: str) -> Path | None:
    """The folder of those beside ``run``, or of those that ship for ``preset``; None where there are none."""
    from colaworld.adapters.goal_models import DESCRIPTION, FOLDER
    from colaworld.adapters.system import weights_path

    folder = goal_models_beside(run) if run else weights_path(preset, FOLDER)
    return folder if (folder / DESCRIPTION).is_file() else None


def system_folder(path: Path) -> Path:
    """``path`` itself, the system inside when it is the folder of a training run, or a copy of ``hub:OWNER/NAME``."""
    from colaworld.adapters.hub import located

    return located(path)


def system_hash(path: Path) -> str:
    """SHA-256 over ``system.json`` and every part it names, wherever that lies."""
    described = path / "system.json"
    places = json.loads(described.read_text(encoding="utf-8"))["parts"]
    digests = [file_hash(described), *(file_hash(path / place) for _, place in sorted(places.items()))]
    return sha256(" ".join(digests).encode()).hexdigest()
