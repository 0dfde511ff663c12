"""Record play and scripted pushes in one LIBERO scene::

    python experiments/collect.py --suite libero_goal --task-id 0 --episodes 300 --steps 30 --out data/goal.hdf5

Episode i is a function of ``seed + i`` alone: neither the number of workers nor a restart changes a byte of it.
Finished episodes wait in ``<out>.parts``; when all are there they become ``<out>``, which appears complete or not at
all. Killed, run the same command again; with more ``--episodes`` an existing file grows. Training data uses seeds below
1,000,000; goal manifests lie above.
"""

import functools
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from colaworld.envs.experts import OPEN, Reach, Skill
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.play import Play, draw_push
from colaworld.envs.recording import (
    Trajectory,
    demo_names,
    header_of,
    merge_recordings,
    open_recording,
    record,
    write_recording,
)
from colaworld.envs.render import choose_profile
from colaworld.experiments.cli import main

PLAN = "collected_as"
TRAINING_SEEDS = 1_000_000
MIXED_SHARES = {"play": 0.65, "push": 0.27, "random": 0.08}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one episode depends on beside its seed."""

    suite: str
    task_id: int
    steps: int
    kind: str
    height: int
    width: int
    render_profile: str

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def part(self, out: Path, seed: int) -> Path:
        """Where the finished episode of ``seed`` waits; a folder of its own for each plan."""
        digest = hashlib.sha256(self.text().encode()).hexdigest()[:12]
        return out.with_name(f"{out.name}.parts") / digest / f"{seed}.hdf5"


def collect(
    out: Path,
    suite: str = "libero_goal",
    task_id: int = 0,
    episodes: int = 300,
    steps: int = 30,
    kind: Literal["mixed", "play", "push", "random"] = "mixed",
    workers: int = 2,
    seed: int = 0,
    height: int = 64,
    width: int = 64,
    render_profile: str | None = None,
) -> None:
    """Record ``episodes`` trajectories of ``steps`` environment steps into the HDF5 file ``out``.

    Args:
        out: the file to write.
        suite: libero_spatial, libero_object, libero_goal, libero_10 or libero_90.
        task_id: which task of the suite gives the scene.
        episodes: how many trajectories.
        steps: environment steps (0.25 s each) in a trajectory; it has one picture more.
        kind: play, push (scripted pushes), random (held Gaussian actions) or mixed (65, 27 and 8 %).
        workers: parallel processes, one simulator each.
        seed: the first episode's seed; training data stays below 1,000,000.
        height: picture height in pixels.
        width: picture width in pixels.
        render_profile: how pictures are drawn; left out, "lite" up to 128 pixels and "full" above.
    """
    if episodes < 1 or workers < 1:
        raise ValueError(f"episodes and workers must be at least 1, got {episodes} and {workers}")
    if seed < 0 or seed + episodes > TRAINING_SEEDS:
        raise ValueError(f"seeds {seed} to {seed + episodes - 1} do not lie in 0 to {TRAINING_SEEDS - 1}")
    plan = Plan(
        suite=suite,
        task_id=task_id,
        steps=steps,
        kind=kind,
        height=height,
        width=width,
        render_profile=choose_profile(render_profile, height, width).name,
    )
    done = _already_recorded(out, plan, seed)
    if done >= episodes:
        print(f"{out} already holds {done} episodes")
        return
    parts = {number: plan.part(out, number) for number in range(seed + done, seed + episodes)}
    _record_missing(plan, parts, workers)
    sources = [out, *parts.values()] if done else list(parts.values())
    merge_recordings(sources, out, attributes={PLAN: plan.text()})
    finished = plan.part(out, seed).parent
    shutil.rmtree(finished)
    if not any(finished.parent.iterdir()):
        finished.parent.rmdir()
    print(f"{out}: {episodes} episodes of {steps} steps, {out.stat().st_size / 2**20:.1f} MiB")


def _already_recorded(out: Path, plan: Plan, seed: int) -> int:
    """How many episodes of this plan ``out`` holds, from ``seed`` on; ValueError when it holds anything else."""
    if not out.exists():
        return 0
    with open_recording(out) as file:
        found = str(file["data"].attrs.get(PLAN, "no plan"))
        seeds = [int(file["data"][name].attrs["seed"]) for name in demo_names(file["data"])]
    if found != plan.text():
        raise ValueError(f"{out} was recorded as {found}, not as {plan.text()}; choose another --out")
    if seeds != list(range(seed, seed + len(seeds))):
        raise ValueError(f"{out} begins at seed {seeds[0]}, not at --seed {seed}; choose another --out")
    return len(seeds)


def _record_missing(plan: Plan, parts: dict[int, Path], workers: int) -> None:
    """Record every part that is not there yet; a worker's error stops the run and leaves the finished parts."""
    missing = {seed: path for seed, path in parts.items() if not path.exists()}
    label, before = f"{plan.suite} {plan.task_id}", len(parts) - len(missing)
    with tqdm(total=len(parts), initial=before, unit="episode", desc=label) as progress:
        if workers == 1:
            for seed, path in missing.items():
                _record_part(plan, seed, path)
                progress.update()
            return
        for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS"):  # a worker is one thread: software GL would start its own
            os.environ.setdefault(name, "1")
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(_record_part, plan, seed, path) for seed, path in missing.items()]
            try:
                for future in as_completed(futures):
                    future.result()
                    progress.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _record_part(plan: Plan, seed: int, path: Path) -> None:
    env = _environment(plan)
    write_recording(path, header_of(env), [record_episode(env, seed=seed, steps=plan.steps, kind=plan.kind)])


@functools.cache
def _environment(plan: Plan) -> LiberoEnv:
    """This process's simulator; building one takes seconds, restoring a state in it milliseconds."""
    return LiberoEnv(plan.suite, plan.task_id, height=plan.height, width=plan.width, render_profile=plan.render_profile)


def record_episode(env: LiberoEnv, *, seed: int, steps: int, kind: str) -> Trajectory:
    """One trajectory that depends on ``seed`` alone: an official initial state, an unseen prelude, then play."""
    rng = np.random.default_rng(seed)
    if kind == "mixed":
        kind = str(rng.choice(list(MIXED_SHARES), p=list(MIXED_SHARES.values())))
    _, info = env.reset(options={"init_state_id": int(rng.integers(len(env.scene.initial_states)))})
    play = Play(kind, info["ee_pos"], rng, frame_skip=env.frame_skip)
    _prelude(env, info, play, rng)
    return record(env, play, steps=steps, seed=seed, kind=kind)


def _prelude(env: LiberoEnv, info: Mapping[str, Any], play: Play, rng: np.random.Generator) -> None:
    """Move the start away from LIBERO's initial states, without pictures: an object pushed elsewhere, the gripper
    anywhere."""
    skills: list[tuple[Skill, int]] = []
    push = draw_push(info, play.workspace, rng) if rng.random() < 0.3 else None
    if push is not None:
        skills.append((push, 12))
    if rng.random() < 0.7:
        skills.append((Reach(play.workspace.draw(rng), gripper=OPEN), int(rng.integers(1, 7))))
    for skill, limit in skills:
        for _ in range(limit):
            action = skill(info)
            if skill.done:
                break
            info = env.advance(action)


if __name__ == "__main__":
    main(collect)
