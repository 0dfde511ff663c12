"""One recorded episode as a function of its job and seed alone, and as the bytes of an HDF5 file of its own.

What a recording process runs. It returns bytes and writes no file that stays, so it may be on another machine.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from colaworld.envs.expert_play import ExpertPlay
from colaworld.envs.experts import OPEN, Reach, Skill
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.play import Play, Workspace, draw_push
from colaworld.envs.recording import Trajectory, header_of, record, write_recording
from colaworld.experiments.collect_plan import Job
from colaworld.experiments.simulator_processes import only_environment

EXPERT_TRIES = 4
MIXED_SHARES = {"play": 0.65, "push": 0.27, "random": 0.08}


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A finished episode: the bytes of its HDF5 file, and the CPU seconds that it took, building the scene included."""

    data: bytes
    cpu_seconds: float


def recorded(job: Job, seed: int) -> Recorded:
    """Record the episode ``seed`` of ``job``; this process keeps the simulator for the next one of the same scene."""
    begun = time.process_time()
    scene = ("suite", "task_id", "height", "width", "render_profile")
    env = only_environment(**{name: getattr(job, name) for name in scene})
    episode = record_episode(env, seed=seed, steps=job.steps, kind=job.kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "episode.hdf5"
        write_recording(path, header_of(env), [episode])
        return Recorded(data=path.read_bytes(), cpu_seconds=time.process_time() - begun)


def record_episode(env: LiberoEnv, *, seed: int, steps: int, kind: str) -> Trajectory:
    """One trajectory that depends on ``seed`` alone: an official initial state, an unseen prelude, then play.

    An episode of experts in which more goals were missed than reached is dropped and another one recorded in its place,
    ``EXPERT_TRIES`` in all, the last of which is kept as it is; the trajectory says what was reached and how many were
    dropped.
    """
    if kind == "expert":
        for dropped in range(EXPERT_TRIES):
            episode = _expert_episode(env, seed, dropped, steps)
            if sound(episode.goals):
                break
        return replace(episode, dropped=dropped)
    rng = np.random.default_rng(seed)
    if kind == "mixed":
        kind = str(rng.choice(list(MIXED_SHARES), p=list(MIXED_SHARES.values())))
    info, workspace = _begin(env, rng)
    policy = Play(kind, info["ee_pos"], rng, frame_skip=env.frame_skip)
    _prelude(env, info, workspace, rng)
    return record(env, policy, steps=steps, seed=seed, kind=kind)


def sound(goals: Sequence[tuple[str, bool]]) -> bool:
    """Whether experts reached some of these goals, and no fewer than they missed."""
    reached = sum(success for _, success in goals)
    return reached > 0 and 2 * reached >= len(goals)


def _expert_episode(env: LiberoEnv, seed: int, attempt: int, steps: int) -> Trajectory:
    rng = np.random.default_rng([seed, attempt] if attempt else seed)
    info, workspace = _begin(env, rng)
    _prelude(env, info, workspace, rng)
    policy = ExpertPlay(env, rng)
    episode = record(env, policy, steps=steps, seed=seed, kind=policy.kind)
    return replace(episode, goals=tuple(policy.outcomes))


def _begin(env: LiberoEnv, rng: np.random.Generator) -> tuple[Mapping[str, Any], Workspace]:
    """An official initial state."""
    _, info = env.reset(options={"init_state_id": int(rng.integers(len(env.scene.initial_states)))})
    return info, Workspace.around(info["ee_pos"])


def _prelude(env: LiberoEnv, info: Mapping[str, Any], workspace: Workspace, rng: np.random.Generator) -> None:
    """Move the start away from LIBERO's initial states, without pictures: an object pushed elsewhere, the gripper
    anywhere."""
    skills: list[tuple[Skill, int]] = []
    push = draw_push(info, workspace, rng) if rng.random() < 0.3 else None
    if push is not None:
        skills.append((push, 12))
    if rng.random() < 0.7:
        skills.append((Reach(workspace.draw(rng), gripper=OPEN), int(rng.integers(1, 7))))
    for skill, limit in skills:
        for _ in range(limit):
            action = skill(info)
            if skill.done:
                break
            info = env.advance(action)
