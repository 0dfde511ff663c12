"""What a goal-reaching evaluation needs from an environment: instances with a category, something to open them with,
an expert.

``vp2_eval.evaluate`` knows only this door; LIBERO stands behind it in ``libero_goal_tasks``, toy tasks in the tests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

Expert = Callable[[Mapping[str, Any]], np.ndarray]
"""``info -> action (A,)``, from privileged state."""


@dataclass(frozen=True, kw_only=True)
class GoalInstance:
    """One start and goal of a frozen manifest; instances of one ``scene`` can share an environment."""

    index: int
    category: str
    scene: str


class GoalEnv(Protocol):
    """The part of Gymnasium that an episode uses."""

    def reset(self, *, seed: int | None = None) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Observation with uint8 ``agentview`` and ``goal`` ``(height, width, 3)``; info with ``distance`` in
        metres.
        """

    def step(self, action: np.ndarray) -> tuple[Mapping[str, Any], float, bool, bool, Mapping[str, Any]]:
        """As Gymnasium; info with ``success`` and ``distance``."""


class GoalTasks(Protocol):
    """A manifest of goal instances, ready to be opened."""

    @property
    def instances(self) -> Sequence[GoalInstance]:
        """All of them, in the manifest's order."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What results depend on: the manifest's hash, its render profile, the simulator's version; plain JSON
        values.
        """

    def open(self, instance: GoalInstance) -> GoalEnv:
        """An environment that resets to ``instance``; valid until the next ``open``."""

    def expert(self, instance: GoalInstance) -> Expert:
        """A fresh scripted expert for ``instance``, which was opened last."""

    def close(self) -> None:
        """Free everything."""


@runtime_checkable
class Simulated(Protocol):
    """Tasks behind which stands a simulator that may differ between machines; toy tasks have none."""

    def simulator(self, instance: GoalInstance) -> Mapping[str, Any]:
        """How the simulator of ``instance``'s scene behaves here: plain JSON values, the same for the whole scene."""


def choose(
    tasks: GoalTasks, categories: Sequence[str], indices: Sequence[int], episodes: int | None
) -> list[GoalInstance]:
    """The instances asked for: of ``categories`` and ``indices`` (empty: all), at most ``episodes``, grouped by scene.

    A limit takes categories in turn, so that the first 12 hold some of each. Raises ValueError for an unknown
    category or index, and when nothing is left.
    """
    known = list(dict.fromkeys(instance.category for instance in tasks.instances))
    for category in categories:
        if category not in known:
            raise ValueError(f"unknown category {category!r}; the manifest has {', '.join(known)}")
    numbers = {instance.index for instance in tasks.instances}
    for index in indices:
        if index not in numbers:
            raise ValueError(f"unknown instance {index}; the manifest has {min(numbers)} to {max(numbers)}")
    queues = {
        category: [
            instance
            for instance in tasks.instances
            if instance.category == category and (not indices or instance.index in indices)
        ]
        for category in (categories or known)
    }
    total = sum(len(queue) for queue in queues.values())
    if total == 0:
        raise ValueError(f"no instance of the manifest is both among {list(indices)} and of {', '.join(queues)}")
    chosen: list[GoalInstance] = []
    while len(chosen) < min(total, episodes or total):
        for queue in queues.values():
            if queue and len(chosen) < min(total, episodes or total):
                chosen.append(queue.pop(0))
    return sorted(chosen, key=lambda instance: (instance.scene, instance.index))
