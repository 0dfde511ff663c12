"""Episodes for the inspector's tests: frames of one grey each, so that a picture tells which frame it is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from colaworld.planning.search import IterationRecord

SIZE = 16


def grey(value: int) -> np.ndarray:
    """uint8 ``(SIZE, SIZE, 3)``."""
    return np.full((SIZE, SIZE, 3), value, np.uint8)


@dataclass(kw_only=True)
class FakePlan:
    """Imagines what will be executed, brighter by ``wrong``."""

    imagined: np.ndarray
    seconds: float = 0.5
    cost: float = 1.0
    rejected: int = 0
    history: tuple[IterationRecord, ...] = tuple(
        IterationRecord(
            best_cost=best, mean_cost=best + 1, elite_cost=best + 0.5, std=0.5, elite_spread=0.2, rejected=0
        )
        for best in (2.0, 1.0)
    )
    actions: np.ndarray | None = field(default_factory=lambda: np.tile(np.arange(7) / 10, (3, 1)))
    codes: np.ndarray | None = field(default_factory=lambda: np.array([[4, 31], [5, 30], [6, 29]]))


@dataclass(kw_only=True)
class FakeEpisode:
    """``executed[k]`` is of grey ``10 k``, what a plan imagined for it of ``10 k + wrong``, the goal is 200."""

    steps: int = 6
    wrong: int = 5
    planned: bool = True

    def __post_init__(self) -> None:
        self.goal = grey(200)
        self.executed = [grey(10 * step) for step in range(self.steps + 1)]
        self.distances = [0.3 - 0.02 * step for step in range(self.steps + 1)]
        made_on = range(1, self.steps) if self.planned else ()
        self.plans = {
            step: FakePlan(imagined=np.stack([grey(10 * (step + ahead) + self.wrong) for ahead in (1, 2, 3)]))
            for step in made_on
        }


def line(instance: int, success: bool, *, row: str = "planner", category: str = "reach", **more: Any) -> dict[str, Any]:
    """One line of the log."""
    record = {
        "row": row,
        "planner": "cem" if row == "planner" else None,
        "instance": instance,
        "category": category,
        "scene": f"scene {instance}",
        "seed": 0,
        "success": success,
        "steps": 6,
        "start_distance": 0.3,
        "best_distance": 0.01 if success else 0.05 + 0.01 * instance,
        "final_distance": 0.05,
        "seconds": 12.0,
        "plan_seconds": [0.5] * 5 if row == "planner" else [],
    }
    return {**record, **more}


@pytest.fixture
def fake_episode() -> type[FakeEpisode]:
    """The class, so that a test says how long it is."""
    return FakeEpisode


@pytest.fixture
def fake_plan() -> type[FakePlan]:
    """The class, so that a test says what it imagines."""
    return FakePlan


@pytest.fixture
def log_line() -> Callable[..., dict[str, Any]]:
    """``log_line(instance, success, row=..., ...)``."""
    return line
