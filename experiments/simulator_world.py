"""The simulator itself as the world model: true rollouts of every candidate in a pool of processes.

Same planners, same costs, no model error: what is missed here is the planner's or the cost's doing. `SimulatorWorld`
with pixels is any `World` whose latents are frames; with latents, true frames are seen through a trained system's
codec, which learned costs read; with states its latents are privileged costs ``(1,)``, which `StateGoal` sums.
"""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Literal, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from colaworld.envs.expert_goals import privileged_cost
from colaworld.envs.goals import LiberoGoalReachingEnv
from colaworld.envs.manifest import Predicate
from colaworld.experiments.simulator_processes import new_pool, only_environment

YARDSTICK: Mapping[str, Any] = {
    "planner": "cem",
    "samples": 32,
    "iterations": 2,
    "elite_fraction": 0.15,
    "horizon": 5,
    "replan_every": 2,
    "warm_start": True,
    "last": None,
    "blur": 4.0,
    "prior": {"std_position": 0.5, "std_rotation": 0.0, "std_gripper": 0.5, "beta": 0.5},
}
"""Settings of the simulator rows that new manifests are frozen with; both costs, the same budget."""
MAX_HORIZON = 50
NOTHING = 40 / 255
"""Grey of frames that were not drawn."""


class Coder(Protocol):
    """Of a trained world, what sees: uint8 frames ``(N, 3, height, width)`` to its latents, and back to [0, 1]."""

    def encode(self, frames: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class SimulatorWorld:
    """A `World` that rolls candidates out in the simulator, from the state that the environment at hand is in.

    ``look`` at an environment before an episode in it. ``sees``: "pixels", latents are frames float32 (3, height,
    width) in [0, 1]; "latents", those that ``coder`` makes of them; "state", latents are `privileged_cost` (1,).
    ``workers`` processes, one simulator each. ValueError for another ``sees``, or a ``coder`` with other than latents.
    """

    action_dim = 7
    context_frames = 1
    max_horizon = MAX_HORIZON

    def __init__(
        self, *, sees: Literal["pixels", "latents", "state"], workers: int, coder: Coder | None = None
    ) -> None:
        if sees not in ("pixels", "latents", "state"):
            raise ValueError(f"a simulator world sees 'pixels', 'latents' or 'state', got {sees!r}")
        if (sees == "latents") != (coder is not None):
            raise ValueError(f"a simulator world has a coder if it sees latents, and only then; it sees {sees!r}")
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.sees, self.workers, self.coder = sees, workers, coder
        self._pool: ProcessPoolExecutor | None = None
        self._env: LiberoGoalReachingEnv | None = None

    def look(self, env: LiberoGoalReachingEnv) -> None:
        """Plan for ``env``: its instance, and from then on whatever state it is in."""
        self._env = env

    def encode(self, frames: Tensor) -> Tensor:
        """``frames uint8 (N, 3, height, width) -> latents``; with states, costs of nothing."""
        if self.coder is not None:
            return self.coder.encode(frames)
        return frames.float() / 255 if self.sees == "pixels" else torch.zeros(len(frames), 1)

    def decode(self, latents: Tensor) -> Tensor:
        """``latents -> frames float32 (N, 3, height, width)``; grey with states, of which there are no pictures."""
        if self.coder is not None:
            return self.coder.decode(latents)
        if self.sees == "pixels":
            return latents
        manifest = self._looked_at().manifest
        return torch.full((len(latents), 3, manifest.height, manifest.width), NOTHING)

    def start(self, frames: Tensor, actions: Tensor) -> np.ndarray:
        """The simulator's state now; the frames are not looked at."""
        return self._looked_at().libero.get_state()

    def imagine(self, state: np.ndarray, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        """``actions (S, H, 7) -> latents (S, H, *latent)``, deterministic."""
        env = self._looked_at()
        scene, predicate, pixels = env.scene_settings, env.instance.predicate, self.sees != "state"
        chunks = np.array_split(actions.cpu().numpy(), min(self.workers, len(actions)))
        jobs = [self._processes().submit(_roll_out, scene, predicate, state, chunk, pixels) for chunk in chunks]
        results = np.concatenate([job.result() for job in jobs])
        if self.sees == "state":
            return torch.from_numpy(results)
        seen = self.encode(torch.from_numpy(rearrange(results, "s h height width c -> (s h) c height width")))
        return rearrange(seen, "(s h) ... -> s h ...", s=len(results))

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _looked_at(self) -> LiberoGoalReachingEnv:
        if self._env is None:
            raise ValueError("a simulator world plans for one environment: look(env) comes first")
        return self._env

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = new_pool(self.workers)
        return self._pool


def _roll_out(
    scene: Mapping[str, Any], predicate: Predicate, state: np.ndarray, actions: np.ndarray, pixels: bool
) -> np.ndarray:
    """``actions (S, H, 7)`` from ``state``: frames uint8 (S, H, height, width, 3), or costs float32 (S, H, 1).

    A candidate that has succeeded costs nothing from then on.
    """
    env = only_environment(**scene)
    rollouts = []
    for sequence in actions:
        _, info = env.restore_state(state, render=False)
        seen: list[Any] = []
        for action in sequence:
            if not pixels and seen and seen[-1] == 0.0:
                seen.append(0.0)
                continue
            info = env.advance(action)
            seen.append(env.picture() if pixels else privileged_cost(env.scene, predicate, info))
        rollouts.append(np.stack(seen) if pixels else np.array(seen, np.float32)[:, None])
    return np.stack(rollouts)
