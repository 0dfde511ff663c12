"""A trained system from disk, ready to plan in, with what a result must say about it."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from colaworld.experiments.provenance import file_hash
from colaworld.planning.protocols import World


@dataclass(frozen=True, kw_only=True)
class LoadedWorld:
    """A world, the hash of the weights it came from, and what its frames and steps were (None: any will do)."""

    world: World
    checkpoint: str
    render_profile: str | None = None
    height: int | None = None
    width: int | None = None
    frame_skip: int | None = None


def load_world(path: Path | None, *, preset: str, device: str, steps: int, std: float, guidance: float) -> LoadedWorld:
    """The system at ``path`` (None: the one that ships for ``preset``) as a world.

    ``steps``, ``std`` and ``guidance`` say how its flow is sampled. Raises FileNotFoundError or ValueError naming the
    part that is missing or damaged, ValueError for a device that is not there.
    """
    # The models are slow to import; tables and toy tasks do without.
    import torch

    from colaworld.adapters.system import load_system, weights_path
    from colaworld.adapters.world import ColaWorld
    from colaworld.models.flow import SamplerConfig

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: this machine has no CUDA device that PyTorch can use")
    path = system_folder(path) if path else weights_path(preset)
    system = load_system(path, device=device)
    if system.info.stage != "adapter":
        raise ValueError(f"{path} has only been trained to stage {system.info.stage!r}; planning needs 'adapter'")
    return LoadedWorld(
        world=ColaWorld(system, SamplerConfig(steps=steps, std=std, guidance=guidance)),
        checkpoint=system_hash(path),
        render_profile=system.info.render_profile,
        height=system.info.height,
        width=system.info.width,
        frame_skip=system.info.frame_skip,
    )


def system_folder(path: Path) -> Path:
    """``path`` itself, or the system inside when it is the folder of a training run."""
    inside = path / "system"
    return inside if (inside / "system.json").is_file() else path


def system_hash(path: Path) -> str:
    """SHA-256 over ``system.json`` and every part it names, wherever that lies."""
    described = path / "system.json"
    places = json.loads(described.read_text(encoding="utf-8"))["parts"]
    digests = [file_hash(described), *(file_hash(path / place) for _, place in sorted(places.items()))]
    return sha256(" ".join(digests).encode()).hexdigest()
