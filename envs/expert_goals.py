"""The categories of goals, and the scripted expert and the success of each: reach, push, lift, place, open or close a
drawer, turn on a stove.

A goal is a `Predicate`. `draw_goal` finds one that the scene at hand offers; `expert_for` makes the policy that fulfils
it; `succeeded` asks the simulator. ``TASKS`` names the LIBERO tasks whose scenes and goals a category is drawn from.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from colaworld.envs import manipulation
from colaworld.envs.experts import CLOSED, OPEN, Push, Reach, Skill
from colaworld.envs.manifest import Category, Predicate
from colaworld.envs.play import Workspace, draw_push
from colaworld.envs.scene import LiberoScene
from colaworld.envs.skills import Script

MAX_STEP = 0.06
"""Metres in an environment step; below what the arm can do, so that the fingers do not throw what they push."""
PUSH_TOLERANCE = 0.02
RADIUS: Mapping[str, float] = {"reach": 0.03, "push": 0.05, "lift": 0.05, "place": 0.05}
JOINT_RADIUS = 0.02
AJAR = 0.05
TRIES = 30
EXPERT_STEPS = 60
"""Environment steps that are enough for every expert from LIBERO's initial states."""

_PLACING_GOALS = (1, 2, 4, 6, 8, 9)
TASKS: Mapping[Category, tuple[tuple[str, int], ...]] = {
    "reach": (("libero_goal", 0), ("libero_spatial", 0), ("libero_object", 0), ("libero_90", 0), ("libero_90", 20)),
    "push": (("libero_goal", 0), ("libero_spatial", 0), ("libero_spatial", 2), ("libero_object", 1)),
    "lift": (("libero_goal", 0), ("libero_spatial", 0), ("libero_object", 0), ("libero_object", 1), ("libero_90", 0)),
    "place": (
        *(("libero_object", task) for task in range(10)),
        *(("libero_spatial", task) for task in range(10)),
        *(("libero_goal", task) for task in _PLACING_GOALS),
    ),
    "open_drawer": (("libero_goal", 0), ("libero_90", 7), ("libero_90", 11), ("libero_90", 23)),
    "close_drawer": (("libero_90", 0), ("libero_90", 22), ("libero_90", 28)),
    "turn_on_stove": (("libero_goal", 7), ("libero_90", 20), ("libero_90", 44)),
}
CATEGORIES: tuple[Category, ...] = tuple(TASKS)
_PREDICATES = {"open_drawer": "open", "close_drawer": "close", "turn_on_stove": "turnon"}


def draw_goal(
    scene: LiberoScene, info: Mapping[str, Any], category: Category, workspace: Workspace, rng: np.random.Generator
) -> Predicate | None:
    """A goal of ``category`` in the scene as it is; None when it offers none (an open drawer cannot be opened)."""
    if category == "reach":
        places = (workspace.draw(rng) for _ in range(TRIES))
        free = next((place for place in places if manipulation.clear_for_hand(scene, place)), None)
        return None if free is None else Predicate(target=tuple(free), radius=RADIUS[category])
    if category == "push":
        pushes = (draw_push(info, workspace, rng) for _ in range(TRIES))
        free = next((push for push in pushes if push is not None and _clear(scene, info, push)), None)
        if free is None:
            return None
        height = info["objects"][free.name][2]
        return Predicate(object=free.name, target=(*free.target, height), radius=RADIUS[category])
    if category == "lift":
        names = [name for name in scene.object_names if manipulation.can_grasp(scene, name, workspace)]
        if not names:
            return None
        name = str(rng.choice(names))
        place = np.asarray(info["objects"][name]) + (0, 0, manipulation.LIFTED)
        return Predicate(object=name, target=tuple(place), radius=RADIUS[category])
    if category == "place":
        wanted = [each for each in scene.goal if each[0] in ("on", "in")]
        if not wanted or scene.holds(wanted[0]):
            return None
        target = tuple(scene.region_pos(wanted[0][2]))
        return Predicate(object=wanted[0][1], target=target, radius=RADIUS[category], conditions=(wanted[0],))
    return _draw_joint_goal(scene, _PREDICATES[category], rng)


