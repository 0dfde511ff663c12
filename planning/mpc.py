"""Receding-horizon control: a planner and a world become ``act(frame) -> action``.

As VP2: the first actions of an episode are zero until the world has its context frames; then each step plans H
actions, executes the first, and the rest, shifted and padded with its last action, is the middle of the next search;
so are the elites that a planner keeps (iCEM) among its candidates.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from colaworld.planning.budget import Clock, check_seconds
from colaworld.planning.costing import NoGradientError, NothingFiniteError
from colaworld.planning.imagined_cost import imagined_cost
from colaworld.planning.protocols import Distribution, Objective, Planner, Prior, Propose, ToAction, World
from colaworld.planning.search import Plan, search


@dataclass(frozen=True, kw_only=True)
class MPCConfig:
    """``replan_every`` executed actions per plan; ``episode_steps`` lets the horizon shrink to what is left (None: it
    never does).

    ``budget_seconds`` per plan, from its first look at the frames to its last iteration, instead of the planner's
    iterations (``budget.rounds``): episodes are then no longer decided by their seed alone. ``finalists`` are imagined
    again where there is a ``final_world``. Raises ValueError for counts below 1, a ``replan_every`` beyond the horizon
    or a budget that is not positive.
    """

    horizon: int = 10
    replan_every: int = 1
    max_batch: int | None = None
    warm_start: bool = True
    episode_steps: int | None = None
    budget_seconds: float | None = None
    finalists: int = 8

    def __post_init__(self) -> None:
        check_seconds(self.budget_seconds)
        for name in ("horizon", "replan_every", "max_batch", "episode_steps", "finalists"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if self.replan_every > self.horizon:
            raise ValueError(f"replan_every ({self.replan_every}) must not exceed the horizon ({self.horizon})")


class MPC:
    """Plans towards a goal frame, one frame at a time.

    ``prior`` is the first search's distribution of every action (and its bounds). ``propose`` has candidates for the
    first iteration of each search: longer ones are cut to the horizon, shorter ones go on with their last action.
    ``to_action`` turns what was planned into what the environment is given, where those are not the same (codes);
    ``rest_action (A',)`` is then the first action of an episode. ``final_world``, the same world sampled more finely
    (it takes ``world``'s states), decides between each search's finalists.

    Raises ValueError when the horizon is beyond the world's, the prior's width is not the world's ``action_dim`` or
    only one of ``to_action`` and ``rest_action`` is there.
    """

    def __init__(
        self,
        world: World,
        planner: Planner,
        objective: Objective,
        *,
        prior: Prior,
        config: MPCConfig = MPCConfig(),
        propose: Propose | None = None,
        to_action: ToAction | None = None,
        rest_action: Tensor | None = None,
        final_world: World | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        if config.horizon > world.max_horizon:
            raise ValueError(f"a horizon of {config.horizon} steps is beyond the world's {world.max_horizon}")
        if prior.width != world.action_dim:
            raise ValueError(f"the action prior has {prior.width} dimensions, the world {world.action_dim}")
        if (to_action is None) != (rest_action is None):
            raise ValueError("to_action and rest_action (what is executed before there is a plan) come together")
        self.world, self.planner, self.objective = world, planner, objective
        self.prior, self.config = prior, config
        self.propose, self.to_action, self.rest_action = propose, to_action, rest_action
        self.final_world, self.clock = final_world, clock
        self.last_plan: Plan | None = None
        self._goal: Tensor | None = None

    @torch.no_grad()
    def reset(self, goal: Tensor, seed: int) -> None:
        """Begin an episode towards ``goal`` uint8 ``(3, height, width)``; ``seed`` decides all that is random in it."""
        self._goal = goal
        self._target = self.objective.target(self.world, goal)
        self._latent = tuple(self.world.encode(goal[None]).shape[1:])
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
        """The action ``(A,)`` to take on seeing ``frame`` uint8 ``(3, height, width)``, through ``to_action``.

        Raises ValueError before ``reset``, for another frame than the goal's and a world or objective that answers in
        another shape; NothingFiniteError when no imagined future has a finite cost; NoGradientError when a planner by
        gradient gets none.
        """
        if self._goal is None:
            raise ValueError("reset(goal, seed) comes before act(frame)")
        if frame.dtype != torch.uint8 or frame.shape != self._goal.shape:
            raise ValueError(f"a frame must be uint8 {tuple(self._goal.shape)}, got {frame.dtype} {tuple(frame.shape)}")
        self._frames = [*self._frames, frame][-self.world.context_frames :]
        resting = len(self._frames) < self.world.context_frames
        if resting:
            action = self.prior.rest()
        else:
            if not self._queue:
                self.last_plan = self._plan()
                self._queue = self._due(self.last_plan)
            action = self._queue.pop(0)
        self._actions = [*self._actions, action][-max(1, self.world.context_frames - 1) :]
        self._steps += 1
        if self.to_action is None:
            return action
        return self.rest_action.clone() if resting else self.to_action(action, torch.stack(self._frames))

    def _plan(self) -> Plan:
        """Search from the frames and actions seen last."""
        begun = self.clock()
        count = len(self._frames) - 1
        frames = torch.stack(self._frames)
        actions = torch.stack(self._actions[-count:]) if count else self.prior.rest()[None][:0]
        state = self.world.start(frames, actions)
        distribution = self.prior.distribution(self._horizon())
        candidates = []
        if self.config.warm_start and self.last_plan is not None:
            shifted = shift(self.last_plan.actions, self.config.replan_every)
            distribution = distribution.recentred(shifted[: distribution.horizon])
            candidates.append(shift(self.last_plan.kept, self.config.replan_every))
        if self.propose is not None:
            candidates.append(self.propose(frames, self._goal, distribution.horizon))
        plan = self._search(state, distribution, candidates, begun)
        world = self.final_world or self.world
        imagined = world.imagine(state, plan.actions[None], self._imagining)[0]
        return replace(plan, imagined=imagined, seconds=self.clock() - begun)

    def _search(self, state: Any, distribution: Distribution, candidates: list[Tensor], begun: float) -> Plan:
        """From ``state``, ``candidates (P, H', A)`` among the first."""
        cost, final_cost = (
            world and imagined_cost(world, self.objective, state, self._target, self._imagining, latent=self._latent)
            for world in (self.world, self.final_world)
        )
        fitted = [fit(proposals, distribution.horizon) for proposals in candidates if len(proposals)]
        left = None
        if self.config.budget_seconds is not None:  # what is gone by now may leave a single iteration
            left = max(self.config.budget_seconds - (self.clock() - begun), 1e-9)
        try:
            return search(
                cost,
                distribution,
                self.planner,
                generator=self._sampling,
                max_batch=self.config.max_batch,
                proposals=torch.cat(fitted) if fitted else None,
                budget_seconds=left,
                final_cost=final_cost,
                finalists=self.config.finalists,
                clock=self.clock,
            )
        except NoGradientError as error:
            names = f"{type(self.world).__name__} and {type(self.objective).__name__}"
            raise NoGradientError(f"planning with {names}: {error}") from error
        except NothingFiniteError as error:
            raise NothingFiniteError(f"{error}; {self._blame(state, distribution.mode()[None])}") from error

    def _blame(self, state: Any, actions: Tensor) -> str:
        """Whether it is the world or the objective: how much of the future of ``actions (1, H, A)`` is finite."""
        told = []
        for world in filter(None, (self.world, self.final_world)):
            future = world.imagine(state, actions, self._imagining)
            shape, finite = tuple(future.shape), int(future.isfinite().sum())
            told.append(f"{type(world).__name__} imagines {shape}, {finite} of {future.numel()} numbers finite")
        asked = f"for actions {tuple(actions.shape)} and {type(self.objective).__name__}"
        return f"{asked}: {', '.join(told)}"

    def _horizon(self) -> int:
        """The configured horizon, or the steps left when that is less and the horizon may shrink."""
        if self.config.episode_steps is None:
            return self.config.horizon
        return max(1, min(self.config.horizon, self.config.episode_steps - self._steps))

    def _due(self, plan: Plan) -> list[Tensor]:
        """The actions of ``plan`` that are executed before the next one."""
        return list(plan.actions[: self.config.replan_every])


def shift(actions: Tensor, steps: int) -> Tensor:
    """``actions (..., H, A)`` moved ``steps`` earlier, the last action repeated at the end; same shape."""
    horizon = actions.shape[-2]
    return fit(actions[..., min(steps, horizon - 1) :, :], horizon)


def fit(actions: Tensor, horizon: int) -> Tensor:
    """``actions (..., H', A)`` cut to ``horizon`` steps, or its last action repeated."""
    missing = horizon - actions.shape[-2]
    if missing <= 0:
        return actions[..., :horizon, :]
    return torch.cat([actions, *[actions[..., -1:, :]] * missing], dim=-2)
