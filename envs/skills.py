"""Skills of a two-finger gripper on privileged state, small enough to be chained: move to a pose, grasp, release, pull
a handle, turn a knob.

A skill is a generator of actions ``(7,)``, one for each environment step of 5 control steps (0.25 s): it looks at the
`Hand`, which knows the latest ``info``, yields what to do next and returns when it is done, so skills are chained with
``yield from``. `Script` makes a policy ``script(info) -> action`` with ``script.done`` of such a generator.

Poses: positions ``(3,)`` in metres in the world frame; a ``tilt`` is a rotation vector (radians, world frame) away from
the gripper pointing straight down with its fingers opening along y.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from colaworld.envs.experts import CLOSED, OPEN, quantised, steer

Actions = Iterator[np.ndarray]
Place = np.ndarray | Callable[[], np.ndarray]

DOWN = Rotation.from_quat([np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0])
"""The hand's orientation when its fingers point to the floor and open along y."""
UPRIGHT = (0.0, 0.0, 0.0)
TURN = 0.55
"""Radians that a held rotation action of 1.0 turns a resting hand in one environment step."""
MAX_TURN = 0.4
MAX_STEP = 0.06
HELD_UP, PATIENCE = 0.004, 3
"""Metres in a step: a hand that moves by less leans on something; and for how many steps it tries."""


class Hand:
    """What skills see and steer: the latest ``info``, and how the fingers and the hand are meant to be."""

    def __init__(self, *, fingers: float = OPEN) -> None:
        self.fingers = fingers
        self.tilt: np.ndarray | None = None
        self.info: Mapping[str, Any] = {}
        self._previous: np.ndarray | None = None

    def see(self, info: Mapping[str, Any]) -> None:
        """A new ``info``; the positions of the last two tell how fast the hand moves."""
        self._previous = self.pos if self.info else np.asarray(info["ee_pos"], float)
        self.info = info

    @property
    def pos(self) -> np.ndarray:
        """Between the fingertips, metres: float64 (3,)."""
        return np.asarray(self.info["ee_pos"], float).copy()

    def object_pos(self, name: str) -> np.ndarray:
        """Metres: float64 (3,)."""
        return np.asarray(self.info["objects"][name], float).copy()

    def turn_to(self, tilt: Sequence[float] | np.ndarray) -> np.ndarray:
        """Rotation vector (3,), radians, from where the hand points to ``tilt``."""
        now = Rotation.from_quat(np.roll(np.asarray(self.info["ee_quat"], float), -1))
        return (Rotation.from_rotvec(np.asarray(tilt, float)) * DOWN * now.inv()).as_rotvec()

    def turn_left(self) -> np.ndarray:
        """Rotation vector (3,) from where the hand points to its ``tilt``; zero when it has none."""
        return np.zeros(3) if self.tilt is None else self.turn_to(self.tilt)

    def towards(self, target: np.ndarray, max_step: float = MAX_STEP) -> np.ndarray:
        """The action (7,) that moves the hand ``max_step`` metres at most towards ``target`` and turns it to its
        tilt."""
        action = steer(self.pos, self._previous, target, gripper=self.fingers, max_step=max_step)
        turn = self.turn_left()
        angle = float(np.linalg.norm(turn))
        if angle > MAX_TURN:
            turn *= MAX_TURN / angle
        if angle > 0.02:  # a command of nothing keeps the orientation asked for last
            action[3:6] = quantised(turn / TURN)
        return action


class Phase(NamedTuple):
    """A named part of a chain: ``act(hand)`` yields its actions."""

    name: str
    act: Callable[[Hand], Actions]


