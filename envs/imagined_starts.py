"""Where an imagined episode begins: frames that the caller holds, or the reset of a real environment.

A start is T context frames uint8 ``(T, height, width, 3)`` and the actions ``(T - 1, A)`` between them; the last frame
is the one that the episode shows first.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np


@dataclass(frozen=True, kw_only=True)
class Start:
    """Frames uint8 ``(T, height, width, 3)``, real actions float32 ``(T - 1, A)``, goal uint8 (height, width, 3)."""

    frames: np.ndarray
    actions: np.ndarray
    goal: np.ndarray | None


class Starts(Protocol):
    """What an imagined environment asks of its starts."""

    frame_shape: tuple[int, int, int]
    has_goal: bool

    def begin(self, random: np.random.Generator, options: dict[str, Any]) -> Start:
        """One start, drawn by ``random``; raises ValueError for options that it does not know."""

    def close(self) -> None:
        """Free what it opened itself."""


class GivenStarts:
    """N starts that the caller holds.

    ``frames`` uint8 ``(T, height, width, 3)`` or ``(N, T, height, width, 3)``; ``actions`` ``(T - 1, A)`` or
    ``(N, T - 1, A)``, None for an arm that stood still; ``goal`` uint8 ``(height, width, 3)``, ``(N, ...)`` or None.
    The seed draws one of N, unless ``options={"start": k}`` names it. ValueError for other shapes and kinds, or fewer
    than ``context_frames`` frames.
    """

    def __init__(
        self,
        frames: np.ndarray,
        actions: np.ndarray | None,
        goal: np.ndarray | None,
        *,
        context_frames: int,
        action_dim: int,
    ) -> None:
        frames = np.asarray(frames)
        if frames.dtype != np.uint8 or frames.ndim not in (4, 5) or frames.shape[-1] != 3:
            raise ValueError(
                "start frames must be uint8 (T, height, width, 3) or (N, T, height, width, 3), "
                f"got {frames.dtype} {frames.shape}"
            )
        self._frames = (frames[None] if frames.ndim == 4 else frames).copy()
        count, length = self._frames.shape[:2]
        if count < 1 or length < context_frames:
            raise ValueError(f"a start needs at least {context_frames} frames, got {count} starts of {length}")
        self.frame_shape = self._frames.shape[2:]
        self._actions = _for_each(actions, (length - 1, action_dim), count, "start_actions")
        if not np.isfinite(self._actions).all():
            raise ValueError(f"start_actions hold {int((~np.isfinite(self._actions)).sum())} values not finite")
        self.has_goal = goal is not None
        self._goals = None if goal is None else _for_each(check_frames(goal, "goal"), self.frame_shape, count, "goal")

    def begin(self, random: np.random.Generator, options: dict[str, Any]) -> Start:
        """Start ``options["start"]``, or one drawn by ``random``."""
        options = dict(options)
        chosen = options.pop("start", None)
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}; known: start, state")
        count = len(self._frames)
        if chosen is None:
            chosen = int(random.integers(count))
        if isinstance(chosen, bool) or not isinstance(chosen, int | np.integer) or not 0 <= chosen < count:
            raise ValueError(f"unknown start {chosen!r}; it must be 0..{count - 1}")
        goal = None if self._goals is None else self._goals[chosen].copy()
        return Start(frames=self._frames[chosen].copy(), actions=self._actions[chosen].copy(), goal=goal)

    def close(self) -> None:
        """Nothing was opened."""


class SimulatedStarts:
    """Resets of a real environment, which then rests until there are enough context frames, as evaluation does.

    ``env``: an environment with uint8 ``agentview`` (and perhaps ``goal``) in its observations, or the id of a
    registered one, made with ``kwargs`` and closed with this. Reset options go to it as they are. ``goal`` replaces
    its own goal. ValueError for an environment without ``agentview``, or kwargs beside an environment.
    """

    def __init__(
        self,
        env: str | gymnasium.Env,
        kwargs: dict[str, Any] | None,
        goal: np.ndarray | None,
        *,
        context_frames: int,
        action_dim: int,
    ) -> None:
        if kwargs and not isinstance(env, str):
            raise ValueError("start_kwargs belong to an environment's id; this start is an environment already")
        self._owned = isinstance(env, str)
        self._env = gymnasium.make(env, **(kwargs or {})) if isinstance(env, str) else env
        spaces = getattr(self._env.observation_space, "spaces", {})
        if "agentview" not in spaces or self._env.action_space.shape != (action_dim,):
            self.close()
            raise ValueError(
                f"a start needs an environment with 'agentview' in its observations and actions ({action_dim},), got "
                f"{', '.join(spaces) or 'no dictionary'} and {self._env.action_space}"
            )
        self.frame_shape = spaces["agentview"].shape
        self._goal = None
        if goal is not None:
            self._goal = _for_each(check_frames(goal, "goal"), self.frame_shape, 1, "goal")[0]
        self.has_goal = goal is not None or "goal" in spaces
        self._rest = np.zeros((context_frames - 1, action_dim), np.float32)

    def begin(self, random: np.random.Generator, options: dict[str, Any]) -> Start:
        """Reset with a seed from ``random``, then rest."""
        observation, _ = self._env.reset(seed=int(random.integers(2**31)), options=options or None)
        frames = [np.array(observation["agentview"])]
        for action in self._rest:
            frames.append(np.array(self._env.step(action)[0]["agentview"]))
        goal = self._goal if self._goal is not None else observation.get("goal")
        return Start(
            frames=np.stack(frames), actions=self._rest.copy(), goal=None if goal is None else np.array(goal)
        )

    def close(self) -> None:
        """Close the environment, unless it was given."""
        if self._owned:
            self._env.close()


def check_frames(frames: np.ndarray, name: str) -> np.ndarray:
    """``frames`` as an array; ValueError unless it is uint8."""
    frames = np.asarray(frames)
    if frames.dtype != np.uint8:
        raise ValueError(f"{name} must be uint8 pictures, got {frames.dtype}")
    return frames


def _for_each(given: np.ndarray | None, shape: tuple[int, ...], count: int, name: str) -> np.ndarray:
    """``given`` of ``shape`` or ``(count, *shape)`` as ``(count, *shape)``; None: zeros, float32."""
    if given is None:
        return np.zeros((count, *shape), np.float32)
    given = np.asarray(given)
    if given.shape not in (shape, (count, *shape)):
        raise ValueError(f"{name} must have shape {shape} or {(count, *shape)}, got {given.shape}")
    kept = given if given.dtype == np.uint8 else given.astype(np.float32)
    return np.broadcast_to(kept, (count, *shape)).copy()
