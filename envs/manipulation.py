"""Scripted experts as chains of skills on privileged state: lift, place, open or close a drawer, turn on a stove.

Each function returns the phases of a `colaworld.envs.skills.Script` for one goal in one scene. Where to grasp is read
off the box around the object: thin ones in the middle, bowls and plates at the rim. Hand and fingers are Franka's.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from colaworld.envs.experts import CLOSED, OPEN
from colaworld.envs.play import Workspace
from colaworld.envs.scene import LiberoScene
from colaworld.envs.skills import UPRIGHT, Actions, Hand, Phase, grasp, move_to, pull, release, settle, twist

DEEP = 0.036
"""Metres below its top that something is taken."""
WIDEST = 0.068
"""Metres between the open fingers, less a margin: wider things are held at the rim."""
RIM = 0.006
"""Metres from the outside of a rim to its middle."""
FINGERTIP = 0.011
"""Metres that the fingers reach below the point between them."""
PALM = 0.045
"""Metres from there up to the palm, less a margin."""
OPEN_FINGER = (0.034, 0.046, 0.058)
"""Metres from the middle that an open finger reaches over, at three places."""
HAND = (0.035, 0.10)
"""Half of the hand's extent along x and y, metres."""
KNOB_REACH, KNOB_HEIGHT = 0.01, 0.032
"""Metres along the ridge from the knob's axis, and over its foot, where the fingers take it."""
LOW_HANDLE = 0.08
NEAR_BASE, LEAN_NEAR_BASE = 0.4, 0.6
ABOVE = 0.09
LIFTED = 0.12
NEAR, LOW = 0.08, 0.03
"""Metres across and above within which an approach is straight."""


def lift(scene: LiberoScene, name: str, target: Sequence[float]) -> list[Phase]:
    """Grasp ``name`` and raise it to ``target`` (3,), metres."""

    def carried(hand: Hand) -> np.ndarray:
        return hand.pos + np.asarray(target, float) - hand.object_pos(name)

    return [
        *_pick(scene, name),
        Phase("raise", lambda hand: move_to(hand, lambda: carried(hand), tolerance=0.015, limit=10)),
    ]


def place(scene: LiberoScene, condition: Sequence[str]) -> list[Phase]:
    """Bring about LIBERO's ``("on" | "in", object, region)``: pick, carry above, lower, let go, retreat."""
    _, name, region = condition

    def carry(hand: Hand) -> Actions:
        over = _over(scene, hand, name, region)
        yield from move_to(hand, lambda: np.array([*hand.pos[:2], over()[2]]), tolerance=0.02, limit=8)
        yield from move_to(hand, over, tolerance=0.012, limit=20)

    def lower(hand: Hand) -> Actions:
        height = _down(scene, hand, name, region)

        def down() -> np.ndarray:
            across = scene.region_pos(region)[:2] - scene.body_pos(name)[:2]
            return np.array([*(hand.pos[:2] + across), height])

        yield from settle(hand, down)

    def retreat(hand: Hand) -> Actions:
        offset = (scene.middle_of(name) - hand.pos)[:2]
        if np.linalg.norm(offset) < 0.03:  # what stands between the fingers leans on one of them and would come along
            yield from move_to(hand, hand.pos + np.array([*offset, 0.0]), tolerance=0.004, limit=3)
        yield from _raise(hand, ABOVE)

    return [
        *_pick(scene, name),
        Phase("raise", lambda hand: _raise(hand, ABOVE)),
        Phase("carry", carry),
        Phase("lower", lower),
        Phase("release", release),
        Phase("retreat", retreat),
    ]


def open_drawer(scene: LiberoScene, region: str) -> list[Phase]:
    """Bring about LIBERO's ``("open", region)``: take the handle from the front and pull."""
    joint = scene.joints_of(region)[0]
    way = scene.way_out(joint)
    low = scene.handle(joint)[2] - scene.height_at(scene.handle(joint)[:2] + 0.1 * way[:2]) < LOW_HANDLE
    tilt = _lean(way, 1.0 if low else 1.2)  # the hand of a level arm would touch the table

    def beside(distance: float) -> np.ndarray:
        return scene.handle(joint) + distance * way

    def finished() -> bool:
        return scene.holds(("open", region)) and abs(scene.joints()[joint]) > 0.15

    return [
        Phase("approach", lambda hand: _approach(hand, lambda: beside(0.10), tilt)),
        Phase("reach", lambda hand: move_to(hand, lambda: beside(0.004), tilt=tilt, tolerance=0.006, max_step=0.04)),
        Phase("grasp", grasp),
        Phase("pull", lambda hand: pull(hand, way, finished)),
    ]


