"""The three rows of a VP2-style table as policies: the planner, a random policy, the scripted expert.

A policy is reset with the goal frame uint8 ``(height, width, 3)`` and a seed, then asked for one action ``(A,)`` per
environment step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from colaworld.experiments.goal_tasks import Expert
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.mpc import MPC
from colaworld.planning.protocols import World
from colaworld.planning.search import IterationRecord, Plan


@dataclass(frozen=True, kw_only=True)
class PlanTrace:
    """What one plan cost and imagined: frames uint8 ``(H, height, width, 3)`` that follow the frame it was made on.

    ``actions (H, A)`` (None of a plan in codes) and, where the world has any, ``codes (H, tokens)``.
    """

    seconds: float
    cost: float
    first_cost: float
    rejected: int
    imagined: np.ndarray
    history: tuple[IterationRecord, ...] = ()
    actions: np.ndarray | None = None
    codes: np.ndarray | None = None


class Policy(Protocol):
    """Acts on observations and privileged infos; ``trace`` tells of the plan made by the latest ``act``, if it made
    one.
    """

    trace: PlanTrace | None

    def reset(self, goal: np.ndarray, seed: int) -> None:
        """Begin an episode."""

    def act(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> np.ndarray:
        """The next action ``(A,)``, float32."""


class PlannerPolicy:
    """``planning.mpc`` on the agentview; sees no privileged state."""

    def __init__(self, mpc: MPC) -> None:
        self.mpc = mpc
        self.trace: PlanTrace | None = None

    def reset(self, goal: np.ndarray, seed: int) -> None:
        """Begin an episode towards ``goal``."""
        self.mpc.reset(to_frame(goal), seed)
        self.trace = None
        self._frames: list[Tensor] = []

    def act(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> np.ndarray:
        """Plan (or go on with the plan); raises FloatingPointError when no imagined future has a finite cost."""
        frame = to_frame(observation["agentview"])
        self._frames = [*self._frames, frame][-self.mpc.world.context_frames :]
        action = self.mpc.act(frame)
        self.trace = self._trace() if self.mpc.planned_now else None
        return action.numpy().astype(np.float32)

    def _trace(self) -> PlanTrace:
        plan = self.mpc.last_plan
        return PlanTrace(
            seconds=plan.seconds,
            cost=plan.cost,
            first_cost=plan.history[0].mean_cost,
            rejected=plan.rejected,
            imagined=to_pictures(self.mpc.world, plan.imagined),
            history=plan.history,
            actions=plan.actions.numpy() if plan.actions.is_floating_point() else None,
            codes=self._codes(plan),
        )

    def _codes(self, plan: Plan) -> np.ndarray | None:
        """``(H, tokens)`` of ``plan``: what was searched, or what the world makes of its actions; None without
        codes.
        """
        if not plan.actions.is_floating_point():
            return plan.actions.numpy()
        world = self.mpc.world
        codes = world.codes(torch.stack(self._frames), plan.actions, plan.imagined) if hasattr(world, "codes") else None
        return None if codes is None else codes.cpu().numpy()


class RandomPolicy:
    """Held actions from the planner's own prior (``gaussian``: same mean, spread, correlation, bounds), or uniform
    inside its bounds in every dimension that the planner may move. Like the planner's, its first actions are zero
    until there is context.
    """

    def __init__(
        self, prior: ActionPrior, *, steps: int, zero_actions: int, kind: Literal["gaussian", "uniform"] = "gaussian"
    ) -> None:
        self.prior, self.steps, self.zero_actions, self.kind = prior, steps, zero_actions, kind
        self.trace: PlanTrace | None = None

    def reset(self, goal: np.ndarray, seed: int) -> None:
        """Draw the whole episode's actions; the goal is not looked at."""
        generator = torch.Generator().manual_seed(seed)
        gaussian = self.prior.gaussian(self.steps)
        if self.kind == "gaussian":
            drawn = gaussian.sample(1, generator)[0]
        else:
            share = torch.rand(gaussian.mean.shape, generator=generator)
            uniform = gaussian.low + share * (gaussian.high - gaussian.low)
            drawn = torch.where(gaussian.std > 0, uniform, gaussian.mean)
        rest = gaussian.clamp(torch.zeros(self.zero_actions, drawn.shape[1]))
        self._actions = list(torch.cat([rest, drawn[: self.steps - self.zero_actions]]).numpy())

    def act(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> np.ndarray:
        """The next drawn action."""
        return self._actions.pop(0)


class ExpertPolicy:
    """A scripted expert on privileged state, made afresh for every episode; the ceiling of what the instances allow."""

    def __init__(self, make: Callable[[], Expert]) -> None:
        self.make = make
        self.trace: PlanTrace | None = None

    def reset(self, goal: np.ndarray, seed: int) -> None:
        """Make the expert; it is deterministic and looks at no goal frame."""
        self._expert = self.make()

    def act(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> np.ndarray:
        """The expert's action."""
        return np.asarray(self._expert(info), np.float32)


def to_frame(picture: np.ndarray) -> Tensor:
    """``uint8 (height, width, 3) -> uint8 (3, height, width)``, its own memory."""
    return torch.from_numpy(rearrange(np.asarray(picture), "height width c -> c height width").copy())


def to_pictures(world: World, latents: Tensor) -> np.ndarray:
    """``latents (T, *latent) -> uint8 (T, height, width, 3)``."""
    with torch.no_grad():
        frames = world.decode(latents).float().clamp(0, 1)
    return rearrange((frames * 255).round().to(torch.uint8), "t c height width -> t height width c").cpu().numpy()
