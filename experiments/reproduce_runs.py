"""Running the cells of the grid: as many trainings at once as there are workers, each a process of its own.

A training goes on from its checkpoint when it is started again with the same command, so nothing is lost when the grid
is killed. Each run folder is locked for as long as a training is at it, even one whose grid has been killed; the next
grid waits for that one.
"""

import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from colaworld.experiments.provenance import git_revision, versions
from colaworld.experiments.reproduce_cells import Cell, as_arguments
from colaworld.experiments.reproduce_store import CellStore, StoredCell, read_curves, read_evaluation

POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
ERROR_LENGTH = 300
FRAME, HINT = " │╭╮╰╯─", "For full helptext"
SHARED = "shared"
"""Folder of what cells that differ in their adapter alone share, beside their run folders."""


@dataclass(frozen=True, kw_only=True)
class Crew:
    """How cells are run: ``trainer`` is the command before the flags, ``paths`` the flags that name paths."""

    trainer: tuple[str, ...]
    paths: tuple[str, ...]
    runs: Path
    """The folder of run folders."""
    workers: int

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be 1 or more, got {self.workers}")

    def command(self, cell: Cell, store: CellStore) -> list[str]:
        """What is run for ``cell``."""
        flags = as_arguments(cell.flags(store.scale))
        shared = ("--share", str(self.runs / SHARED))
        return [*self.trainer, *flags, *self.paths, *shared, "--out", str(self.runs / cell.name)]


@dataclass(kw_only=True)
class _Run:
    """A training under way; its lock lies in a file beside the run folder and is the process's too."""

    cell: Cell
    process: subprocess.Popen[bytes]
    lock: IO[bytes]
    log: Path
    revision: str | None
    """Of the code when the training began."""


def run_cells(cells: Sequence[Cell], store: CellStore, crew: Crew, ended: Callable[[StoredCell], None]) -> None:
    """Run those of ``cells`` that are not finished, each once; ``ended`` is told of each that finished or failed.
    Of cells that share what comes before their adapter stage the first runs by itself, and the others wait for it.

    Whatever ends this function, its trainings have ended too.
    """
    crew.runs.mkdir(parents=True, exist_ok=True)
    waiting, running, shared = list(cells), [], set()
    try:
        while waiting or running:
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                shared.add(run.cell.before_adapter(store.scale))
                stored = _outcome(run, store, crew)
                store.write(stored)
                run.lock.close()
                ended(stored)
            for cell in list(waiting):
                if len(running) == crew.workers:
                    break
                common = cell.before_adapter(store.scale)
                if common not in shared and common in [run.cell.before_adapter(store.scale) for run in running]:
                    continue
                lock = locked(crew.runs / f"{cell.name}.lock")
                if lock is None:  # a training that an earlier grid left behind is still at it
                    continue
                waiting.remove(cell)
                if _finished(store.get(cell)):
                    lock.close()
                else:
                    running.append(_start(cell, store, crew, lock))
            time.sleep(POLL_SECONDS)
    finally:
        for run in running:
            _stop(run)


def _finished(stored: StoredCell | None) -> bool:
    return stored is not None and stored.finished


def locked(path: Path) -> IO[bytes] | None:
    """The file at ``path``, locked; None when another process holds it. The lock goes with the last copy of it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _start(cell: Cell, store: CellStore, crew: Crew, lock: IO[bytes]) -> _Run:
    log, revision = crew.runs / f"{cell.name}.log", git_revision()
    threads = str(max(1, available_cores() // crew.workers))
    with log.open("wb") as output:
        process = subprocess.Popen(
            crew.command(cell, store),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads},
            pass_fds=(lock.fileno(),),
            start_new_session=True,  # an interrupt from the terminal is for the grid alone, which ends its trainings
        )
    return _Run(cell=cell, process=process, lock=lock, log=log, revision=revision)


def _stop(run: _Run) -> None:
    run.process.terminate()
    try:
        run.process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        run.process.kill()
        run.process.wait()
    run.lock.close()


def _outcome(run: _Run, store: CellStore, crew: Crew) -> StoredCell:
    """What an ended training left behind."""
    cell, before = run.cell, store.get(run.cell)
    folder, error, curves, evaluation = crew.runs / cell.name, None, {}, {}
    if run.process.returncode:
        error = last_error(run.log, run.process.returncode)
    else:
        try:
            evaluation = read_evaluation(folder / "evaluation.json", cell)
            curves = read_curves(folder / "metrics.jsonl")
        except ValueError as problem:
            error = str(problem)
    return StoredCell(
        cell=cell.name,
        variant=cell.variant.name,
        seed=cell.seed,
        identity=store.identity(cell),
        status="failed" if error else "finished",
        attempts=1 + (before.attempts if before else 0),
        error=error and _without_folder(error),
        made_by={
            "versions": versions(),
            "revision": run.revision,
            "cores": available_cores(),
            "workers": crew.workers,
        },
        curves=curves,
        evaluation=evaluation,
    )


def unfit(folder: Path, cell: Cell, stored: StoredCell) -> str | None:
    """Why the run ``folder`` cannot be evaluated for a stored cell; None when it can. Seconds are as good as a name: no
    two trainings take the same.
    """
    if not folder.is_dir():
        return f"there is no run folder {folder}"
    if not (folder / "system" / "system.json").is_file():
        return f"there are no weights in {folder}"
    try:
        evaluation = read_evaluation(folder / "evaluation.json", cell)
    except ValueError as error:
        return str(error)
    if evaluation.get("budget") != stored.evaluation.get("budget"):
        return f"{folder} holds another training than the cell's"
    return None


def available_cores() -> int:
    """Of this machine."""
    return os.cpu_count() or 1


def last_error(log: Path, code: int) -> str:
    """The last line of ``log`` that says something, with the exit code; frames around it and hints do not."""
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    bare = (line.strip(FRAME) for line in lines)
    said = [line for line in bare if line and not line.startswith(HINT)]
    how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}: {said[-1]}" if said else how


def _without_folder(error: str) -> str:
    """Files are named from the working folder on: where that lies is nobody's concern."""
    return error.replace(f"{Path.cwd()}{os.sep}", "")[:ERROR_LENGTH]
