"""LIBERO's own demonstration files (HDF5), read at the model's rate.

``data/demo_i`` holds T rows at 20 Hz: ``actions (T, 7)``, ``obs/agentview_rgb`` and ``obs/eye_in_hand_rgb`` uint8
``(T, height, width, 3)`` upside down, ``obs/ee_pos (T, 3)`` or ``obs/ee_states (T, 6)``, ``obs/joint_states (T, 7)``,
``obs/gripper_states (T, 2)`` and ``states (T, n)``: time, joint positions (the arm's seven, two fingers), the rest.

In the official files row k of ``obs`` was recorded *after* ``actions[k]`` and row k of ``states`` before it: the
action that leads from picture k to picture k + 1 is ``actions[k + 1]``. Files made anew by replaying often record
``obs`` first: there it is ``actions[k]``. Nothing later would show the slip, so the pairing that was said
(`SourceOptions`) is checked against the joints, which ``obs`` and ``states`` both hold.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from einops import rearrange

from colaworld.envs.episode import Demo, Source, foreign_source
from colaworld.envs.pictures import Orientation, model_frames
from colaworld.envs.recording import ACTION_DIM, demo_names
from colaworld.envs.source_options import CONTROL_RATE, Pairing, SourceOptions

CAMERAS = {"agentview": "agentview_rgb", "eye_in_hand": "eye_in_hand_rgb"}
USES = frozenset({"camera", "orientation", "pairing", "fps", "rate", "height", "width", "render_profile", "stream"})
JOINTS = {"obs/joint_states": slice(1, 8), "obs/gripper_states": slice(8, 10)}
"""What ``obs`` shares with the columns of ``states``."""
MOVING = 1e-5
"""Radians or metres: below it, joints say nothing of before and after."""


def is_libero_file(data: h5py.Group) -> bool:
    """Whether the group ``data`` is laid out by LIBERO rather than by colaworld."""
    return "layout_version" not in data.attrs and "action_pairing" not in data.attrs and bool(demo_names(data))


def read_libero(path: Path, data: h5py.Group, options: SourceOptions) -> Source:
    """All demonstrations of the open file at ``path``; their frames are read when asked for.

    ValueError names file, demonstration, field and value: a missing field, lengths or shapes that do not fit, a control
    rate that is no multiple of the model's, and a pairing that the joints contradict.
    """
    camera = options.camera or "agentview"
    if camera not in CAMERAS:
        raise ValueError(f"{path}: camera is {camera!r}, a LIBERO file has {' and '.join(CAMERAS)}")
    pictures = f"obs/{CAMERAS[camera]}"
    pairing: Pairing = options.pairing or "obs_after_action"
    frame_skip = options.frame_skip(options.fps or _control_rate(path, data), path)
    names = demo_names(data)
    for name in names:
        _check(data[name], f"{path}: {name}", pictures, pairing)
    stored = data[names[0]][pictures].shape[1:3]
    for name in names:
        if options.height is None and data[name][pictures].shape[1:3] != stored:
            raise ValueError(
                f"{path}: {name}: {pictures!r} is {data[name][pictures].shape[1:3]}, the demonstrations before it "
                f"{stored}; say a height and width for all"
            )
    size = options.size(*stored)
    demos = []
    for number, name in enumerate(names):
        actions, ee_pos = _between_frames(data[name], f"{path}: {name}", frame_skip, pairing)
        where = f"data/{name}/{pictures}"
        read = partial(_read_frames, path, where, frame_skip, options.orientation or "upside_down", size)
        demos.append(
            Demo(name=name, number=number, count=len(ee_pos), read=read, actions=actions, ee_pos=ee_pos)
        )
    return foreign_source(
        path,
        demos,
        size=size,
        frame_skip=frame_skip,
        render_profile=options.render_profile,
        action_dim=ACTION_DIM,
        kind="demonstration",
        uses=USES,
        loadable=True,
    )


def _control_rate(path: Path, data: h5py.Group) -> float:
    """The rate that the file says it was recorded at, else LIBERO's."""
    try:
        settings = json.loads(data.attrs.get("env_args", "{}"))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: attribute 'env_args' is not valid JSON ({error})") from error
    return float(settings.get("env_kwargs", {}).get("control_freq", CONTROL_RATE))


