"""How one goal instance of a manifest is found: an expert's trajectory, its end as the goal, a state shortly before it
as the start.

An attempt is a function of its seed. It yields an instance only if the scored expert finishes from the start within
``MOST_STEPS``, the start is not solved already, what matters can be seen, nothing else was moved, and none of
``RANDOM_TRIES`` random policies reaches the goal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from colaworld.envs.expert_goals import (
    CATEGORIES,
    EXPERT_STEPS,
    draw_goal,
    expert_for,
    succeeded,
)
from colaworld.envs.experts import Push, Skill
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.manifest import EPISODE_STEPS, Category, Predicate
from colaworld.envs.play import Play, Workspace
from colaworld.envs.skills import Script
from colaworld.experiments.goal_policies import RandomPolicy
from colaworld.experiments.goal_settings import LiberoPrior

MOST_STEPS = 12
RANDOM_TRIES = 10
DISTANCE: Mapping[str, tuple[float, float]] = {"reach": (0.10, 0.25), "push": (0.10, 0.22)}
MIN_SHARE = 0.002  # of the picture, some 8 of 64x64 pixels
STILL = 0.01  # metres that bystanders may move
FIRST_PHASE: Mapping[str, int] = {"open_drawer": 1, "close_drawer": 1}
"""The hand is turned already where an instance may start: planners that only move it can finish."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A sound instance: states, predicate, the expert's steps and phase, and pictures uint8 (height, width, 3)."""

    start: np.ndarray
    goal: np.ndarray
    predicate: Predicate
    expert_steps: int
    phase: int
    goal_frame: np.ndarray
    start_frame: np.ndarray
    subgoal_frames: np.ndarray | None = None


def attempt(env: LiberoEnv, category: Category, seed: int) -> Candidate | None:
    """A short instance: at most 12 environment steps of an expert's trajectory lie between start and goal.

    The goal is the trajectory's end; of ``place`` the moment from which on LIBERO's predicate holds.
    """
    rng = np.random.default_rng([seed, CATEGORIES.index(category)])
    info, workspace = _begin(env, category, rng)
    wish = _wish(env, info, category, workspace, rng)
    if wish is None:
        return None
    states, phases, end = _demonstrate(env, category, wish, info)
    if end is None:
        return None
    if category == "place":
        phases = phases[: _placed(env, wish, states)]
        states = states[: len(phases) + 1]
    back = len(phases) if category in ("reach", "push") else int(rng.integers(MOST_STEPS - 3, MOST_STEPS + 1))
    first = max(len(phases) - back, 0)
    while first < len(phases) and not _may_start(category, phases[first]):
        first += 1
    if first == len(phases) or len(phases) - first > MOST_STEPS:
        return None
    phase = phases[first] if isinstance(phases[first], int) else 0
    return _checked(env, category, wish, states[first], states[-1], phase, seed)


def attempt_long(env: LiberoEnv, seed: int) -> Candidate | None:
    """A long instance of ``place``: from an official initial state, with a frame of each stage of the expert's way."""
    rng = np.random.default_rng([seed, len(CATEGORIES)])
    info = _official(env, rng)
    wish = draw_goal(env.scene, info, "place", Workspace.around(env.ee_pos), rng)
    if wish is None:
        return None
    states, phases, end = _demonstrate(env, "place", wish, info)
    if end is None:
        return None
    predicate = replace(wish, target=_place_of(wish, end))
    stages = [max(step for step, at in enumerate(phases) if at == stage) + 1 for stage in sorted(set(phases))]
    frames = [env.restore_state(states[step])[0]["agentview"] for step in stages[2:]]
    if len(frames) != LONG_STAGES:
        return None
    return Candidate(
        start=states[0],
        goal=states[-1],
        predicate=predicate,
        expert_steps=len(phases),
        phase=0,
        goal_frame=frames[-1],
        start_frame=env.restore_state(states[0])[0]["agentview"],
        subgoal_frames=np.stack(frames),
    )


LONG_STAGES = 6
"""Grasped, raised, carried, lowered, released, retreated: the last is the goal."""


def _begin(env: LiberoEnv, category: Category, rng: np.random.Generator) -> tuple[Mapping[str, Any], Workspace]:
    """An official initial state, then a moment of play, so that no two instances begin alike."""
    info = _official(env, rng)
    kind = "play" if category in ("reach", "push") else "random"
    play = Play(kind, env.scene.home_pos(), rng, frame_skip=env.frame_skip)
    for _ in range(rng.integers(3, 13) if category == "reach" else rng.integers(0, 5)):
        info = env.advance(play(info))
    return info, play.workspace


def _official(env: LiberoEnv, rng: np.random.Generator) -> Mapping[str, Any]:
    """One of LIBERO's initial states."""
    env.scene.reset_to_initial(int(rng.integers(len(env.scene.initial_states))))
    return env.restore_state(env.get_state(), render=False)[1]


