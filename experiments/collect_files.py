"""Recordings on their way to becoming files: which episodes a file has, which wait beside it, and the run for the rest.

A finished episode waits in ``<file>.parts``; when all of a file are there they become the file. Everything appears
under its name complete or not at all, so a run may be killed at any moment.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from colaworld.envs.recording import SceneHeader, demo_names, merge_recordings, open_recording
from colaworld.envs.whole_file import whole_file
from colaworld.experiments.collect_crew import crew, record_all
from colaworld.experiments.collect_plan import Episodes, Job
from colaworld.experiments.collect_sums import check_episode

RECORDED_AS = "collected_as"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One file to record. ``text`` says what it is recorded as; the first ``have`` of its ``episodes`` are in it."""

    path: Path
    episodes: Episodes
    text: str
    have: int

    def parts(self) -> dict[tuple[Job, int], Path]:
        """Where each episode waits that is not in the file."""
        return {(job, seed): job.part(self.path, seed) for job, seed in self.episodes[self.have :]}

    def finish(self) -> None:
        """All parts are there: make them the file, and remove them."""
        parts = self.parts()
        sources = [self.path, *parts.values()] if self.have else list(parts.values())
        merge_recordings(sources, self.path, attributes={RECORDED_AS: self.text})
        self.clear()

    def clear(self) -> None:
        """Remove the parts of a finished file."""
        folders = {job.part(self.path, seed).parent for job, seed in self.episodes}
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        waiting = self.path.with_name(f"{self.path.name}.parts")
        if waiting.exists() and not any(waiting.iterdir()):
            waiting.rmdir()


def target(path: Path, episodes: Episodes, text: str) -> Target:
    """What there is of ``episodes`` at ``path``; ValueError when the file holds anything else."""
    have = 0
    if path.is_dir():
        raise ValueError(f"{path} is a folder; without --plan a recording is one file, such as {path / 'play.hdf5'}")
    if path.exists():
        with open_recording(path) as file:
            found = str(file["data"].attrs.get(RECORDED_AS, "no plan"))
            seeds = [int(file["data"][name].attrs["seed"]) for name in demo_names(file["data"])]
        if found != text:
            raise ValueError(f"{path} was recorded as {found}, not as {text}; choose another --out")
        have = min(len(seeds), len(episodes))
        if seeds[:have] != [seed for _, seed in episodes[:have]]:
            raise ValueError(
                f"{path} begins at seed {seeds[0]}, not at --seed {episodes[0][1]}; choose another --out"
            )
    return Target(path=path, episodes=episodes, text=text, have=have)


def record_files(targets: Sequence[Target], workers: int | None, ray_address: str | None) -> None:
    """Record what is missing of all ``targets``; an error in a worker stops the run and leaves the finished parts."""
    waiting = {each.path: each.parts() for each in targets if each.have < len(each.episodes)}
    owners = {task: each for each in targets for task in waiting.get(each.path, {})}
    missing: dict[Path, set[tuple[Job, int]]] = {path: set() for path in waiting}
    for path, parts in waiting.items():
        for (job, seed), part in parts.items():
            if part.exists():
                check_part(part, job, seed)
            else:
                missing[path].add((job, seed))
    tasks = [task for task in owners if task in missing[owners[task].path]]
    for each in targets:
        if each.path not in waiting:
            each.clear()  # killed between the file and this
        elif not missing[each.path]:
            each.finish()
    if not tasks:
        return
    total = sum(job.steps for each in targets for job, _ in each.episodes)
    ahead, cpu, begun = sum(job.steps for job, _ in tasks), 0.0, time.monotonic()
    with (
        crew(workers, ray_address) as sends,
        tqdm(total=total, initial=total - ahead, unit=" steps", desc="recording", smoothing=0.05) as progress,
    ):
        for job, seed, episode in record_all(sends, tasks):
            owner = owners[job, seed]
            with whole_file(waiting[owner.path][job, seed]) as partial:
                partial.write_bytes(episode.data)
            cpu += episode.cpu_seconds
            missing[owner.path].remove((job, seed))
            progress.update(job.steps)
            if not missing[owner.path]:
                owner.finish()
        count = len(sends)
    seconds = time.monotonic() - begun
    print(
        f"{ahead:,} model steps in {seconds:,.0f} s: {ahead / seconds:.1f} steps/s on {count} processes "
        f"({ahead / cpu:.1f} for each second of CPU time)"
    )


def check_part(path: Path, job: Job, seed: int) -> None:
    """ValueError when ``path`` is not the whole episode ``seed`` of ``job`` in this version's layout."""
    try:
        with open_recording(path) as file:
            header = SceneHeader.read(file["data"].attrs, path)
            names = demo_names(file["data"])
            if names != ["demo_0"]:
                raise ValueError(f"{path}: holds {len(names)} episodes, not one")
            demo = file["data/demo_0"]
            check_episode(demo, str(path))
            wanted = (job.scene, job.height, job.width, job.render_profile, seed, job.steps)
            found = (header.scene, header.height, header.width, header.render_profile)
            found += (int(demo.attrs["seed"]), len(demo["actions"]))
            if found != wanted:
                raise ValueError(f"{path}: scene, height, width, profile, seed and steps are {found}, not {wanted}")
    except ValueError as error:
        raise ValueError(f"{error}; remove this finished episode and run again") from error
