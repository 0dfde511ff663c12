"""What plans really come to: sampled action sequences played in the simulator, frame by frame, from a goal instance.

``Simulation`` is the door; LIBERO stands behind it with a pool of processes, toy tasks in the tests. Plans are drawn
from the planner's prior and from mixtures of it with the scripted expert's way, since what a search has to tell apart
in its last iteration is not noise alone.

Shapes: S plans, H horizon, A action; frames uint8 ``(S, H, 3, height, width)``, distances ``(S, H)`` in metres.
"""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from colaworld.envs.expert_goals import expert_for
from colaworld.envs.manifest import Instance, Manifest
from colaworld.experiments.goal_tasks import GoalInstance
from colaworld.experiments.simulator_processes import new_pool, only_environment
from colaworld.planning.distributions import ActionPrior

ACTION_DIM = 7


@dataclass(frozen=True, kw_only=True, eq=False)
class Situation:
    """Where plans begin: the last frames uint8 ``(T, 3, height, width)``, the actions ``(T - 1, A)`` between them, the
    goal frame, the expert's next actions ``(H, A)``, and an opaque simulator state.
    """

    frames: Tensor
    actions: Tensor
    goal: Tensor
    expert: Tensor
    state: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Played:
    """What followed: frames, and distances to the goal after each step."""

    frames: Tensor
    distances: Tensor


class Simulation(Protocol):
    """Something that plays plans for real."""

    def begin(self, instance: GoalInstance, *, context: int, horizon: int) -> Situation:
        """``instance`` after ``context - 1`` zero actions, as the planner's episodes begin."""

    def play(self, instance: GoalInstance, situation: Situation, actions: Tensor) -> Played:
        """``actions (S, H, A)``, each sequence from ``situation``."""

    def close(self) -> None:
        """Free everything."""


def draw_plans(
    prior: ActionPrior, expert: Tensor, count: int, *, expert_share: float, generator: torch.Generator
) -> Tensor:
    """``(count, H, A)`` inside the prior's bounds: samples of the prior, of which a share is mixed with the expert's
    ``(H, A)``, each by a weight of its own, uniform in [0, 1].
    """
    gaussian = prior.gaussian(len(expert))
    plans = gaussian.sample(count, generator)
    mixed = round(expert_share * count)
    weight = torch.rand(mixed, 1, 1, generator=generator)
    guided = weight * expert.to(plans) + (1 - weight) * plans[:mixed]
    return gaussian.clamp(torch.cat([guided, plans[mixed:]]))


class LiberoSimulation:
    """LIBERO's simulator in ``workers`` processes, one scene each at a time."""

    def __init__(self, manifest: Manifest, *, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.manifest, self.workers = manifest, workers
        self._pool: ProcessPoolExecutor | None = None

    def begin(self, instance: GoalInstance, *, context: int, horizon: int) -> Situation:
        """As `Simulation.begin`."""
        wanted, start = self.manifest.instances[instance.index], self.manifest.starts[instance.index]
        job = self._processes().submit(_begin, self._scene(wanted), wanted, start, context, horizon)
        frames, expert, state = job.result()
        goal = torch.from_numpy(self.manifest.goal_frames[instance.index].copy())
        return Situation(
            frames=rearrange(torch.from_numpy(frames), "t height width c -> t c height width"),
            actions=torch.zeros(context - 1, ACTION_DIM),
            goal=rearrange(goal, "height width c -> c height width").contiguous(),
            expert=torch.from_numpy(expert),
            state=state,
        )

    def play(self, instance: GoalInstance, situation: Situation, actions: Tensor) -> Played:
        """As `Simulation.play`."""
        wanted = self.manifest.instances[instance.index]
        scene, chunks = self._scene(wanted), np.array_split(actions.numpy(), min(self.workers, len(actions)))
        jobs = [self._processes().submit(_play, scene, wanted, situation.state, chunk) for chunk in chunks]
        frames, distances = zip(*(job.result() for job in jobs), strict=True)
        pictures = torch.from_numpy(np.concatenate(frames))
        return Played(
            frames=rearrange(pictures, "s h height width c -> s h c height width"),
            distances=torch.from_numpy(np.concatenate(distances)),
        )

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _scene(self, instance: Instance) -> dict[str, Any]:
        settings = {name: getattr(self.manifest, name) for name in ("height", "width", "frame_skip", "render_profile")}
        return {"suite": instance.suite, "task_id": instance.task_id, **settings}

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = new_pool(self.workers)
        return self._pool


def _begin(
    scene: Mapping[str, Any], instance: Instance, start: np.ndarray, context: int, horizon: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames uint8 ``(context, height, width, 3)``, the expert's actions ``(horizon, 7)`` after them, and the state."""
    env = only_environment(**scene)
    fingers = env.scene.gripper_command(start)
    observation, info = env.restore_state(start)
    frames = [observation["agentview"]]
    for _ in range(context - 1):
        info = env.advance(np.zeros(ACTION_DIM, np.float32))
        frames.append(env.picture())
    state = env.get_state()
    expert = expert_for(env.scene, instance.category, instance.predicate, fingers=fingers, begin=instance.phase)
    actions = np.zeros((horizon, ACTION_DIM), np.float32)
    for step in range(horizon):
        action = expert(info)
        if expert.done:
            break
        actions[step] = action
        info = env.advance(action)
    return np.stack(frames), actions, state


def _play(
    scene: Mapping[str, Any], instance: Instance, state: np.ndarray, actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``actions (S, H, 7)`` from ``state``: frames uint8 ``(S, H, height, width, 3)``, distances float32 ``(S, H)``."""
    env = only_environment(**scene)
    frames, distances = [], []
    for sequence in actions:
        env.restore_state(state, render=False)
        for action in sequence:
            info = env.advance(action)
            frames.append(env.picture())
            distances.append(instance.predicate.distance(info))
    shape = actions.shape[:2]
    pictures = np.stack(frames).reshape(*shape, *frames[0].shape)
    return pictures, np.array(distances, np.float32).reshape(shape)
