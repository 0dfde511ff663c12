"""Frozen goal instances for VP2-style planning: start state, goal state, goal frame and predicate, under one hash.

A manifest is ``name.json`` (what a person reads) with ``name.npz`` beside it: ``starts_<scene>`` and ``goals_<scene>``
float64 (n, state), rows in the order of the scene's instances, and ``goal_frames`` uint8 (instances, height, width, 3).
A manifest of long tasks also has ``subgoal_frames`` uint8 (instances, k, height,
width, 3). Made with seeds from 1,000,000 on; training data uses those below. States mean what they meant only in the
same MuJoCo, and frames compare only within one render profile, so both are checked.
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
DEFAULT_MANIFEST = "libero_goals_v1"
DEVELOPMENT_MANIFESTS = ("libero_goals_dev_v1",)
"""Of the shipped ones, those that settings are chosen on; on all others results are reported."""
FIRST_SEED = 1_000_000
LAYOUT_VERSION = 1
Category = Literal["reach", "push", "lift", "place", "open_drawer", "close_drawer", "turn_on_stove"]
EPISODE_STEPS = 15


@dataclass(frozen=True, kw_only=True)
class Predicate:
    """What has to be true at success.

    Without ``conditions``: the gripper (``object`` None) or the named object within ``radius`` metres of ``target``
    (x, y, z). With ``conditions``: LIBERO's own predicates, all of them, such as ``("on", "akita_black_bowl_1",
    "plate_1")``; ``target`` is then where the expert left the object, or the (position,) of a drawer's or knob's
    ``joint``.
    """

    object: str | None = None
    joint: str | None = None
    target: tuple[float, ...]
    radius: float
    conditions: tuple[tuple[str, ...], ...] = ()

    def described(self) -> dict[str, Any]:
        """As a manifest's JSON has it. Fields that were added later appear only where they say something, so that older
        manifests keep their hash."""
        described = {"object": self.object, "target": list(self.target), "radius": self.radius}
        if self.joint is not None:
            described["joint"] = self.joint
        if self.conditions:
            described["conditions"] = [list(condition) for condition in self.conditions]
        return described

    @classmethod
    def read(cls, described: Mapping[str, Any]) -> "Predicate":
        """The reverse of `described`."""
        return cls(
            object=described["object"],
            joint=described.get("joint"),
            target=tuple(described["target"]),
            radius=described["radius"],
            conditions=tuple(tuple(condition) for condition in described.get("conditions", ())),
        )

    def distance(self, info: Mapping[str, Any]) -> float:
        """Metres (radians of a knob) to the target, read from an environment's ``info``."""
        if self.joint is not None:
            return abs(float(info["joints"][self.joint]) - self.target[0])
        place = info["ee_pos"] if self.object is None else info["objects"][self.object]
        return float(np.linalg.norm(np.asarray(place) - np.asarray(self.target)))


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One start and goal. ``seed`` made it; the scripted expert needs ``expert_steps`` environment steps, beginning
    with ``phase`` of its chain of skills."""

    instance: int
    category: Category
    suite: str
    task_id: int
    seed: int
    predicate: Predicate
    expert_steps: int
    phase: int = 0

    @property
    def scene(self) -> str:
        """Instances of one scene can share a simulator."""
        return f"{self.suite}_{self.task_id}"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Instances with their arrays.

    ``starts``, ``goals``: float64 (state,) for each instance; ``goal_frames``: uint8 (n, height, width, 3).
    ``subgoal_frames``: uint8 (n, k, height, width, 3), ways to the goal in their order, or None. ``episode_steps``: how
    long an episode may be. ``yardstick``: the settings of the simulator rows that results are read against.
    ``fingerprint``: the simulator that all this was made on.
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
    subgoal_frames: np.ndarray | None = None
    episode_steps: int = EPISODE_STEPS
    yardstick: Mapping[str, Any] | None = None
    fingerprint: Mapping[str, Any] | None = None

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
        subgoals = self.subgoal_frames
        if subgoals is not None and (subgoals.shape[0] != count or subgoals.shape[2:] != self.goal_frames.shape[1:]):
            raise ValueError(
                f"manifest {self.name}: subgoal_frames should be ({count}, k, {self.height}, {self.width}, 3), "
                f"got {subgoals.shape}"
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
        later = {"episode_steps": self.episode_steps, "yardstick": self.yardstick, "fingerprint": self.fingerprint}
        return {
            "version": LAYOUT_VERSION,
            "name": self.name,
            "mujoco": self.mujoco,
            "robosuite": self.robosuite,
            "render_profile": self.render_profile,
            "height": self.height,
            "width": self.width,
            "frame_skip": self.frame_skip,
            **{name: value for name, value in later.items() if value not in (None, EPISODE_STEPS)},
            "instances": [_described(instance) for instance in self.instances],
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """What the ``.npz`` holds."""
        arrays = {"goal_frames": self.goal_frames}
        if self.subgoal_frames is not None:
            arrays["subgoal_frames"] = self.subgoal_frames
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
        if not isinstance(described, dict) or described.get("version") != LAYOUT_VERSION:
            found = described.get("version") if isinstance(described, dict) else type(described).__name__
            raise ValueError(f"goal manifest {path}: version is {found!r}, this code reads {LAYOUT_VERSION}")
        manifest = _assembled(described, _read_arrays(path.with_suffix(".npz")))
        frozen = described["sha256"]
    except KeyError as error:
        raise ValueError(f"goal manifest {path}: field {error} is missing") from error
    except TypeError as error:
        raise ValueError(f"goal manifest {path}: a field is not what it should be ({error})") from error
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


def check_development(manifest: Manifest) -> None:
    """Raise ValueError naming the shipped evaluation manifest that ``manifest`` shares a start with: what is chosen on
    goals says nothing when it is reported on them.
    """
    for path in sorted(FOLDER.glob("*.json"), key=lambda path: (path.stem != manifest.name, path.stem)):
        if path.stem in DEVELOPMENT_MANIFESTS:
            continue
        shipped = load_manifest(path)
        starts = {(each.scene, start.tobytes()) for each, start in zip(shipped.instances, shipped.starts, strict=True)}
        for instance, start in zip(manifest.instances, manifest.starts, strict=True):
            if (instance.scene, start.tobytes()) in starts:
                raise ValueError(
                    f"goal manifest {manifest.name}: instance {instance.instance} is one of the shipped "
                    f"{shipped.name}, on which results are reported: never tune on the evaluation manifest; "
                    f"{', '.join(DEVELOPMENT_MANIFESTS)} is for that, make_manifest.py --first-seed makes another"
                )


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
        subgoal_frames=arrays.get("subgoal_frames"),
        episode_steps=described.get("episode_steps", EPISODE_STEPS),
        yardstick=described.get("yardstick"),
        fingerprint=described.get("fingerprint"),
    )


def _instance(entry: Mapping[str, Any]) -> Instance:
    fields = ("instance", "category", "suite", "task_id", "seed", "expert_steps")
    return Instance(
        **{field: entry[field] for field in fields},
        predicate=Predicate.read(entry["predicate"]),
        phase=entry.get("phase", 0),
    )


def _described(instance: Instance) -> dict[str, Any]:
    described = {
        "instance": instance.instance,
        "category": instance.category,
        "suite": instance.suite,
        "task_id": instance.task_id,
        "seed": instance.seed,
        "predicate": instance.predicate.described(),
        "expert_steps": instance.expert_steps,
    }
    return described | ({"phase": instance.phase} if instance.phase else {})
