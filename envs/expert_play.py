"""Scripted experts with noise, as play: what recordings hold beside random play, so that data covers what goals ask
for.

An episode is a chain of expert goals that the scene offers, one after another. Noise comes in bursts (an action is
disturbed for a few steps, then the expert corrects), as in DART, so that the data also shows the way back.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from colaworld.envs.expert_goals import draw_goal, expert_for, succeeded
from colaworld.envs.experts import CLOSED, OPEN, Skill, quantised
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.manifest import Category
from colaworld.envs.play import Workspace
from colaworld.envs.skills import UPRIGHT, Phase, Script, move_to

LONGEST = 36
"""Environment steps after which an expert gives up."""
STUCK = 6
"""Steps without motion after which it does, too; closing the fingers takes four."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Bursts of ``steps`` (from, to) environment steps, begun with ``chance`` at each step; standard deviations in
    units of the action; ``rest``: how often a goal is followed by a short reach somewhere."""

    chance: float = 0.08
    steps: tuple[int, int] = (1, 3)
    std_position: float = 0.3
    std_rotation: float = 0.0
    rest: float = 0.5


SHARES: Mapping[Category, float] = {
    "reach": 0.05,
    "push": 0.15,
    "lift": 0.25,
    "place": 0.2,
    "open_drawer": 0.15,
    "close_drawer": 0.15,
    "turn_on_stove": 0.05,
}
"""How often a category is drawn where all are offered."""


class ExpertPlay:
    """``policy(info) -> chunk (frame_skip, 7)`` for ever; one instance is one episode from where ``env`` stands.

    Goals are drawn among all that the scene offers at that moment, those of its own task too. ``category`` is the
    present one, None between two goals. ``outcomes``: for each goal that was ended, its category and whether it was
    reached.
    """

    kind = "expert"

    def __init__(self, env: LiberoEnv, rng: np.random.Generator, *, noise: Noise = Noise()) -> None:
        self._env, self._rng, self._noise = env, rng, noise
        self.workspace = Workspace.around(env.scene.home_pos())
        self.category: Category | None = None
        self.outcomes: list[tuple[Category, bool]] = []
        self._fingers = OPEN
        self._info: Mapping[str, Any] = {}
        self._burst = 0
        self._actions = self._chain()

    def __call__(self, info: Mapping[str, Any]) -> np.ndarray:
        self._info = info
        action = np.array(next(self._actions), np.float32)
        if self._burst == 0 and self._rng.random() < self._noise.chance:
            self._burst = int(self._rng.integers(self._noise.steps[0], self._noise.steps[1] + 1))
        if self._burst > 0:
            self._burst -= 1
            action[:3] += self._rng.normal(0, self._noise.std_position, 3)
            action[3:6] += self._rng.normal(0, self._noise.std_rotation, 3)
        self._fingers = CLOSED if action[6] > 0 else OPEN
        return np.repeat(quantised(action)[None], self._env.frame_skip, axis=0)

    def _chain(self) -> Iterator[np.ndarray]:
        while True:
            yield from self._goal()
            self.category = None
            yield from self._away()

    def _goal(self) -> Iterator[np.ndarray]:
        """The expert of a goal that the scene offers, until it is done or stuck."""
        names = list(SHARES)
        shares = np.array(list(SHARES.values()))
        while len(names):
            drawn = int(self._rng.choice(len(names), p=shares / shares.sum()))
            category = names.pop(drawn)
            shares = np.delete(shares, drawn)
            goal = draw_goal(self._env.scene, self._info, category, self.workspace, self._rng)
            if goal is None:
                continue
            self.category = category
            expert = expert_for(self._env.scene, category, goal, fingers=self._fingers)
            yield from self._follow(expert, LONGEST)
            self.outcomes.append((category, succeeded(self._env.scene, goal, self._info)))
            return

    def _away(self) -> Iterator[np.ndarray]:
        """Let go, rise, and often reach somewhere, so that the next goal begins from anywhere."""
        places = [np.asarray(self._info["ee_pos"], float) + (0.0, 0.0, 0.08)]
        if self._rng.random() < self._noise.rest:
            places.append(self.workspace.draw(self._rng) * (1, 1, 0) + (0, 0, self.workspace.high[2] - 0.06))
        for place in places:
            there = Phase("away", functools.partial(move_to, place=place, tilt=UPRIGHT, tolerance=0.02, limit=6))
            yield from self._follow(Script([there]), LONGEST)

    def _follow(self, policy: Skill, limit: int) -> Iterator[np.ndarray]:
        """Actions of ``policy`` until it is done, ``limit`` steps at most; fewer where the hand does not get on."""
        still, before = 0, None
        for _ in range(limit):
            position = np.asarray(self._info["ee_pos"], float)
            still = still + 1 if before is not None and np.linalg.norm(position - before) < 0.004 else 0
            before = position
            action = policy(self._info)
            if policy.done or still > STUCK:
                return
            yield action
