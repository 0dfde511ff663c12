"""Scripted skills on privileged state, as plain policies: ``skill(info) -> action (7,)`` in [-1, 1], and
``skill.done``.

They are the expert row of the VP2-style evaluation, where start states are chosen so that the expert finishes, and the
building blocks of recorded play. ``info`` is what ``LiberoEnv`` returns; an action is held for one environment step of
5 control steps (0.25 s). Every action is a multiple of 1/64, which packs exactly into a byte.

OSC_POSE answers a held action ``a`` almost linearly: displacement = RESPONSE * a + CARRY * (displacement of the step
before), measured along each axis from rest and in motion. ``steer`` inverts that, so the gripper neither lags nor
overshoots.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

RESPONSE = 0.054
"""Metres that a held action of 1.0 moves a resting gripper in one environment step."""
CARRY = 0.2
"""Share of the last step's displacement that goes on in the next."""
OPEN, CLOSED = -1.0, 1.0
ACTION_UNIT = 1 / 64


class Skill(Protocol):
    """A policy that knows when it has finished; ``done`` is judged on the ``info`` that it was last called with."""

    done: bool

    def __call__(self, info: Mapping[str, Any]) -> np.ndarray: ...


def quantised(action: np.ndarray) -> np.ndarray:
    """``action`` clipped to [-1, 1] and rounded to multiples of 1/64, float32."""
    return (np.round(np.clip(action, -1.0, 1.0) / ACTION_UNIT) * ACTION_UNIT).astype(np.float32)


def steer(
    position: np.ndarray, previous: np.ndarray, target: np.ndarray, *, gripper: float, max_step: float
) -> np.ndarray:
    """The action ``(7,)`` that brings the gripper from ``position`` to ``target`` in one step, or ``max_step`` metres
    towards it.

    ``previous`` is the position one environment step ago; positions ``(3,)`` in metres.
    """
    offset = np.asarray(target, float) - position
    distance = float(np.linalg.norm(offset))
    if distance > max_step:
        offset = offset * (max_step / distance)
    command = (offset - CARRY * (position - previous)) / RESPONSE
    strongest = float(np.abs(command).max())
    if strongest > 1.0:
        command = command / strongest
    return quantised(np.concatenate([command, np.zeros(3), [gripper]]))


class Reach:
    """Move the gripper straight to ``target`` (3,), metres in the world frame, at most ``max_step`` metres per step."""

    def __init__(
        self, target: Sequence[float], *, gripper: float = OPEN, tolerance: float = 0.01, max_step: float = 0.06
    ) -> None:
        self.target = np.asarray(target, float)
        if self.target.shape != (3,) or not np.isfinite(self.target).all():
            raise ValueError(f"a reach target is three finite numbers (x, y, z), got {target}")
        self.gripper, self.tolerance, self.max_step = gripper, tolerance, max_step
        self.done = False
        self._previous: np.ndarray | None = None

    def __call__(self, info: Mapping[str, Any]) -> np.ndarray:
        position = np.asarray(info["ee_pos"], float)
        previous = position if self._previous is None else self._previous
        self._previous = position.copy()
        self.done = bool(np.linalg.norm(position - self.target) < self.tolerance)
        return steer(position, previous, self.target, gripper=self.gripper, max_step=self.max_step)


SHAPES: Mapping[str, tuple[float, float]] = {
    "bowl": (0.054, 0.020),
    "plate": (0.069, 0.012),
    "ramekin": (0.045, 0.018),
    "cream_cheese": (0.032, 0.004),
    "cookies": (0.037, 0.004),
    "": (0.045, 0.012),
}
"""Radius on the table and the gripper's height over the object's origin for a push, metres, by a part of the object's
name."""
FINGER = 0.016
"""Half of the closed fingers' thickness, metres."""


class Push:
    """Slide ``name`` over the table to ``target`` (2,): go above and behind it, descend, push along the line, then
    lift.

    The line is drawn anew at every step from where the object is, and a sideways slip is answered by moving the contact
    point; when the object gets away, the approach starts over. ``tolerance`` and ``max_step`` in metres, the latter per
    environment step.
    """

    def __init__(
        self,
        name: str,
        target: Sequence[float],
        *,
        tolerance: float = 0.03,
        max_step: float = 0.06,
        clearance: float = 0.10,
    ) -> None:
        self.name, self.target = name, np.asarray(target, float)
        if self.target.shape != (2,) or not np.isfinite(self.target).all():
            raise ValueError(f"a push target is two finite numbers (x, y), got {target}")
        self.radius, self.height = next(shape for part, shape in SHAPES.items() if part in name)
        self.tolerance, self.max_step, self.clearance = tolerance, max_step, clearance
        self.done = False
        self.phase = "travel"
        self._previous: np.ndarray | None = None
        self._rest_height: float | None = None

    def __call__(self, info: Mapping[str, Any]) -> np.ndarray:
        if self.name not in info["objects"]:
            raise ValueError(f"no object named {self.name!r} in this scene; there are {sorted(info['objects'])}")
        position, thing = np.asarray(info["ee_pos"], float), np.asarray(info["objects"][self.name], float)
        previous = position if self._previous is None else self._previous
        self._previous = position.copy()
        if self._rest_height is None:
            self._rest_height = float(thing[2])
        self.done = bool(np.linalg.norm(thing[:2] - self.target) < self.tolerance)
        waypoint = self._waypoint(position, thing, self._rest_height)
        return steer(position, previous, waypoint, gripper=CLOSED, max_step=self.max_step)

    def _waypoint(self, position: np.ndarray, thing: np.ndarray, rest_height: float) -> np.ndarray:
        """Where the gripper should be one step from now; advances ``phase``."""
        low, high = rest_height + self.height, rest_height + self.clearance
        if self.done:
            self.phase = "lift"
        if self.phase == "lift":
            return np.array([*position[:2], high])
        along, distance = _direction(self.target - thing[:2])
        offset = position[:2] - thing[:2]
        behind, aside = float(-offset @ along), offset + along * float(-offset @ along)
        contact = thing[:2] - along * (self.radius + FINGER + 0.02)
        near = bool(np.linalg.norm(position[:2] - contact) < 0.03)
        if self.phase == "push" and (behind < 0.3 * self.radius or np.linalg.norm(aside) > self.radius):
            self.phase = "travel"
        if self.phase == "travel" and near:
            self.phase = "descend"
        if self.phase == "descend" and position[2] < low + 0.015:
            self.phase = "push"
        if self.phase == "travel":
            over = position[2] > high - 0.04 or behind > self.radius + FINGER
            return np.array([*contact, high]) if over else np.array([*position[:2], high])
        if self.phase == "descend":
            return np.array([*contact, low])
        gap = max(0.0, behind - self.radius - FINGER)
        advance = min(self.max_step, gap + distance)
        return np.array([*(position[:2] + along * advance - aside), low])


def _direction(vector: np.ndarray) -> tuple[np.ndarray, float]:
    length = float(np.linalg.norm(vector))
    return (vector / length, length) if length > 1e-6 else (np.array([1.0, 0.0]), 0.0)
