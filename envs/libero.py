"""LIBERO as Gymnasium environments at the model's rate (4 Hz): a step holds an action for ``frame_skip`` control steps.

VP2's protocol plans at this rate. Observations are dictionaries of uint8 pictures ``(height, width, 3)``, upright as a
person sees them, drawn once for each step. Rewards are sparse: 1.0 in a state where LIBERO's goal predicate holds.
"""

from typing import Any

import gymnasium
import numpy as np

from colaworld.envs.render import SceneRenderer, choose_profile
from colaworld.envs.scene import ACTION_DIM, LiberoScene

CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}
PROPRIO_BOUND = 10.0  # radians and metres; no pose of the arm comes near it
PROPRIO_DIM = 7 + 2 + 3 + 4  # joint angles, fingers, hand position, hand quaternion (w, x, y, z)


class LiberoEnv(gymnasium.Env):
    """One LIBERO task.

    ``suite``: libero_spatial, libero_object, libero_goal, libero_10 or libero_90. ``height``, ``width``: pixels.
    ``frame_skip``: control steps (20 Hz) a step. ``wrist`` adds ``eye_in_hand``, ``proprio`` adds float32 (16,).
    ``render_profile``: see `colaworld.envs.render`; None means "lite" up to 128 pixels and "full" above.

    Actions: float (7,) in [-1, 1], held for the whole step, or a chunk (frame_skip, 7), a row for each control step;
    robosuite's controller clips what lies outside. Raises ValueError for any other shape and for NaN.

    ``reset(options={"init_state_id": k})`` starts from LIBERO's k-th initial state (settled for 10 control steps; by
    default k is drawn by the seed), ``options={"state": vector}`` from a vector that `get_state` returned.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(
        self,
        suite: str,
        task_id: int = 0,
        *,
        height: int = 64,
        width: int = 64,
        frame_skip: int = 5,
        wrist: bool = False,
        proprio: bool = False,
        render_mode: str | None = None,
        render_profile: str | None = None,
    ) -> None:
        if frame_skip < 1:
            raise ValueError(f"frame_skip must be at least 1, got {frame_skip}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        profile = choose_profile(render_profile, height, width)
        self.scene = LiberoScene(suite, task_id)
        self.render_mode, self.render_profile = render_mode, profile.name
        self.height, self.width, self.frame_skip = height, width, frame_skip
        self.metadata = {**type(self).metadata, "render_fps": 20 / frame_skip}
        self._views = ("agentview", "eye_in_hand") if wrist else ("agentview",)
        self._proprio = proprio
        self._renderer = SceneRenderer(self.scene.model, profile, height, width)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        spaces = {view: gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8) for view in self._views}
        if proprio:
            spaces["proprio"] = gymnasium.spaces.Box(-PROPRIO_BOUND, PROPRIO_BOUND, (PROPRIO_DIM,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)

    # ---- Gymnasium ---------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        options = dict(options or {})
        state, init_state_id = options.pop("state", None), options.pop("init_state_id", None)
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}; known: init_state_id, state")
        if state is not None and init_state_id is not None:
            raise ValueError("reset options hold both a state and an init_state_id; give one")
        if state is not None:
            return self.restore_state(state)
        if init_state_id is None:
            init_state_id = int(self.np_random.integers(len(self.scene.initial_states)))
        self.scene.reset_to_initial(init_state_id)
        return self._observation(), {**self._info(), "init_state_id": init_state_id}

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.advance(action)
        info = self._info()
        return self._observation(), float(info["success"]), info["success"], False, info

    def render(self) -> np.ndarray | None:
        """The present agentview, uint8 (height, width, 3); None unless ``render_mode`` is "rgb_array"."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() was called, but render_mode is None; give render_mode='rgb_array'")
            return None
        return self.picture("agentview")

    def close(self) -> None:
        self._renderer.close()

    # ---- beyond Gymnasium: exact states, and motion without pictures -------------------------------------------

    def advance(self, action: np.ndarray) -> dict[str, Any]:
        """`step` without a picture, for scripted experts and searches: returns ``info`` only."""
        for row in self._chunk(action):
            self.scene.control_step(row)
        self.scene.refresh()
        return self._info()

    def get_state(self) -> np.ndarray:
        """The whole simulator state, float64 (n,): see `colaworld.envs.scene`."""
        return self.scene.get_state()

    def restore_state(
        self, state: np.ndarray, *, render: bool = True
    ) -> tuple[dict[str, np.ndarray] | None, dict[str, Any]]:
        """Go to ``state`` without rebuilding anything; the observation is None with ``render=False``."""
        self.scene.set_state(state)
        return (self._observation() if render else None), self._info()

    def picture(self, view: str = "agentview") -> np.ndarray:
        """The present state from ``view`` ("agentview" or "eye_in_hand"): uint8 (height, width, 3)."""
        if view not in CAMERAS:
            raise ValueError(f"unknown view {view!r}; known: {', '.join(CAMERAS)}")
        return self._renderer.picture(self.scene.data, CAMERAS[view])

    # ---- privileged reads --------------------------------------------------------------------------------------

    @property
    def ee_pos(self) -> np.ndarray:
        """The point between the fingertips, metres: float64 (3,)."""
        return self.scene.ee_pos

    @property
    def ee_quat(self) -> np.ndarray:
        """The hand's orientation (w, x, y, z): float64 (4,)."""
        return self.scene.ee_quat

    def object_names(self) -> tuple[str, ...]:
        """Movable objects of the scene."""
        return self.scene.object_names

    def object_pos(self, name: str) -> np.ndarray:
        """Position of a movable object or a fixture, metres: float64 (3,)."""
        return self.scene.body_pos(name)

    def visible_share(self, name: str, view: str = "agentview") -> float:
        """Which share of the picture shows a movable object, a fixture or the "gripper"."""
        return self._renderer.share_of_picture(self.scene.data, CAMERAS[view], self.scene.bodies_of(name))

    def _chunk(self, action: np.ndarray) -> np.ndarray:
        given = np.asarray(action, dtype=np.float64)
        if given.shape not in ((ACTION_DIM,), (self.frame_skip, ACTION_DIM)):
            raise ValueError(
                f"an action has shape ({ACTION_DIM},) or ({self.frame_skip}, {ACTION_DIM}), got {given.shape}"
            )
        if not np.isfinite(given).all():
            raise ValueError(f"action holds {int((~np.isfinite(given)).sum())} values that are not finite")
        return np.broadcast_to(given, (self.frame_skip, ACTION_DIM))

    def _observation(self) -> dict[str, np.ndarray]:
        observation = {view: self.picture(view) for view in self._views}
        if self._proprio:
            scene = self.scene
            values = np.concatenate([scene.joint_pos, scene.gripper, scene.ee_pos, scene.ee_quat])
            observation["proprio"] = values.astype(np.float32)
        return observation

    def _info(self) -> dict[str, Any]:
        scene = self.scene
        return {
            "success": scene.success(),
            "ee_pos": scene.ee_pos,
            "ee_quat": scene.ee_quat,
            "joints": scene.joints(),
            "objects": {name: scene.body_pos(name) for name in scene.object_names},
            "gripper": scene.gripper,
        }