def close_drawer(scene: LiberoScene, region: str) -> list[Phase]:
    """Bring about LIBERO's ``("close", region)``: push the handle with closed fingers."""
    joint = scene.joints_of(region)[0]
    way = scene.way_out(joint)
    tilt = _lean(way, 1.0)

    def before(distance: float) -> np.ndarray:
        return scene.handle(joint) + distance * way

    def finished() -> bool:
        return scene.holds(("close", region))

    return [
        Phase("approach", lambda hand: _approach(hand, lambda: before(0.08), tilt, fingers=CLOSED)),
        Phase("touch", lambda hand: move_to(hand, lambda: before(0.025), tilt=tilt, tolerance=0.012, max_step=0.04)),
        Phase("push", lambda hand: pull(hand, -way, finished)),
    ]


def turn_on(scene: LiberoScene, fixture: str) -> list[Phase]:
    """Bring about LIBERO's ``("turnon", fixture)``: take the knob's ridge from above and twist."""
    joint = scene.joints_of(fixture)[0]

    away = scene.knob(joint)[0] - scene.base_pos
    # Close to its foot the arm cannot bend enough to point straight down.
    tilt = _lean(np.array([1.0, 0.0, 0.0]), LEAN_NEAR_BASE) if np.linalg.norm(away[:2]) < NEAR_BASE else UPRIGHT

    def ridge(height: float) -> np.ndarray:
        centre, along = scene.knob(joint)
        return centre + np.array([*(KNOB_REACH * along), height])

    def down() -> np.ndarray:
        return ridge(KNOB_HEIGHT)

    return [
        Phase("approach", lambda hand: _approach(hand, lambda: ridge(KNOB_HEIGHT + ABOVE), tilt)),
        Phase("descend", lambda hand: move_to(hand, down, tolerance=0.008, max_step=0.04, limit=10)),
        Phase("grasp", grasp),
        Phase("turn", lambda hand: twist(hand, lambda: scene.joints()[joint] > 0.6)),
    ]


# ---- parts -----------------------------------------------------------------------------------------------------------


class Grip(NamedTuple):
    """Where and how to take something: the point between the fingers (3,), metres, the hand's tilt (3,), and whether
    nothing stands in the way."""

    point: np.ndarray
    tilt: np.ndarray
    free: bool


def grips(scene: LiberoScene, name: str) -> list[Grip]:
    """Ways to take ``name`` from above that fit, the free ones and the near ones first.

    Thin things are taken in the middle, hollow ones at the rim; the fingers open along y or, with the hand turned,
    along x.
    """
    low, high = scene.extents(name)
    middle, width = (low + high) / 2, high - low
    height = max(low[2] + FINGERTIP + 0.001, high[2] - DEEP)
    hollow = width[2] < 0.08 and scene.height_at(middle[:2]) < high[2] - 0.015
    found = []
    for axis, turned in ((1, 0.0), (0, np.pi / 2)):
        across = np.eye(3)[axis]
        places = []
        if width[axis] < WIDEST:
            places.append((np.array([middle[0], middle[1], height]), (-1.0, 1.0)))
        elif hollow:
            rim = np.array([middle[0], middle[1], max(height, high[2] - 0.02)])
            for side in (-1.0, 1.0):
                places.append((rim + side * (width[axis] / 2 - RIM) * across, (side,)))
        for point, sides in places:
            along = np.array([across[1], across[0]])
            beside = [
                point[:2] + side * out * across[:2] + wide * along
                for side in sides
                for out in OPEN_FINGER
                for wide in (-0.014, 0.0, 0.014)
            ]
            tallest = max(scene.height_at(spot, without=name) for spot in beside)
            palm = HAND if axis == 1 else HAND[::-1]
            over = _tallest(scene, point[:2], *palm, name) > point[2] + PALM
            far = float(np.linalg.norm(point - scene.ee_pos)) + 0.3 * (turned > 0)
            free = tallest < point[2] - FINGERTIP and not over
            found.append((not free, far if free else tallest, Grip(point, np.array([0.0, 0.0, turned]), free)))
    return [grip for *_, grip in sorted(found, key=lambda each: each[:2])]