def _wish(
    env: LiberoEnv, info: Mapping[str, Any], category: Category, workspace: Workspace, rng: np.random.Generator
) -> Predicate | None:
    """A goal worth drawing: far enough, and for a push not straight away from the camera, where the hand would hide
    it."""
    for _ in range(50):
        wish = draw_goal(env.scene, info, category, workspace, rng)
        if wish is None or category not in DISTANCE:
            return wish
        low, high = DISTANCE[category]
        distance = wish.distance(info)
        ahead = 0.0 if wish.object is None else wish.target[0] - float(info["objects"][wish.object][0])
        if low + 0.02 < distance < high - 0.01 and ahead > -0.3 * distance:
            return wish
    return None


def _demonstrate(
    env: LiberoEnv, category: Category, wish: Predicate, info: Mapping[str, Any]
) -> tuple[list[np.ndarray], list[int | str], Mapping[str, Any] | None]:
    """The expert's states (one more than steps), the phase of each step, and ``info`` at its end; None if it failed."""
    start = env.get_state()
    expert = expert_for(env.scene, category, wish, fingers=env.scene.gripper_command(start))
    states, phases = [start], []
    for _ in range(EXPERT_STEPS):
        action = expert(info)
        if expert.done:
            break
        phases.append(_phase(expert))
        info = env.advance(action)
        states.append(env.get_state())
    return states, phases, info if expert.done and succeeded(env.scene, wish, info) else None


def _placed(env: LiberoEnv, wish: Predicate, states: list[np.ndarray]) -> int:
    """The step after which ``wish`` held from then on: letting go and moving away would only lengthen the way."""
    step = len(states) - 1
    while step > 0 and succeeded(env.scene, wish, env.restore_state(states[step - 1], render=False)[1]):
        step -= 1
    return step


def _phase(expert: Skill) -> int | str:
    return expert.phase if isinstance(expert, Script | Push) else 0


def _may_start(category: Category, phase: int | str) -> bool:
    """A push starts where the fingers stand behind the object, a drawer where the hand is turned to it."""
    if isinstance(phase, str):
        return phase == "push"
    return phase >= FIRST_PHASE.get(category, 0)


def _place_of(predicate: Predicate, info: Mapping[str, Any]) -> tuple[float, ...]:
    """Where the subject of ``predicate`` is."""
    if predicate.joint is not None:
        return (float(info["joints"][predicate.joint]),)
    place = info["ee_pos"] if predicate.object is None else info["objects"][predicate.object]
    return tuple(float(each) for each in place)


def _checked(
    env: LiberoEnv, category: Category, wish: Predicate, start: np.ndarray, goal: np.ndarray, phase: int, seed: int
) -> Candidate | None:
    """The candidate between two states of a demonstration, or None where something is not sound."""
    goal_view, after = env.restore_state(goal)
    seen = Predicate(target=(), radius=0.0) if category == "place" else wish  # a basket hides its content
    if not _visible(env, seen):
        return None
    start_view, before = env.restore_state(start)
    predicate = replace(wish, target=_place_of(wish, after))
    if not _visible(env, wish) or succeeded(env.scene, predicate, before):
        return None
    moved = {name: np.linalg.norm(after["objects"][name] - before["objects"][name]) for name in before["objects"]}
    still = all(distance < STILL for name, distance in moved.items() if name != wish.object)
    low, high = DISTANCE.get(category, (0.0, np.inf))
    if (not still and wish.joint is None) or not low <= predicate.distance(before) <= high:
        return None
    expert = expert_for(env.scene, category, predicate, fingers=env.scene.gripper_command(start), begin=phase)
    steps = _steps_to_success(env, start, predicate, expert, MOST_STEPS)
    if steps is None or _random_reaches(env, start, predicate, seed):
        return None
    return Candidate(
        start=start,
        goal=goal,
        predicate=predicate,
        expert_steps=steps,
        phase=phase,
        goal_frame=goal_view["agentview"],
        start_frame=start_view["agentview"],
    )


def _steps_to_success(
    env: LiberoEnv,
    start: np.ndarray,
    predicate: Predicate,
    policy: Callable[[Mapping[str, Any]], np.ndarray],
    limit: int,
) -> int | None:
    """Environment steps until ``predicate`` holds, at most ``limit``; None if it never does."""
    _, info = env.restore_state(start, render=False)
    for step in range(1, limit + 1):
        info = env.advance(policy(info))
        if succeeded(env.scene, predicate, info):
            return step
    return None


def _random_reaches(env: LiberoEnv, start: np.ndarray, predicate: Predicate, seed: int) -> bool:
    """Whether one of ``RANDOM_TRIES`` random policies, the planners' prior, solves it within an episode."""
    policy = RandomPolicy(LiberoPrior().prior(), steps=EPISODE_STEPS, zero_actions=1)
    for number in range(RANDOM_TRIES):
        policy.reset(np.zeros(0), seed * RANDOM_TRIES + number)
        if _steps_to_success(env, start, predicate, lambda info: policy.act({}, info), EPISODE_STEPS) is not None:
            return True
    return False


def _visible(env: LiberoEnv, predicate: Predicate) -> bool:
    names = ["gripper"] if predicate.object is None else ["gripper", predicate.object]
    return all(env.visible_share(name) > MIN_SHARE for name in names)