class Script:
    """A chain of phases as a policy: ``script(info) -> action (7,)``.

    ``phase`` counts the phases that have ended; ``done`` when all have, from when on the hand rests. ``begin`` enters
    the chain later, for states in the middle of it; ``fingers`` is what they are doing there.
    """

    def __init__(self, phases: Sequence[Phase], *, fingers: float = OPEN, begin: int = 0) -> None:
        if not 0 <= begin <= len(phases):
            raise ValueError(f"a chain of {len(phases)} phases cannot begin at phase {begin}")
        self.hand = Hand(fingers=fingers)
        self.phases, self.phase = tuple(phases), begin
        self._actions = self._chain()

    @property
    def done(self) -> bool:
        return self.phase == len(self.phases)

    def __call__(self, info: Mapping[str, Any]) -> np.ndarray:
        self.hand.see(info)
        return next(self._actions)

    def _chain(self) -> Actions:
        while not self.done:
            yield from self.phases[self.phase].act(self.hand)
            self.phase += 1
        while True:
            yield quantised(np.array([0, 0, 0, 0, 0, 0, self.hand.fingers]))


def move_to(
    hand: Hand,
    place: Place,
    *,
    tilt: np.ndarray | tuple[float, float, float] | None = None,
    tolerance: float = 0.01,
    max_step: float = MAX_STEP,
    limit: int = 25,
) -> Actions:
    """Straight to ``place`` (a point, or a function that follows one), turning to ``tilt`` (None: as it is meant to be
    already) on the way; ends within ``tolerance`` metres and 0.1 rad, after ``limit`` steps, or where the hand is
    stuck."""
    if tilt is not None:
        hand.tilt = np.asarray(tilt, float)
    before, angle_before, stuck = hand.pos, np.inf, 0
    for step in range(limit):
        target = place() if callable(place) else np.asarray(place, float)
        angle = float(np.linalg.norm(hand.turn_left()))
        if np.linalg.norm(hand.pos - target) < tolerance and angle < 0.1:
            return
        rests = np.linalg.norm(hand.pos - before) < HELD_UP and abs(angle_before - angle) < 0.03
        stuck = stuck + 1 if rests and step else 0
        if stuck == PATIENCE:
            return
        before, angle_before = hand.pos, angle
        yield hand.towards(target, max_step)


def settle(
    hand: Hand, place: Callable[[], np.ndarray], *, tolerance: float = 0.008, max_step: float = 0.04, limit: int = 10
) -> Actions:
    """Down to ``place()``, or until something holds the hand up."""
    before = np.inf
    for _ in range(limit):
        target, height = place(), hand.pos[2]
        if np.linalg.norm(hand.pos - target) < tolerance or before - height < HELD_UP:
            return
        before = height if height < target[2] + 0.5 * max_step else np.inf
        yield hand.towards(target, max_step)


def grasp(hand: Hand, *, steps: int = 3) -> Actions:
    """Close the fingers where the hand is, ``steps`` steps long."""
    hand.fingers = CLOSED
    yield from _hold(hand, steps)


def release(hand: Hand, *, steps: int = 4) -> Actions:
    """Open the fingers where the hand is."""
    hand.fingers = OPEN
    yield from _hold(hand, steps)


def pull(
    hand: Hand, direction: np.ndarray, finished: Callable[[], bool], *, max_step: float = 0.05, limit: int = 14
) -> Actions:
    """Move along ``direction`` (3,), a unit vector, until ``finished()``: a held handle comes along, a touched front is
    pushed."""
    start = hand.pos
    for _ in range(limit):
        if finished():
            return
        gone = float((hand.pos - start) @ direction)
        yield hand.towards(start + direction * (gone + max_step), max_step)


def twist(hand: Hand, finished: Callable[[], bool], *, angle: float = 1.2, limit: int = 14) -> Actions:
    """Turn the hand by ``angle`` radians about the upright axis, against the clock seen from above, until
    ``finished()``: a held knob comes along."""
    place, begun = hand.pos, hand.tilt if hand.tilt is not None else np.zeros(3)
    hand.tilt = (Rotation.from_rotvec([0.0, 0.0, angle]) * Rotation.from_rotvec(begun)).as_rotvec()
    for _ in range(limit):
        if finished():
            return
        yield hand.towards(place)


def _hold(hand: Hand, steps: int) -> Actions:
    place = hand.pos
    for _ in range(steps):
        yield hand.towards(place)
