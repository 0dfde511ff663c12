"""Play that covers the workspace: what the world model is trained on, so it must hold what a planner will try.

An episode is a chain of short segments drawn at random: reaches to places drawn uniformly from a box over the table, at
many speeds; pushes and grasp attempts; held Gaussian actions, as a sampling planner sends them at first; pauses.
Everything is drawn from one NumPy generator, so an episode is a function of its seed. A chunk is ``float32 (frame_skip,
7)``; mostly one action held, as the planner will send. The arm stays nearly upright: rotations are rare and small.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from colaworld.envs.experts import CLOSED, OPEN, Push, Reach, Skill, quantised

Kind = Literal["play", "push", "random"]
KINDS: tuple[Kind, ...] = ("play", "push", "random")
TOPPLING = tuple("bottle milk juice sauce dressing ketchup soup basket moka pan mug book caddy".split())
"""Parts of the names of things that fall over, or do not slide, when they are pushed."""
Info = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A box ``low`` to ``high`` (3,), metres, world frame, that the gripper can reach and the agentview camera sees."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def around(cls, home: np.ndarray) -> "Workspace":
        """The box of a tabletop scene whose gripper starts at ``home``, some 27 cm over the table and at its far
        edge."""
        return cls(low=home + (-0.08, -0.25, -0.245), high=home + (0.33, 0.25, 0.03))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.low, self.high)

    def inside(self, target: np.ndarray) -> bool:
        """Whether the table position ``target`` (2,) lies inside or up to 6 cm to the left or right, as objects do."""
        beside = np.array([0.0, 0.06])
        return bool((target > self.low[:2] - beside).all() and (target < self.high[:2] + beside).all())


@dataclass(frozen=True, kw_only=True)
class PlayConfig:
    """Shares of the segments of play, and how its actions vary. Distances in metres per environment step."""

    reach: float = 0.50
    hold: float = 0.10
    jitter: float = 0.14
    pause: float = 0.06
    push: float = 0.12
    grasp: float = 0.08
    slowest: float = 0.01
    fastest: float = 0.08
    varied_chunks: float = 0.2
    rotating: float = 0.15
    rotation_std: float = 0.07
    rotation_limit: float = 0.3

    def __post_init__(self) -> None:
        shares = self.shares()
        if min(shares.values()) < 0 or abs(sum(shares.values()) - 1.0) > 1e-6:
            raise ValueError(f"shares of play must be at least 0 and sum to 1, got {shares}")
        if not 0 < self.slowest <= self.fastest:
            raise ValueError(f"speeds need 0 < slowest <= fastest, got {self.slowest} and {self.fastest}")

    def shares(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("reach", "hold", "jitter", "pause", "push", "grasp")}


class Play:
    """``play(info) -> chunk (frame_skip, 7)`` for ever; one instance is one episode.

    ``kind``: "play" mixes all segments, "push" pushes one object after another, "random" sends what a planner samples
    first.
    """

    def __init__(
        self,
        kind: Kind,
        home: np.ndarray,
        rng: np.random.Generator,
        *,
        frame_skip: int = 5,
        config: PlayConfig = PlayConfig(),
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind of play must be one of {', '.join(KINDS)}, got {kind!r}")
        self.kind, self.rng, self.config, self.frame_skip = kind, rng, config, frame_skip
        self.workspace = Workspace.around(np.asarray(home, float))
        self.gripper = OPEN
        self._varied = rng.random() < config.varied_chunks
        self._rotating = kind != "push" and rng.random() < config.rotating
        self._rotation = np.zeros(3)
        self._last = np.zeros(7, np.float32)
        self._info: Info = {}
        self._actions = self._chain()

    def __call__(self, info: Info) -> np.ndarray:
        self._info = info
        action = np.asarray(next(self._actions), np.float32).copy()
        if self._rotating:
            action[3:6] = self._turn()
        chunk = np.repeat(action[None], self.frame_skip, axis=0)
        if self._varied:
            share = np.linspace(1 / self.frame_skip, 1.0, self.frame_skip)[:, None]
            chunk[:, :3] = (1 - share) * self._last[:3] + share * action[:3]
            chunk[:, :3] += self.rng.normal(0, 0.15, (self.frame_skip, 3))
        self._last = action
        return quantised(chunk)

    def _turn(self) -> np.ndarray:
        """A slowly wandering rotation that comes back to none."""
        config = self.config
        self._rotation = 0.3 * self._rotation + self.rng.normal(0, config.rotation_std, 3)
        return np.clip(self._rotation, -config.rotation_limit, config.rotation_limit)

    def _chain(self) -> Iterator[np.ndarray]:
        shares = self.config.shares()
        while True:
            if self.kind == "push":
                yield from self._push()
            elif self.kind == "random":
                yield from self._jitter()
            else:
                yield from getattr(self, "_" + str(self.rng.choice(list(shares), p=list(shares.values()))))()

    # ---- segments: each yields one action (7,) for each environment step ---------------------------------------------

    def _reach(self) -> Iterator[np.ndarray]:
        if self.rng.random() < 0.3:
            self.gripper = -self.gripper
        speed = self.rng.uniform(self.config.slowest, self.config.fastest)
        target = self.workspace.draw(self.rng)
        yield from self._follow(Reach(target, gripper=self.gripper, tolerance=0.015, max_step=speed), limit=10)

    def _hold(self) -> Iterator[np.ndarray]:
        action = self._gaussian(self.rng.uniform(0.1, 0.8))
        for _ in range(self.rng.integers(1, 5)):
            yield self._kept_inside(action)

    def _jitter(self) -> Iterator[np.ndarray]:
        std = self.rng.uniform(0.3, 1.0)
        for _ in range(self.rng.integers(2, 8)):
            yield self._kept_inside(self._gaussian(std))

    def _pause(self) -> Iterator[np.ndarray]:
        for _ in range(self.rng.integers(1, 4)):
            yield np.array([0, 0, 0, 0, 0, 0, self.gripper])

    def _push(self) -> Iterator[np.ndarray]:
        skill = draw_push(self._info, self.workspace, self.rng)
        if skill is None:
            yield from self._reach()
            return
        self.gripper = CLOSED
        yield from self._follow(skill, limit=18)
        rise = Reach(self._info["ee_pos"] + (0.0, 0.0, 0.06), gripper=self.gripper, tolerance=0.02)
        yield from self._follow(rise, limit=2)

    def _grasp(self) -> Iterator[np.ndarray]:
        name = str(self.rng.choice(sorted(self._info["objects"])))
        place = np.asarray(self._info["objects"][name], float) + self.rng.normal(0, 0.012, 3) * (1, 1, 0)
        if not self.workspace.inside(place[:2]):
            yield from self._reach()
            return
        yield from self._follow(Reach(place + (0, 0, 0.10), gripper=OPEN, tolerance=0.02, max_step=0.07), limit=8)
        yield from self._follow(Reach(place + (0, 0, 0.015), gripper=OPEN, tolerance=0.012, max_step=0.05), limit=4)
        self.gripper = CLOSED
        yield np.array([0, 0, 0, 0, 0, 0, CLOSED])
        yield np.array([0, 0, 0, 0, 0, 0, CLOSED])
        yield from self._follow(Reach(place + (0, 0, 0.15), gripper=CLOSED, tolerance=0.02, max_step=0.05), limit=4)

    # ---- parts of segments -------------------------------------------------------------------------------------------

    def _follow(self, skill: Skill, *, limit: int) -> Iterator[np.ndarray]:
        """Actions of ``skill`` until it is done, ``limit`` steps at most.

        It ends early after three steps that went nowhere, when the hand leans on something, and well outside the
        workspace, when it chases what rolled away.
        """
        stuck, before = 0, None
        for _ in range(limit):
            position = np.asarray(self._info["ee_pos"], float)
            stuck = stuck + 1 if before is not None and np.linalg.norm(position - before) < 0.004 else 0
            outside = np.maximum(self.workspace.low - position, position - self.workspace.high).max()
            leaving = before is not None and outside > 0.1
            before = position
            action = skill(self._info)
            if skill.done or leaving or stuck == 3:
                return
            yield action

    def _gaussian(self, std: float) -> np.ndarray:
        if self.rng.random() < 0.15:
            self.gripper = -self.gripper
        action = np.zeros(7)
        action[:3] = self.rng.normal(0, std, 3)
        action[6] = self.gripper
        return np.clip(action, -1, 1)

    def _kept_inside(self, action: np.ndarray) -> np.ndarray:
        """``action`` with the parts turned back that would carry the gripper out of the workspace."""
        ahead = np.asarray(self._info["ee_pos"], float) + 0.06 * action[:3]
        outside = np.sign(np.maximum(ahead - self.workspace.high, 0) + np.minimum(ahead - self.workspace.low, 0))
        turned = action.copy()
        turned[:3] = np.where(outside != 0, -outside * np.abs(action[:3]), action[:3])
        return turned


def draw_push(info: Info, workspace: Workspace, rng: np.random.Generator, *, tries: int = 24) -> Push | None:
    """A push of some object by 8 to 22 cm along a line that is likely free; None when no line is.

    Lines are free when the fingers fit between other objects behind the object, and no other object stands where it is
    pushed to; furniture is not looked at.
    """
    names = sorted(info["objects"])
    sliding = [name for name in names if not any(part in name for part in TOPPLING)]
    if not sliding:
        return None
    for _ in range(tries):
        name = str(rng.choice(sliding))
        start = np.asarray(info["objects"][name], float)[:2]
        angle, distance = rng.uniform(-np.pi, np.pi), rng.uniform(0.08, 0.22)
        along = np.array([np.cos(angle), np.sin(angle)])
        behind, target = start - 0.1 * along, start + distance * along
        others = [np.asarray(info["objects"][other], float)[:2] for other in names if other != name]
        room = min((float(np.linalg.norm(other - behind)) for other in others), default=1.0)
        free = min((float(np.linalg.norm(other - target)) for other in others), default=1.0)
        if workspace.inside(behind) and workspace.inside(target) and room > 0.075 and free > 0.05:
            return Push(name, target, max_step=rng.uniform(0.03, 0.07))
    return None