def _check(demo: h5py.Group, where: str, pictures: str, pairing: Pairing) -> None:
    position = "obs/ee_pos" if "obs/ee_pos" in demo else "obs/ee_states"
    for field in ("actions", pictures, position):
        if field not in demo:
            raise ValueError(f"{where}: field {field!r} is missing")
    rows = len(demo["actions"])
    shapes = {"actions": (rows, ACTION_DIM), pictures: (rows, *demo[pictures].shape[1:3], 3)}
    shapes[position] = (rows, 3 if position == "obs/ee_pos" else 6)
    for field, shape in shapes.items():
        if demo[field].shape != shape:
            raise ValueError(f"{where}: field {field!r} has shape {demo[field].shape}, expected {shape}")
    if demo[pictures].dtype != np.uint8:
        raise ValueError(f"{where}: field {pictures!r} has type {demo[pictures].dtype}, expected uint8")
    found = pairing_of(demo, where)
    if found is not None and found != pairing:
        raise ValueError(
            f"{where}: read as pairing {pairing!r}, but joints in obs and states agree with {found!r}; say that"
        )


def pairing_of(demo: h5py.Group, where: str) -> Pairing | None:
    """What the joints say: in row k of ``obs`` they are those of ``states[k + 1]`` (after the action) or of
    ``states[k]`` (before it). None when the file holds no joints or nothing moves. ValueError names a field whose
    length does not fit."""
    field = next((field for field in JOINTS if field in demo), None)
    if field is None or "states" not in demo:
        return None
    seen, states = demo[field], demo["states"]
    if len(seen) != len(demo["actions"]) or len(states) != len(demo["actions"]) or states.ndim != 2:
        raise ValueError(
            f"{where}: fields {field!r} {seen.shape} and 'states' {states.shape} do not fit {len(demo['actions'])} "
            f"actions"
        )
    held = states[:, JOINTS[field]]
    if held.shape != seen.shape:
        raise ValueError(f"{where}: field {field!r} has shape {seen.shape}, expected {held.shape}")
    moved = np.abs(np.diff(held, axis=0)).max(axis=1) > MOVING
    if not moved.any():
        return None
    before = np.abs(seen[:-1] - held[:-1]).max(axis=1)[moved]
    after = np.abs(seen[:-1] - held[1:]).max(axis=1)[moved]
    # By vote: a replay strays a little, and the first row of some files is of another moment.
    return "obs_before_action" if np.mean(before < after) > 0.5 else "obs_after_action"


def _between_frames(demo: h5py.Group, where: str, frame_skip: int, pairing: Pairing) -> tuple[np.ndarray, np.ndarray]:
    """The chunks of actions ``(T - 1, frame_skip, 7)`` between every ``frame_skip``-th row, and the gripper there
    ``(T, 3)``."""
    actions, positions = demo["actions"][()], demo["obs/ee_pos" if "obs/ee_pos" in demo else "obs/ee_states"][:, :3]
    if not np.isfinite(actions).all():
        raise ValueError(f"{where}: field 'actions' holds values that are not finite")
    ee_pos = positions[::frame_skip]
    first = 1 if pairing == "obs_after_action" else 0
    between = actions[first : first + (len(ee_pos) - 1) * frame_skip]
    return rearrange(between, "(t k) a -> t k a", k=frame_skip), ee_pos


def _read_frames(
    path: Path, field: str, frame_skip: int, orientation: Orientation, size: tuple[int, int], numbers: Sequence[int]
) -> np.ndarray:
    """Frames ``numbers``, uint8 ``(len(numbers), 3, height, width)``."""
    with h5py.File(path, "r") as file:
        stored = file[field][[number * frame_skip for number in numbers]]
    return model_frames(stored, orientation, size)
