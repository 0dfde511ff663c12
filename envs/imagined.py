"""A world model as a Gymnasium environment: the real one's spaces, ``reset`` and ``step``, but the frames are imagined.

Each step imagines one frame after all that was imagined before it. A world reaches ``max_horizon`` steps beyond its
context frames; an episode that goes on starts the world anew from its own last ``context_frames`` pictures and the
actions between them. Nothing ends an episode but the registration's ``max_episode_steps``.

Shapes: pictures uint8 ``(height, width, 3)``, actions float32 ``(A,)`` in [-1, 1], or the codes of one latent action,
int64 ``(tokens,)``.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from colaworld.envs.imagined_starts import GivenStarts, SimulatedStarts, Starts

ACTION_KINDS = ("real", "codes")


class ImaginableWorld(Protocol):
    """What is asked of a world; any ``World`` of the planning room will do.

    Two methods are optional. ``advance(state, actions (S, A), generator) -> (latents (S, *latent), state)`` imagines
    one step and remembers it; without it every step imagines again from the last start, which costs more and supposes
    that a world that samples draws its noise step by step. ``by_codes() -> world`` gives the same world with codes for
    actions, whose ``code_sizes`` says how many codes each token has.
    """

    action_dim: int
    context_frames: int
    max_horizon: int

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 ``(N, 3, height, width) -> (N, *latent)``."""

    def decode(self, latents: Tensor) -> Tensor:
        """``(N, *latent) -> float32 (N, 3, height, width)`` in [0, 1]."""

    def start(self, frames: Tensor, actions: Tensor) -> Any:
        """uint8 ``(T, 3, height, width)``, ``(T - 1, A)`` -> a state, which ``imagine`` leaves as it was."""

    def imagine(self, state: Any, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        """``(S, H, A) -> (S, H, *latent)``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImaginedState:
    """An imagined episode: where the world was started, and what was done since. Plain arrays, so it can be pickled.

    ``frames`` uint8 ``(T, height, width, 3)`` and the actions ``context`` ``(T - 1, A)`` between them (codes where
    ``context_codes``), ``taken``: the actions since ``(k, A)``, ``noise``: the sampling generator's state at the
    start, ``goal`` uint8 (height, width, 3) or None, ``steps`` of the whole episode.
    """

    frames: np.ndarray
    context: np.ndarray
    context_codes: bool
    taken: np.ndarray
    noise: np.ndarray
    goal: np.ndarray | None
    steps: int


class ImaginedEnv(gymnasium.Env):
    """An episode inside ``world``.

    ``start``: uint8 frames ``(T, height, width, 3)`` or ``(N, T, height, width, 3)`` with ``start_actions`` between
    them (see `GivenStarts`), or a real environment or its id with ``start_kwargs`` (see `SimulatedStarts`). ``goal``:
    uint8 (height, width, 3); a real environment may bring its own. ``actions``: "real" or "codes".

    Observation: ``agentview``, and ``goal`` when there is one. The reward is minus ``info["distance"]``, the root mean
    square difference between the latents of the present frame and of the goal (both have then been through the codec,
    whose blur would part pictures that show the same); without a goal it is 0.0 and there is no distance. Real actions
    are clipped to [-1, 1], as the simulator's controller does. The seed decides the start, and the noise of a world
    that samples. ``reset(options={"state": state})`` goes to a state from `get_state`.

    Raises ValueError for a world that does not take the actions asked for, and whatever the start raises.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(
        self,
        world: ImaginableWorld | None = None,
        start: np.ndarray | str | gymnasium.Env | None = None,
        *,
        start_actions: np.ndarray | None = None,
        start_kwargs: dict[str, Any] | None = None,
        goal: np.ndarray | None = None,
        actions: str = "real",
        render_mode: str | None = None,
    ) -> None:
        if world is None or start is None:
            raise ValueError("an imagined environment needs a world and a start (frames, or a real environment)")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        if actions not in ACTION_KINDS:
            raise ValueError(f"actions must be one of {', '.join(ACTION_KINDS)}, got {actions!r}")
        self.render_mode = render_mode
        self._world, self._codes = world, actions == "codes"
        self._acted = _by_codes(world) if self._codes else world
        self._starts = _starts(world, start, start_actions, start_kwargs, goal)
        views = ("agentview", "goal") if self._starts.has_goal else ("agentview",)
        self.observation_space = gymnasium.spaces.Dict(
            {view: gymnasium.spaces.Box(0, 255, self._starts.frame_shape, np.uint8) for view in views}
        )
        if self._codes:
            self.action_space = gymnasium.spaces.MultiDiscrete(self._acted.code_sizes)
        else:
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (world.action_dim,), np.float32)
        with torch.no_grad():  # a world of another picture size says so now, not at the first reset
            world.encode(torch.zeros(1, 3, *self._starts.frame_shape[:2], dtype=torch.uint8))
        self._noise = torch.Generator()
        self._goal: np.ndarray | None = None
        self._frames: list[np.ndarray] = []

    # ---- Gymnasium ---------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        options = dict(options or {})
        if isinstance(options.get("state"), ImaginedState):
            if len(options) > 1:
                raise ValueError(f"reset options hold {sorted(options)}; an imagined state stands alone")
            return self.restore_state(options["state"])
        start = self._starts.begin(self.np_random, options)
        self._noise.manual_seed(int(self.np_random.integers(2**31)))
        self._set_goal(start.goal)
        self._steps = 0
        self._begin(start.frames, start.actions, codes=False)
        return self._observation(), self._info()

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        if not self._frames:
            raise ValueError("reset comes before step")
        action = self._checked(action)
        if len(self._taken) == self._acted.max_horizon:
            self._begin_again()
        self._take(action)
        self._steps += 1
        info = self._info()
        return self._observation(), -info.get("distance", 0.0), False, False, info

    def render(self) -> np.ndarray | None:
        """The present frame, uint8 (height, width, 3); None unless ``render_mode`` is "rgb_array"."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() was called, but render_mode is None; give render_mode='rgb_array'")
            return None
        return self._frames[-1].copy()

    def close(self) -> None:
        self._starts.close()

    # ---- beyond Gymnasium: states ------------------------------------------------------------------------------

    def get_state(self) -> ImaginedState:
        """All that the rest of the episode depends on; ValueError before the first reset."""
        if not self._frames:
            raise ValueError("reset comes before get_state")
        return ImaginedState(
            frames=np.stack(self._frames[: len(self._frames) - len(self._taken)]),
            context=self._context.copy(),
            context_codes=self._context_codes,
            taken=np.array(self._taken).reshape(-1, self._acted.action_dim),
            noise=self._noise_at_start.numpy().copy(),
            goal=None if self._goal is None else self._goal.copy(),
            steps=self._steps,
        )

    def restore_state(self, state: ImaginedState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Go to ``state``, imagining what was imagined since its world was started; the same frames come out.

        Raises ValueError for a state of pictures of another size, of other actions, or with a goal where this
        environment has none (and the other way round).
        """
        shape = self._starts.frame_shape
        if state.frames.shape[1:] != shape:
            raise ValueError(f"a state of this environment has pictures {shape}, got {state.frames.shape[1:]}")
        if state.taken.shape[1] != self._acted.action_dim or (state.context_codes and not self._codes):
            raise ValueError(f"a state of this environment has actions {self.action_space}, got others")
        if (state.goal is not None) != self._starts.has_goal:
            raise ValueError("a state with a goal and an environment without one, or the other way round")
        self._noise.set_state(torch.from_numpy(state.noise.copy()))
        self._set_goal(state.goal)
        self._begin(state.frames.copy(), state.context.copy(), codes=state.context_codes)
        for action in state.taken:
            self._take(action.copy())
        self._steps = state.steps
        return self._observation(), self._info()

    # ---- imagining ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _begin(self, frames: np.ndarray, actions: np.ndarray, *, codes: bool) -> None:
        """Start the world from frames ``(T, height, width, 3)`` and actions ``(T - 1, A)``."""
        self._frames, self._taken = list(frames), []
        self._context, self._context_codes = actions, codes
        self._noise_at_start = self._noise.get_state()
        world = self._acted if codes else self._world
        self._memory = world.start(_planes(frames), torch.from_numpy(actions))
        self._latents = self._world.encode(_planes(frames[-1:]))[0]

    def _begin_again(self) -> None:
        """Start the world from the last frames, as they look."""
        count = self._acted.context_frames
        actions = [*([] if self._codes else self._context), *self._taken]
        between = np.array(actions[len(actions) - (count - 1) :]).reshape(count - 1, -1)
        self._begin(np.stack(self._frames[-count:]), between, codes=self._codes)

    @torch.no_grad()
    def _take(self, action: np.ndarray) -> None:
        """Imagine the frame after ``action``."""
        self._taken.append(action)
        if hasattr(self._acted, "advance"):
            latents, self._memory = self._acted.advance(self._memory, torch.from_numpy(action)[None], self._noise)
        else:
            self._noise.set_state(self._noise_at_start)
            taken = torch.from_numpy(np.stack(self._taken))[None]
            latents = self._acted.imagine(self._memory, taken, self._noise)[:, -1]
        self._latents = latents[0]
        picture = self._world.decode(latents)[0].clamp(0.0, 1.0).mul(255.0).round().to("cpu", torch.uint8)
        self._frames.append(rearrange(picture, "c height width -> height width c").numpy().copy())

    @torch.no_grad()
    def _set_goal(self, goal: np.ndarray | None) -> None:
        self._goal = None if goal is None else goal.copy()
        self._target = None if goal is None else self._world.encode(_planes(goal[None]))[0]

    def _checked(self, action: np.ndarray) -> np.ndarray:
        given = np.asarray(action)
        if given.shape != self.action_space.shape:
            raise ValueError(f"an action has shape {self.action_space.shape}, got {given.shape}")
        if self._codes:
            if not self.action_space.contains(given.astype(np.int64)) or (given != given.astype(np.int64)).any():
                raise ValueError(f"codes must lie in {self.action_space}, got {given.tolist()}")
            return given.astype(np.int64)
        if not np.isfinite(given).all():
            raise ValueError(f"action holds {int((~np.isfinite(given)).sum())} values that are not finite")
        return given.astype(np.float32).clip(-1.0, 1.0)

    def _observation(self) -> dict[str, np.ndarray]:
        shown = {"agentview": self._frames[-1].copy()}
        return shown if self._goal is None else {**shown, "goal": self._goal.copy()}

    def _info(self) -> dict[str, Any]:
        """``imagined_steps`` since the real frames, and the ``distance`` to the goal if there is one."""
        told: dict[str, Any] = {"imagined_steps": self._steps}
        if self._target is not None:
            told["distance"] = float((self._latents - self._target).square().mean().sqrt())
        return told


