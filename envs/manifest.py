"""Frozen goal instances for VP2-style planning: start state, goal state, goal frame and predicate, under one hash.

A manifest is ``name.json`` (what a person reads) with ``name.npz`` beside it: ``starts_<scene>`` and ``goals_<scene>``
float64 (n, state), rows in the order of the scene's instances, and ``goal_frames`` uint8 (instances, height, width, 3).
Made with seeds from 1,000,000 on; training data uses those below. States mean what they meant only in the same MuJoCo,
and frames compare only within one render profile, so both are checked.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

FOLDER = Path(__file__).parent / "manifests"
DEFAULT_MANIFEST = "libero_goals_v0"
FIRST_SEED = 1_000_000
Category = Literal["reach", "push"]


@dataclass(frozen=True, kw_only=True)
class Predicate:
    """Success: the gripper (``object`` None) or the named object within ``radius`` metres of ``target`` (x, y, z)."""

    object: str | None
    target: tuple[float, float, float]
    radius: float

    def distance(self, info: Mapping[str, Any]) -> float:
        """Metres to the target, read from an environment's ``info``."""
        place = info["ee_pos"] if self.object is None else info["objects"][self.object]
        return float(np.linalg.norm(np.asarray(place) - np.asarray(self.target)))


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One start and goal. ``seed`` made it; the scripted expert needs ``expert_steps`` environment steps."""

    instance: int
    category: Category
    suite: str
    task_id: int
    seed: int
    predicate: Predicate
    expert_steps: int

    @property
    def scene(self) -> str:
        """Instances of one scene can share a simulator."""
        return f"{self.suite}_{self.task_id}"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Instances with their arrays.

    ``starts``, ``goals``: float64 (state,) for each instance; ``goal_frames``: uint8 (n, height, width, 3).
    """

    name: str
    mujoco: str
    robosuite: str
    render_profile: str
    height: int
    width: int
    frame_skip: int
    instances: tuple[Instance, ...]
    starts: tuple[np.ndarray, ...]
    goals: tuple[np.ndarray, ...]
    goal_frames: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.instances)
        lengths = {"starts": len(self.starts), "goals": len(self.goals), "goal_frames": len(self.goal_frames)}
        for field, length in lengths.items():
            if length != count:
                raise ValueError(f"manifest {self.name}: {field} holds {length} entries for {count} instances")
        if self.goal_frames.shape[1:] != (self.height, self.width, 3) or self.goal_frames.dtype != np.uint8:
            raise ValueError(
                f"manifest {self.name}: goal_frames should be uint8 ({count}, {self.height}, {self.width}, 3), "
                f"got {self.goal_frames.dtype} {self.goal_frames.shape}"
            )

    @property
    def sha256(self) -> str:
        """Over everything: the described instances and the bytes of every array."""
        digest = hashlib.sha256(json.dumps(self.description(), sort_keys=True).encode())
        for name, array in sorted(self.arrays().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def description(self) -> dict[str, Any]:
        """What the JSON file holds, but for the hash."""
        return {
            "version": 1,
            "name": self.name,
            "mujoco": self.mujoco,
            "robosuite": self.robosuite,
            "render_profile": self.render_profile,
            "height": self.height,
            "width": self.width,
            "frame_skip": self.frame_skip,
            "instances": [_described(instance) for instance in self.instances],
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """What the ``.npz`` holds."""
        arrays = {"goal_frames": self.goal_frames}
        for scene in sorted({instance.scene for instance in self.instances}):
            rows = [index for index, instance in enumerate(self.instances) if instance.scene == scene]
            arrays[f"starts_{scene}"] = np.stack([self.starts[row] for row in rows])
            arrays[f"goals_{scene}"] = np.stack([self.goals[row] for row in rows])
        return arrays


def manifest_path(name_or_path: str | Path) -> Path:
    """The JSON file of a shipped manifest's name, or of a path. Raises FileNotFoundError."""
    path = Path(name_or_path)
    if path.suffix != ".json":
        path = FOLDER / f"{name_or_path}.json"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in FOLDER.glob("*.json"))) or "none"
        raise FileNotFoundError(f"no goal manifest {str(name_or_path)!r} (looked for {path}; shipped: {shipped})")
    return path


def load_manifest(name_or_path: str | Path = DEFAULT_MANIFEST) -> Manifest:
    """Read and check a manifest.

    Raises FileNotFoundError when a file is missing; ValueError when the content does not have the hash it was frozen
    with, a field is missing, or it was made with another MuJoCo or robosuite than is installed.
    """
    path = manifest_path(name_or_path)
    try:
        described = json.loads(path.read_text())
        manifest = _assembled(described, _read_arrays(path.with_suffix(".npz")))
        frozen = described["sha256"]
    except KeyError as error:
        raise ValueError(f"goal manifest {path}: field {error} is missing") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"goal manifest {path} is not JSON: {error}") from error
    if manifest.sha256 != frozen:
        raise ValueError(
            f"goal manifest {path}: content has sha256 {manifest.sha256[:12]}..., but it was frozen as {frozen[:12]}..."
        )
    for package, wanted in (("mujoco", manifest.mujoco), ("robosuite", manifest.robosuite)):
        if version(package) != wanted:
            raise ValueError(
                f"goal manifest {path} was made with {package} {wanted}, but {version(package)} is installed"
            )
    return manifest


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"goal manifest: {path} is missing (it belongs beside its JSON file)")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise ValueError(f"goal manifest: {path} cannot be read ({error})") from error


def _assembled(described: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Manifest:
    instances = tuple(_instance(entry) for entry in described["instances"])
    starts, goals, taken = [], [], dict.fromkeys((instance.scene for instance in instances), 0)
    for instance in instances:
        row = taken[instance.scene]
        taken[instance.scene] += 1
        for name, states in (("starts", starts), ("goals", goals)):
            stored = arrays[f"{name}_{instance.scene}"]
            if row >= len(stored):
                raise ValueError(
                    f"goal manifest {described['name']}: {name}_{instance.scene} has only {len(stored)} rows"
                )
            states.append(stored[row])
    fields = ("name", "mujoco", "robosuite", "render_profile", "height", "width", "frame_skip")
    return Manifest(
        **{field: described[field] for field in fields},
        instances=instances,
        starts=tuple(starts),
        goals=tuple(goals),
        goal_frames=arrays["goal_frames"],
    )


def _instance(entry: Mapping[str, Any]) -> Instance:
    predicate = entry["predicate"]
    return Instance(
        instance=entry["instance"],
        category=entry["category"],
        suite=entry["suite"],
        task_id=entry["task_id"],
        seed=entry["seed"],
        predicate=Predicate(
            object=predicate["object"], target=tuple(predicate["target"]), radius=predicate["radius"]
        ),
        expert_steps=entry["expert_steps"],
    )


def _described(instance: Instance) -> dict[str, Any]:
    return {
        "instance": instance.instance,
        "category": instance.category,
        "suite": instance.suite,
        "task_id": instance.task_id,
        "seed": instance.seed,
        "predicate": {
            "object": instance.predicate.object,
            "target": list(instance.predicate.target),
            "radius": instance.predicate.radius,
        },
        "expert_steps": instance.expert_steps,
    }