def _clear(scene: LiberoScene, info: Mapping[str, Any], push: Push) -> bool:
    """Whether the hand finds room all along a push, furniture looked at."""
    start = np.asarray(info["objects"][push.name], float)
    along = (push.target - start[:2]) / np.linalg.norm(push.target - start[:2])
    low = start[2] + push.height
    ways = np.linspace(start[:2] - (push.radius + 0.05) * along, push.target - push.radius * along, 5)
    ahead = push.target + (push.radius + 0.01) * along
    rooms = [manipulation.clear_for_hand(scene, np.array([*way, low]), without=push.name) for way in ways]
    return all(rooms) and scene.height_at(ahead, without=push.name) < low


def _draw_joint_goal(scene: LiberoScene, word: str, rng: np.random.Generator) -> Predicate | None:
    """A drawer or stove of which LIBERO's ``word`` does not hold yet: the task's own, else any."""
    own = [each for each in scene.goal if each[0] == word]
    wanted = [each for each in own or scene.articulated_conditions(word) if not scene.holds(each)]
    if word == "close":  # a drawer that was never touched does not count as closed for LIBERO either
        wanted = [each for each in wanted if abs(scene.joints()[scene.joints_of(each[1])[0]]) > AJAR]
    if not wanted:
        return None
    condition = wanted[int(rng.integers(len(wanted)))]
    joint = scene.joints_of(condition[1])[0]
    target = {"open": scene.open_position(joint), "close": 0.0, "turnon": 0.6}[word]
    return Predicate(joint=joint, target=(target,), radius=JOINT_RADIUS, conditions=(condition,))


def expert_for(
    scene: LiberoScene, category: Category, predicate: Predicate, *, fingers: float = OPEN, begin: int = 0
) -> Skill:
    """The scripted expert that fulfils ``predicate``, a policy ``expert(info) -> action (7,)``.

    ``fingers`` is the gripper's command at the start (-1 open to 1 closed), which a reach keeps; a chain of skills
    begins with its phase ``begin``.
    """
    if category == "reach":
        return Reach(predicate.target, gripper=CLOSED if fingers > 0 else OPEN, max_step=MAX_STEP)
    if category == "push":
        return Push(predicate.object, predicate.target[:2], tolerance=PUSH_TOLERANCE, max_step=MAX_STEP)
    if category == "lift":
        phases = manipulation.lift(scene, predicate.object, predicate.target)
    elif category == "place":
        phases = manipulation.place(scene, predicate.conditions[0])
    else:
        chains = {
            "open_drawer": manipulation.open_drawer,
            "close_drawer": manipulation.close_drawer,
            "turn_on_stove": manipulation.turn_on,
        }
        if category not in chains:
            raise ValueError(f"unknown category {category!r}; known: {', '.join(CATEGORIES)}")
        phases = chains[category](scene, predicate.conditions[0][1])
    return Script(phases, fingers=CLOSED if fingers > 0 else OPEN, begin=begin)


def succeeded(scene: LiberoScene, predicate: Predicate, info: Mapping[str, Any]) -> bool:
    """Whether ``predicate`` holds in the state that the scene is in and ``info`` tells of."""
    if predicate.conditions:
        return all(scene.holds(condition) for condition in predicate.conditions)
    return predicate.distance(info) < predicate.radius


def privileged_cost(scene: LiberoScene, predicate: Predicate, info: Mapping[str, Any]) -> float:
    """How far the state is from ``predicate``, metres (radians of a knob), for planners that may look at it: the
    subject's distance to its target, and half of the hand's to what it has to touch; 0 where ``predicate`` holds."""
    if succeeded(scene, predicate, info):
        return 0.0
    if predicate.joint is None and predicate.object is None:
        return predicate.distance(info)
    touched = scene.handle(predicate.joint) if predicate.joint is not None else info["objects"][predicate.object]
    return predicate.distance(info) + 0.5 * float(np.linalg.norm(np.asarray(touched) - info["ee_pos"]))