def _starts(
    world: ImaginableWorld,
    start: np.ndarray | str | gymnasium.Env,
    actions: np.ndarray | None,
    kwargs: dict[str, Any] | None,
    goal: np.ndarray | None,
) -> Starts:
    sizes = {"context_frames": world.context_frames, "action_dim": world.action_dim}
    if isinstance(start, str | gymnasium.Env):
        if actions is not None:
            raise ValueError("start_actions belong to start frames; a real environment rests before it is imagined")
        return SimulatedStarts(start, kwargs, goal, **sizes)
    if kwargs:
        raise ValueError("start_kwargs belong to an environment's id; this start is frames")
    return GivenStarts(start, actions, goal, **sizes)


def _by_codes(world: ImaginableWorld) -> Any:
    """``world`` with codes for actions. ValueError when it has none."""
    if not hasattr(world, "by_codes"):
        raise ValueError(f"actions='codes' needs a world that imagines codes; {type(world).__name__} has no by_codes()")
    coded = world.by_codes()
    if coded.max_horizon < coded.context_frames - 1:
        raise ValueError(f"a horizon of {coded.max_horizon} steps is too short to go on from imagined frames in codes")
    return coded


def _planes(frames: np.ndarray) -> Tensor:
    """uint8 ``(T, height, width, 3) -> (T, 3, height, width)``."""
    return torch.from_numpy(np.ascontiguousarray(rearrange(frames, "t height width c -> t c height width")))
