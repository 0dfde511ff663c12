"""LIBERO behind the door of ``goal_tasks``: a frozen manifest and one environment, whose simulator is kept while the
scene stays.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium

import colaworld.envs  # noqa: F401  registers the environments
from colaworld.envs.fingerprint import simulator_fingerprint
from colaworld.envs.goals import LiberoGoalReachingEnv
from colaworld.envs.manifest import DEFAULT_MANIFEST, Manifest, load_manifest
from colaworld.experiments.goal_tasks import Expert, GoalEnv, GoalInstance


class LiberoGoalTasks:
    """The instances of ``manifest`` (a shipped one's name, a path, or a loaded one; None: the default).

    Nothing is simulated before ``open``, which makes its own environment unless there is an ``env`` of the same
    manifest. Raises what ``load_manifest`` raises: a manifest that is missing, damaged, or made with another MuJoCo.
    """

    def __init__(
        self,
        manifest: str | Path | Manifest | None = None,
        *,
        max_steps: int | None = None,
        env: LiberoGoalReachingEnv | None = None,
    ) -> None:
        self.manifest = manifest if isinstance(manifest, Manifest) else load_manifest(manifest or DEFAULT_MANIFEST)
        self.max_steps = max_steps or self.manifest.episode_steps
        self._env: gymnasium.Env | None = env
        self._simulators: dict[str, dict[str, Any]] = {}

    @property
    def instances(self) -> list[GoalInstance]:
        """All of the manifest's."""
        return [
            GoalInstance(index=index, category=instance.category, scene=instance.scene)
            for index, instance in enumerate(self.manifest.instances)
        ]

    @property
    def identity(self) -> Mapping[str, Any]:
        """What results depend on."""
        manifest = self.manifest
        return {
            "manifest": manifest.name,
            "manifest_sha256": manifest.sha256,
            "mujoco": manifest.mujoco,
            "robosuite": manifest.robosuite,
            "render_profile": manifest.render_profile,
            "height": manifest.height,
            "width": manifest.width,
            "frame_skip": manifest.frame_skip,
            "episode_steps": manifest.episode_steps,
        }

    def open(self, instance: GoalInstance) -> GoalEnv:
        """The environment, set to ``instance``."""
        if self._env is None:
            self._env = gymnasium.make(
                "colaworld/LiberoGoalReaching-v0",
                instance=instance.index,
                manifest=self.manifest,
                max_episode_steps=self.max_steps,
                disable_env_checker=True,  # the test-suite runs the checker; here it would only cost pictures
            )
        self._env.unwrapped.select(instance.index)
        return self._env

    def expert(self, instance: GoalInstance) -> Expert:
        """The scripted skill that the manifest's starts were chosen with."""
        return self.open(instance).unwrapped.expert()

    def simulator(self, instance: GoalInstance) -> Mapping[str, Any]:
        """The fingerprint of the simulator of ``instance``'s scene on this machine, taken once for each scene."""
        if instance.scene not in self._simulators:
            self._simulators[instance.scene] = simulator_fingerprint(self.open(instance).unwrapped.libero)
        return self._simulators[instance.scene]

    def close(self) -> None:
        """Free the simulator and its graphics."""
        if self._env is not None:
            self._env.close()
            self._env = None