def _pick(scene: LiberoScene, name: str) -> list[Phase]:
    """Approach, descend and grasp; the way to take ``name`` is chosen when it is first needed, then followed."""
    chosen: list[tuple[np.ndarray, np.ndarray]] = []

    def point(above: float = 0.0) -> np.ndarray:
        if not chosen:
            found = grips(scene, name) or [Grip(scene.middle_of(name), np.zeros(3), False)]
            chosen.append((found[0].point - scene.body_pos(name), found[0].tilt))
        return scene.body_pos(name) + chosen[0][0] + (0, 0, above)

    def approach(hand: Hand) -> Actions:
        point()
        return _approach(hand, lambda: point(ABOVE), chosen[0][1])

    return [
        Phase("approach", approach),
        Phase("descend", lambda hand: move_to(hand, point, tolerance=0.008, max_step=0.04, limit=10)),
        Phase("grasp", grasp),
    ]


def can_grasp(scene: LiberoScene, name: str, workspace: Workspace) -> bool:
    """Whether ``name`` stands inside ``workspace`` and there is a free way to take it."""
    return bool(workspace.inside(scene.middle_of(name)[:2]) and any(grip.free for grip in grips(scene, name)))


def _approach(
    hand: Hand, place: Callable[[], np.ndarray], tilt: Sequence[float] | np.ndarray, *, fingers: float = OPEN
) -> Actions:
    """Up and across first where the hand hangs so low that something could be in the way, then to ``place``."""
    hand.fingers = fingers
    straight = np.linalg.norm((place() - hand.pos)[:2]) < NEAR and np.linalg.norm(hand.turn_to(tilt)) < 0.3
    if not straight and hand.pos[2] < place()[2] + LOW:
        high = place()[2] + ABOVE
        yield from move_to(hand, np.array([*hand.pos[:2], high]), tolerance=0.03, limit=8)
        yield from move_to(hand, lambda: np.array([*place()[:2], high]), tilt=tilt, tolerance=0.04, limit=15)
    yield from move_to(hand, place, tilt=tilt, tolerance=0.012)


def clear_for_hand(scene: LiberoScene, place: np.ndarray, *, without: str | None = None) -> bool:
    """Whether fingers and palm find room at ``place`` (3,), metres, with the hand pointing down."""
    fingers = _tallest(scene, place[:2], 0.015, 0.03, without)
    palm = _tallest(scene, place[:2], *HAND, without)
    return fingers < place[2] - FINGERTIP and palm < place[2] + PALM


def _raise(hand: Hand, height: float) -> Actions:
    yield from move_to(hand, hand.pos + (0, 0, height), tolerance=0.015, limit=8)


def _over(scene: LiberoScene, hand: Hand, name: str, region: str) -> Callable[[], np.ndarray]:
    """Where the hand has to be for ``name`` to be above ``region``; follows how the object hangs in the hand."""
    low, _ = scene.extents(name)
    hanging = hand.pos[2] - low[2]
    ground = _tallest(scene, scene.region_pos(region)[:2], *HAND, name)

    def over() -> np.ndarray:
        spot = scene.region_pos(region)[:2]
        return np.array([*(spot + hand.pos[:2] - scene.body_pos(name)[:2]), max(hand.pos[2], ground + hanging + 0.05)])

    return over


def _down(scene: LiberoScene, hand: Hand, name: str, region: str) -> float:
    """The height at which the hand sets ``name`` down on ``region``, the palm clear of what stands around, metres."""
    low, _ = scene.extents(name)
    hanging = hand.pos[2] - low[2]
    spot = scene.region_pos(region)[:2]
    support = _tallest(scene, spot, 0.02, 0.02, name)
    rim = _tallest(scene, hand.pos[:2], *HAND, name)
    return max(support + hanging + 0.006, rim - PALM)


def _tallest(scene: LiberoScene, place: np.ndarray, x: float, y: float, without: str | None) -> float:
    """Height, metres, of the tallest thing up to ``x`` and ``y`` metres from ``place`` (2,)."""
    offsets = [(dx, dy) for dx in np.linspace(-x, x, 5) for dy in np.linspace(-y, y, 9)]
    return max(scene.height_at(place + np.array(offset), without=without) for offset in offsets)


def _lean(way: np.ndarray, angle: float) -> np.ndarray:
    """The tilt (3,) by ``angle`` radians that points the fingers against ``way`` (a drawer's way out)."""
    return angle * np.cross(np.array([0.0, 0.0, 1.0]), way)
