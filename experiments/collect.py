"""Record play, scripted pushes and experts in LIBERO scenes: a whole plan, or one scene by flags::

    python experiments/collect.py --plan play-v1 --out data/play-v1 --workers 2
    python experiments/collect.py --plan play-v1 --out data/play-v1 --ray auto       # on a Ray cluster
    python experiments/collect.py --verify data/play-v1
    python experiments/collect.py --suite libero_goal --task-id 0 --episodes 300 --steps 30 --out data/goal.hdf5

An episode is a function of its seed and job alone: neither the number of workers, nor Ray, nor a restart changes a byte
of it. Killed, run the same command again and it goes on; with more ``--episodes`` an existing single file grows.

On a cluster each node has colaworld installed and needs no shared disk: episodes come back as bytes, and this process
writes them.
"""

import inspect
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from colaworld.envs.recording import open_recording
from colaworld.envs.render import choose_profile
from colaworld.experiments.cli import main
from colaworld.experiments.collect_episode import sound
from colaworld.experiments.collect_files import record_files, target
from colaworld.experiments.collect_plan import PLANS, Entry, Job, Plan, check_scenes, load_plan
from colaworld.experiments.collect_sums import (
    BRIGHTNESS_TOLERANCE,
    GRIPPER_TOLERANCE,
    OBJECT_TOLERANCE,
    SUMS,
    compare,
    content_hash,
    folder_sums,
    read_sums,
    sums_text,
)
from colaworld.experiments.episode_log import write_text

PLAN_FILE = "plan.json"
BY_PLAN = ("suite", "task_id", "episodes", "steps", "kind", "seed", "height", "width", "render_profile")


def collect(
    out: Path | None = None,
    plan: str | None = None,
    suite: str = "libero_goal",
    task_id: int = 0,
    episodes: int = 300,
    steps: int = 30,
    kind: Literal["mixed", "play", "push", "random", "expert"] = "mixed",
    workers: int | None = None,
    seed: int = 0,
    height: int = 64,
    width: int = 64,
    render_profile: str | None = None,
    ray: str | None = None,
    verify: Path | None = None,
    sums: Path | None = None,
) -> None:
    """Record trajectories into ``out``, or compare what is recorded with its list of checksums.

    Args:
        out: the HDF5 file to write; with a plan the folder, which gets one file for each scene and ``SHA256SUMS``.
        plan: name of a shipped plan, or the path of a ``.json``; it decides all from suite to render_profile.
        suite: libero_spatial, libero_object, libero_goal, libero_10 or libero_90.
        task_id: which task of the suite gives the scene.
        episodes: how many trajectories.
        steps: environment steps (0.25 s each) in a trajectory; it has one picture more.
        kind: play, push (scripted pushes), random (held Gaussian actions), mixed (65, 27 and 8 %) or expert.
        workers: recording processes, one simulator each; left out, 2, or all CPUs of the Ray cluster.
        seed: the first episode's seed; training data stays below 1,000,000.
        height: picture height in pixels.
        width: picture width in pixels.
        render_profile: how pictures are drawn; left out, "lite" up to 128 pixels and "full" above.
        ray: record on a Ray cluster: auto, host:port, ray://host:port, or local for one on this machine.
        verify: compare the recordings in this folder with their plan's list, and record nothing.
        sums: the list to compare with, in place of the plan's.
    """
    arguments = dict(locals())
    if verify is not None:
        if out is not None or plan is not None:
            raise ValueError("--verify records nothing: leave out --out and --plan")
        verify_folder(verify, sums)
        return
    if sums is not None:
        raise ValueError("--sums goes with --verify alone")
    if out is None:
        raise ValueError("--out is missing: where to record to")
    if plan is not None:
        for name in BY_PLAN:
            if arguments[name] != inspect.signature(collect).parameters[name].default:
                raise ValueError(f"--plan decides the {name}: leave out --{name.replace('_', '-')}")
        record_plan(load_plan(plan), out, workers, ray)
        return
    profile = choose_profile(render_profile, height, width).name
    job = Job(
        suite=suite, task_id=task_id, steps=steps, kind=kind, height=height, width=width, render_profile=profile
    )
    wanted = target(out, Entry(job=job, episodes=episodes, first_seed=seed).tasks(), job.text())
    check_scenes([job])
    if wanted.have == episodes:
        print(f"{out} already holds {episodes} episodes")
        return
    record_files([wanted], workers, ray)
    print(f"{out}: {episodes} episodes of {steps} steps, {out.stat().st_size / 2**20:.1f} MiB")


