"""Receding-horizon control: a planner and a world become ``act(frame) -> action``.

As VP2: the first actions of an episode are zero until the world has its context frames; then each step plans H
actions, executes the first, and the rest, shifted and padded with its last action, is the middle of the next search.
"""

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from colaworld.planning.distributions import ActionPrior
from colaworld.planning.imagined_cost import imagined_cost
from colaworld.planning.protocols import Objective, Planner, World
from colaworld.planning.search import Plan, search


@dataclass(frozen=True, kw_only=True)
class MPCConfig:
    """``replan_every`` executed actions per plan; ``episode_steps`` lets the horizon shrink to what is left (None: it
    never does).

    Raises ValueError for counts below 1 or a ``replan_every`` beyond the horizon.
    """

    horizon: int = 10
    replan_every: int = 1
    max_batch: int | None = None
    warm_start: bool = True
    episode_steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("horizon", "replan_every", "max_batch", "episode_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if self.replan_every > self.horizon:
            raise ValueError(f"replan_every ({self.replan_every}) must not exceed the horizon ({self.horizon})")


class MPC:
    """Plans towards a goal frame, one frame at a time.

    ``prior`` is the first search's distribution of every action (and its bounds). Raises ValueError when the horizon
    is beyond the world's or the prior's width is not the world's ``action_dim``.
    """

    def __init__(
        self,
        world: World,
        planner: Planner,
        objective: Objective,
        *,
        prior: ActionPrior,
        config: MPCConfig = MPCConfig(),
    ) -> None:
        if config.horizon > world.max_horizon:
            raise ValueError(f"a horizon of {config.horizon} steps is beyond the world's {world.max_horizon}")
        if len(prior.mean) != world.action_dim:
            raise ValueError(f"the action prior has {len(prior.mean)} dimensions, the world {world.action_dim}")
        self.world, self.planner, self.objective = world, planner, objective
        self.prior, self.config = prior, config
        self.last_plan: Plan | None = None
        self._goal: Tensor | None = None

    @torch.no_grad()
    def reset(self, goal: Tensor, seed: int) -> None:
        """Begin an episode towards ``goal`` uint8 ``(3, height, width)``; ``seed`` decides all that is random in it."""
        self._goal = goal
        self._target = self.objective.target(self.world, goal)
        self._sampling = torch.Generator().manual_seed(seed)
        self._imagining = torch.Generator().manual_seed(seed + 1)
        self._frames: list[Tensor] = []
        self._actions: list[Tensor] = []
        self._queue: list[Tensor] = []
        self._steps = 0
        self.last_plan = None

    @property
    def planned_now(self) -> bool:
        """Whether the latest ``act`` made a new plan (False for the first, zero actions and between replans)."""
        return self.last_plan is not None and len(self._queue) == len(self._due(self.last_plan)) - 1

    @torch.no_grad()
    def act(self, frame: Tensor) -> Tensor:
        """The action ``(A,)`` to take on seeing ``frame`` uint8 ``(3, height, width)``; raises ValueError before
        ``reset``.
        """
        if self._goal is None:
            raise ValueError("reset(goal, seed) comes before act(frame)")
        if frame.dtype != torch.uint8 or frame.shape != self._goal.shape:
            raise ValueError(f"a frame must be uint8 {tuple(self._goal.shape)}, got {frame.dtype} {tuple(frame.shape)}")
        self._frames = [*self._frames, frame][-self.world.context_frames :]
        if len(self._frames) < self.world.context_frames:
            action = self._rest()
        else:
            if not self._queue:
                self.last_plan = self._plan()
                self._queue = self._due(self.last_plan)
            action = self._queue.pop(0)
        self._actions = [*self._actions, action][-max(1, self.world.context_frames - 1) :]
        self._steps += 1
        return action

    def _plan(self) -> Plan:
        """Search from the frames and actions seen last."""
        begun = time.perf_counter()
        count = len(self._frames) - 1
        actions = torch.stack(self._actions[-count:]) if count else torch.zeros(0, self.world.action_dim)
        state = self.world.start(torch.stack(self._frames), actions)
        cost = imagined_cost(self.world, self.objective, state, self._target, self._imagining)
        distribution = self.prior.gaussian(self._horizon())
        if self.config.warm_start and self.last_plan is not None:
            shifted = shift(self.last_plan.actions, self.config.replan_every)
            distribution = distribution.recentred(shifted[: distribution.horizon])
        plan = search(cost, distribution, self.planner, generator=self._sampling, max_batch=self.config.max_batch)
        imagined = self.world.imagine(state, plan.actions[None], self._imagining)[0]
        return replace(plan, imagined=imagined, seconds=time.perf_counter() - begun)

    def _horizon(self) -> int:
        """The configured horizon, or the steps left when that is less and the horizon may shrink."""
        if self.config.episode_steps is None:
            return self.config.horizon
        return max(1, min(self.config.horizon, self.config.episode_steps - self._steps))

    def _due(self, plan: Plan) -> list[Tensor]:
        """The actions of ``plan`` that are executed before the next one."""
        return list(plan.actions[: self.config.replan_every])

    def _rest(self) -> Tensor:
        """The zero action, as near as the bounds allow."""
        return self.prior.gaussian(1).clamp(torch.zeros(self.world.action_dim))


def shift(actions: Tensor, steps: int) -> Tensor:
    """``actions (H, A)`` moved ``steps`` earlier, the last action repeated at the end; same shape."""
    steps = min(steps, len(actions) - 1)
    if steps == 0:
        return actions
    return torch.cat([actions[steps:], actions[-1:].expand(steps, -1)])
