"""The floor that plans nothing, as a row of the table: a goal-conditioned inverse model acts on frame and goal frame.

Sees what the planner sees and learned from the same data; it imagines nothing and searches nothing. The same network
proposes sequences to a planner.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from colaworld.experiments.goal_policies import PlanTrace, to_frame
from colaworld.models.goal_policy import GoalPolicy

Encode = Callable[[Tensor], Tensor]
"""``frames uint8 (N, 3, height, width) -> latents (N, C, h, w)``, as ``World.encode``."""


class InversePolicy:
    """The first action of the model's answer, at every step anew. Deterministic.

    ``zero_actions``: so many first actions are zero, as the planner's are until it has its context.
    """

    def __init__(self, policy: GoalPolicy, encode: Encode, *, zero_actions: int = 0) -> None:
        if zero_actions < 0:
            raise ValueError(f"zero_actions must be 0 or more, got {zero_actions}")
        self.policy, self.encode, self.zero_actions = policy.eval(), encode, zero_actions
        self.trace: PlanTrace | None = None
        self._goal: Tensor | None = None

    @torch.no_grad()
    def reset(self, goal: np.ndarray, seed: int) -> None:
        """Begin an episode towards ``goal``; nothing is left to the seed."""
        self._goal = self.encode(to_frame(goal)[None])
        self._steps = 0

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> np.ndarray:
        """The next action ``(A,)``; raises ValueError before ``reset``."""
        if self._goal is None:
            raise ValueError("reset(goal, seed) comes before act")
        self._steps += 1
        if self._steps <= self.zero_actions:
            return np.zeros(self.policy.config.action_dim, np.float32)
        now = self.encode(to_frame(observation["agentview"])[None])
        return self.policy(now, self._goal)[0, 0].float().cpu().numpy()


@torch.no_grad()
def proposed(policy: GoalPolicy, encode: Encode, frames: Tensor, goal: Tensor, horizon: int) -> Tensor:
    """A sequence ``(1, horizon, A)`` for a planner to begin with, from the last of ``frames`` uint8 ``(T, 3, height,
    width)`` to ``goal`` uint8 ``(3, height, width)``; beyond what the model answers, its last action goes on.
    """
    chunk = policy.eval()(encode(frames[-1:]), encode(goal[None])).float().cpu()
    steps = torch.arange(horizon).clamp(max=chunk.shape[1] - 1)
    return chunk[:, steps]
