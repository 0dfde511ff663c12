"""A goal-reaching task small enough to run in milliseconds: a bright square that walks over a 16x16 picture, its
world, its expert. And recordings of nothing, written without a simulator.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from colaworld.envs.recording import SceneHeader, Trajectory, write_recording
from colaworld.experiments.goal_tasks import GoalInstance

SIZE = 16
STEP = 2.0
"""Pixels that an action of 1.0 moves the square; only the first two of seven action dimensions count."""


def paint(places: Tensor) -> Tensor:
    """Places ``(N, 2)`` in pixels -> frames float32 ``(N, 3, SIZE, SIZE)`` in [0, 1] with a soft bright spot."""
    axis = torch.arange(SIZE, dtype=torch.float32)
    row = torch.exp(-((axis - places[:, :1]) ** 2) / 30)
    column = torch.exp(-((axis - places[:, 1:]) ** 2) / 30)
    return torch.einsum("n y, n x -> n y x", row, column)[:, None].expand(-1, 3, -1, -1)


def picture(place: np.ndarray) -> np.ndarray:
    """uint8 ``(SIZE, SIZE, 3)``."""
    frame = paint(torch.as_tensor(place, dtype=torch.float32)[None])[0]
    return (frame * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


class SpotWorld:
    """Knows the spot's law exactly; latent ``(2,)`` is its place, read off as the centre of brightness."""

    action_dim = 7
    context_frames = 2
    max_horizon = 10

    def encode(self, frames: Tensor) -> Tensor:
        mass = frames.float().mean(dim=1) ** 8
        axis = torch.arange(SIZE, dtype=torch.float32)
        total = mass.sum(dim=(1, 2))
        return (
            torch.stack([(mass.sum(dim=2) * axis).sum(dim=1), (mass.sum(dim=1) * axis).sum(dim=1)], dim=1)
            / total[:, None]
        )

    def decode(self, latents: Tensor) -> Tensor:
        return paint(latents)

    def start(self, frames: Tensor, actions: Tensor) -> Tensor:
        return self.encode(frames[-1:])[0]

    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        return state + STEP * actions[..., :2].cumsum(dim=1)


class SpotEnv:
    """One centimetre per pixel; success within 1.5 cm."""

    def __init__(self, start: np.ndarray, goal: np.ndarray) -> None:
        self.start, self.goal = start, goal

    def _seen(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        distance = float(np.linalg.norm(self.place - self.goal)) / 100
        observation = {"agentview": picture(self.place), "goal": picture(self.goal)}
        return observation, {"distance": distance, "success": distance < 0.015, "place": self.place.copy()}

    def reset(self, *, seed: int | None = None) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        self.place = self.start.copy()
        return self._seen()

    def step(self, action: np.ndarray) -> tuple[Mapping[str, Any], float, bool, bool, Mapping[str, Any]]:
        self.place = np.clip(self.place + STEP * action[:2], 0, SIZE - 1)
        observation, info = self._seen()
        return observation, float(info["success"]), info["success"], False, info


class SpotTasks:
    """Four reaches and two pushes (the same thing by another name), in two scenes."""

    def __init__(self, identity: Mapping[str, str] | None = None) -> None:
        categories = ("reach", "reach", "reach", "reach", "push", "push")
        self.instances = [
            GoalInstance(index=index, category=category, scene=f"spots/{index % 2}")
            for index, category in enumerate(categories)
        ]
        self.identity = dict(identity or {"manifest": "abc", "render_profile": "lite"})
        self.opened: list[int] = []

    def open(self, instance: GoalInstance) -> SpotEnv:
        self.opened.append(instance.index)
        random = np.random.default_rng(instance.index)
        start = random.uniform(2, 5, 2)
        return SpotEnv(start, start + random.uniform(6, 8, 2))

    def expert(self, instance: GoalInstance):
        goal = self.open(instance).goal

        def act(info: Mapping[str, Any]) -> np.ndarray:
            return np.concatenate([np.clip((goal - info["place"]) / STEP, -1, 1), np.zeros(5)])

        return act

    def close(self) -> None:
        self.opened.clear()


@pytest.fixture
def spot_tasks() -> type[SpotTasks]:
    """The class, so that a test can give it another identity."""
    return SpotTasks


@pytest.fixture
def spot_world() -> type[SpotWorld]:
    """The class, so that a test can spoil it."""
    return SpotWorld


def _fake_trajectory(seed: int, frames: int, size: int, walker: bool) -> Trajectory:
    """Made from ``seed`` alone: a grainy picture that brightens, a gripper on a line, one of two objects that moves.
    With ``walker``, a bright square also walks one pixel a frame over the picture, which otherwise hardly moves.
    """
    rng = np.random.default_rng(seed)
    number = np.arange(frames)
    down = np.linspace(40, 160, size)[None, :, None, None]
    grain = rng.integers(-6, 7, (frames, size, size, 3))
    picture = down + 2 * number[:, None, None, None] + rng.integers(20) + grain
    for frame, shown in enumerate(picture if walker else ()):
        left = frame % (size - 3)
        shown[:4, left : left + 4] = 240
    start = rng.uniform(-0.2, 0.2, 3)
    line = start + 0.01 * number[:, None] * (1.0, 0.0, 0.0)
    return Trajectory(
        agentview=picture.astype(np.uint8),
        ee_pos=line,
        gripper_states=np.zeros((frames, 2)),
        object_pos=np.stack([line + (0, 0.1, 0), np.broadcast_to(start, (frames, 3))], axis=1),
        object_names=("bowl", "plate"),
        actions=rng.integers(-64, 65, (frames - 1, 5, 7)) / 64,
        states=rng.normal(size=(frames, 4)),
        rewards=np.zeros(frames - 1),
        dones=np.zeros(frames - 1),
        seed=seed,
        kind="play",
    )


@pytest.fixture
def fake_recording() -> Callable[..., list[Trajectory]]:
    """``write(path, seeds)`` writes a recording without a simulator and returns what is in it."""

    def write(
        path: Path,
        seeds: Iterable[int],
        *,
        task_id: int = 0,
        frames: int = 6,
        size: int = 16,
        walker: bool = False,
    ) -> list[Trajectory]:
        header = SceneHeader(
            suite="libero_goal",
            task_id=task_id,
            bddl_file_name="task.bddl",
            frame_skip=5,
            render_profile="lite",
            height=size,
            width=size,
            versions={"mujoco": "3.3.2"},
        )
        trajectories = [_fake_trajectory(seed, frames, size, walker) for seed in seeds]
        write_recording(path, header, trajectories)
        return trajectories

    return write