def record_plan(plan: Plan, out: Path, workers: int | None = None, ray_address: str | None = None) -> None:
    """Record all of ``plan`` that is not in the folder ``out`` yet, then write the list of checksums."""
    described = out / PLAN_FILE
    if described.exists() and described.read_text() != plan.text():
        raise ValueError(f"{out} was recorded with another plan than {plan.name} is now; choose another --out")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; a plan is recorded into a folder")
    targets = [target(out / f"{scene}.hdf5", tasks, plan.text(scene)) for scene, tasks in plan.scenes().items()]
    check_scenes(entry.job for entry in plan.entries)
    write_text(described, plan.text())
    try:
        record_files(targets, workers, ray_address)
    except BaseException:
        if [path.name for path in out.iterdir()] == [PLAN_FILE]:  # nothing was recorded, so nothing stays
            shutil.rmtree(out)
        raise
    sums = folder_sums(out)
    write_text(out / SUMS, sums_text(sums))
    size = sum(each.path.stat().st_size for each in targets) / 2**20
    steps = sum(job.steps for tasks in plan.scenes().values() for job, _ in tasks)
    print(f"{out}: {len(sums)} episodes, {steps:,} model steps, {len(targets)} scenes, {size:.1f} MiB")
    print(f"content {content_hash(sums)}")
    print(expert_account([each.path for each in targets]))


def expert_account(paths: Iterable[Path]) -> str:
    """One sentence: how many goals the experts of these recordings reached, and how many episodes were dropped."""
    goals, episodes, dropped, poor = [], 0, 0, 0
    for path in paths:
        with open_recording(path) as file:
            for demo in file["data"].values():
                if demo.attrs["kind"] == "expert":
                    episodes += 1
                    dropped += int(demo.attrs["dropped"])
                    mine = json.loads(demo.attrs["goals"])
                    poor += not sound(mine)
                    goals += mine
    reached = sum(success for _, success in goals)
    return (
        f"experts: {reached} of {len(goals)} goals reached in {episodes} episodes, "
        f"{dropped} episodes with more misses than hits dropped, {poor} kept because no try was better"
    )


def verify_folder(folder: Path, sums: Path | None = None) -> None:
    """Print how the recordings in ``folder`` agree with the list ``sums`` (None: the one that ships for their plan).

    ValueError when an episode is off, missing or too many.
    """
    if sums is None:
        described = folder / PLAN_FILE
        if not described.is_file():
            raise FileNotFoundError(f"{described} is missing, so which list to compare with is --sums to say")
        sums = PLANS / f"{_plan_name(described)}.sums"
    listed, found = read_sums(sums), folder_sums(folder)
    result = compare(listed, found)
    print(
        f"{folder} against {sums.name}: {len(result.exact)} exact, {len(result.within_tolerance)} within tolerance, "
        f"{len(result.off)} off, {len(result.missing)} missing, {len(result.extra)} not in the list"
    )
    print(
        f"tolerance: at the end gripper {GRIPPER_TOLERANCE * 100:g} cm, objects {OBJECT_TOLERANCE * 100:g} cm; "
        f"mean of all pixels {BRIGHTNESS_TOLERANCE:g} of 255"
    )
    print(f"content {content_hash(found)}, listed {content_hash(listed)}")
    for word, names in (("off", result.off), ("missing", result.missing), ("not in the list", result.extra)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"{folder} differs from {sums}: {word}: {', '.join(names[:3])}{more}")


def _plan_name(described: Path) -> str:
    try:
        return str(json.loads(described.read_text())["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{described} is not the plan of a recording: {error}") from error


if __name__ == "__main__":
    main(collect)
