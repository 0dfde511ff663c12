"""VP2-style goal reaching in LIBERO as Gymnasium environments: start, goal frame and predicate of a frozen manifest.

VP2's protocol: 15 environment steps (the registration's limit; give ``max_episode_steps`` for manifests with longer
episodes), the goal frame in the observation, success by the simulator's state in any step, so an episode ends at
success.
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from colaworld.envs.expert_goals import expert_for, succeeded
from colaworld.envs.experts import Skill
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.manifest import DEFAULT_MANIFEST, Instance, Manifest, load_manifest


class LiberoGoalReachingEnv(gymnasium.Env):
    """Bring the gripper or an object where the goal frame shows it.

    ``instance`` counts from 0 in ``manifest`` (a shipped manifest's name, a path, or a loaded `Manifest`). Observation:
    uint8 ``agentview`` and ``goal`` (height, width, 3). ``info``: what `LiberoEnv` tells, with ``success`` meaning the
    instance's predicate now, and ``distance`` (metres to the target), ``category`` and ``instance``. Reward 1.0 at
    success, which terminates.

    Raises ValueError for an unknown instance, or a ``render_profile`` other than the manifest's.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(
        self,
        instance: int = 0,
        manifest: str | Path | Manifest = DEFAULT_MANIFEST,
        *,
        render_mode: str | None = None,
        render_profile: str | None = None,
    ) -> None:
        self.manifest = manifest if isinstance(manifest, Manifest) else load_manifest(manifest)
        if render_profile not in (None, self.manifest.render_profile):
            raise ValueError(
                f"goal manifest {self.manifest.name} was drawn with render_profile {self.manifest.render_profile!r}, "
                f"asked for {render_profile!r}"
            )
        self.render_mode = render_mode
        self._env: LiberoEnv | None = None
        self._scene: str | None = None
        shape = (self.manifest.height, self.manifest.width, 3)
        views = {view: gymnasium.spaces.Box(0, 255, shape, np.uint8) for view in ("agentview", "goal")}
        self.observation_space = gymnasium.spaces.Dict(views)
        self.select(instance)
        self.action_space = self.libero.action_space

    @property
    def libero(self) -> LiberoEnv:
        """The environment of the present instance's scene."""
        return self._env

    def select(self, instance: int) -> None:
        """Make ``instance`` the one that `reset` starts; the simulator is kept where the scene is the same."""
        count = len(self.manifest.instances)
        if isinstance(instance, bool) or not isinstance(instance, int | np.integer) or not 0 <= instance < count:
            raise ValueError(
                f"unknown instance {instance!r} of goal manifest {self.manifest.name}; it must be 0..{count - 1}"
            )
        self.instance: Instance = self.manifest.instances[instance]
        if self.instance.scene != self._scene:
            self.close()
            self._env = None  # two scenes at once would take twice the memory
            self._env = LiberoEnv(**self.scene_settings, render_mode=self.render_mode)
            self._scene = self.instance.scene

    @property
    def scene_settings(self) -> dict[str, Any]:
        """What `LiberoEnv` is made from for the present instance, but for ``render_mode``."""
        settings = ("height", "width", "frame_skip", "render_profile")
        scene = {"suite": self.instance.suite, "task_id": self.instance.task_id}
        return scene | {name: getattr(self.manifest, name) for name in settings}

    @property
    def goal_frame(self) -> np.ndarray:
        """uint8 (height, width, 3)."""
        return self.manifest.goal_frames[self.instance.instance].copy()

    def expert(self) -> Skill:
        """A fresh scripted expert for this instance: ``skill(info) -> action (7,)``."""
        instance, scene = self.instance, self.libero.scene
        fingers = scene.gripper_command(self.manifest.starts[instance.instance])
        return expert_for(scene, instance.category, instance.predicate, fingers=fingers, begin=instance.phase)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        options = dict(options or {})
        self.select(options.pop("instance", self.instance.instance))
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}; known: instance")
        observation, info = self.libero.restore_state(self.manifest.starts[self.instance.instance])
        return self._observed(observation), self._told(info)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        observation, _, _, _, info = self.libero.step(action)
        info = self._told(info)
        return self._observed(observation), float(info["success"]), info["success"], False, info

    def render(self) -> np.ndarray | None:
        """The present agentview, uint8 (height, width, 3)."""
        return self.libero.render()

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    def get_state(self) -> np.ndarray:
        """The whole simulator state, float64 (n,), of the present instance's scene."""
        return self.libero.get_state()

    def restore_state(
        self, state: np.ndarray, *, render: bool = True
    ) -> tuple[dict[str, np.ndarray] | None, dict[str, Any]]:
        """Go to ``state``; the observation is None with ``render=False``."""
        observation, info = self.libero.restore_state(state, render=render)
        return (self._observed(observation) if render else None), self._told(info)

    @property
    def subgoal_frames(self) -> np.ndarray | None:
        """Frames on the expert's way to the goal, uint8 (k, height, width, 3), the goal last; None in short
        manifests."""
        frames = self.manifest.subgoal_frames
        return None if frames is None else frames[self.instance.instance].copy()

    def _observed(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"agentview": observation["agentview"], "goal": self.goal_frame}

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        return {
            **info,
            "success": succeeded(self.libero.scene, self.instance.predicate, info),
            "distance": self.instance.predicate.distance(info),
            "category": self.instance.category,
            "instance": self.instance.instance,
        }
