"""One goal-reaching episode: at most 15 environment steps, success by the simulator's state at the best step, as VP2
counts it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from colaworld.experiments.goal_policies import PlanTrace, Policy
from colaworld.experiments.goal_tasks import GoalEnv


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one episode came to; distances in metres, ``best_distance`` over the frames after the first action."""

    success: bool
    steps: int
    start_distance: float
    best_distance: float
    final_distance: float
    seconds: float
    plan_seconds: list[float]
    plan_costs: list[float]
    rejected_candidates: int
    actions: list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Footage:
    """Pictures of an episode, uint8 ``(height, width, 3)`` each.

    ``executed[k]`` is frame k, ``distances[k]`` its distance (metres) from the goal; ``plans[k]`` the plan made on it,
    whose imagined frames are k + 1, k + 2, ...
    """

    goal: np.ndarray
    executed: list[np.ndarray] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    plans: dict[int, PlanTrace] = field(default_factory=dict)


def run_episode(
    env: GoalEnv,
    policy: Policy,
    *,
    seed: int,
    max_steps: int,
    on_step: Callable[[int], None] = lambda step: None,
    on_frame: Callable[[Footage], None] = lambda footage: None,
) -> tuple[Outcome, Footage]:
    """Play until success, truncation or ``max_steps``; ``seed`` goes to the environment and the policy, ``on_step``
    hears of progress, ``on_frame`` sees the footage so far after every executed action.
    """
    begun = time.perf_counter()
    observation, info = env.reset(seed=seed)
    footage = Footage(goal=np.array(observation["goal"]))
    footage.executed.append(np.array(observation["agentview"]))
    policy.reset(footage.goal, seed)
    footage.distances.append(float(info["distance"]))
    actions, success = [], False
    for step in range(max_steps):
        on_step(step)
        action = policy.act(observation, info)
        if policy.trace is not None:
            footage.plans[step] = policy.trace
        observation, _, terminated, truncated, info = env.step(action)
        footage.executed.append(np.array(observation["agentview"]))
        footage.distances.append(float(info["distance"]))
        actions.append([round(float(value), 5) for value in action])
        success = success or bool(info["success"])
        on_frame(footage)
        if success or terminated or truncated:
            break
    outcome = Outcome(
        success=success,
        steps=len(actions),
        start_distance=footage.distances[0],
        best_distance=min(footage.distances[1:]),
        final_distance=footage.distances[-1],
        seconds=time.perf_counter() - begun,
        plan_seconds=[plan.seconds for plan in footage.plans.values()],
        plan_costs=[plan.cost for plan in footage.plans.values()],
        rejected_candidates=sum(plan.rejected for plan in footage.plans.values()),
        actions=actions,
    )
    return outcome, footage
