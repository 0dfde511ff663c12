"""Commands that need each other's results, as many at once as there are workers: what ``study.py`` is made of.

A step that has left what it is for is not run again, and each of our scripts goes on where it was killed; so the whole
can be killed at any moment. A step is locked for as long as its command runs, even one whose study is gone. What left
something is remembered: the same step by another command is refused, not taken for done.
"""

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import IO

from tqdm import tqdm

from colaworld.envs.whole_file import whole_file
from colaworld.experiments.reproduce_runs import GRACE_SECONDS, POLL_SECONDS, available_cores, last_error, locked


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command; it is over when ``left`` says that its results are there."""

    name: str
    command: tuple[str, ...]
    left: Callable[[], bool]
    after: tuple[str, ...] = ()
    """Steps whose results it reads."""
    alone: bool = False
    """Whether it has all cores to itself: what all others wait for should not take twice as long."""

    def check_command(self, logs: Path) -> None:
        """ValueError when another command has run under this name: what it left is not this one's."""
        path = logs / f"{self.name}.json"
        before = _anywhere(json.loads(path.read_text())) if path.is_file() else self.words
        if before != self.words:
            raise ValueError(
                f"{path}: {self.name} was run as {shlex.join(before)}, not as {shlex.join(self.words)}; go on as "
                "before, choose another --runs, or remove what it left and this file"
            )

    def ran(self, logs: Path) -> bool:
        """Whether it was this command that ran last under this name."""
        path = logs / f"{self.name}.json"
        return path.is_file() and json.loads(path.read_text()) == self.words

    def remember_command(self, logs: Path) -> None:
        """What ``check_command`` looks at."""
        with whole_file(logs / f"{self.name}.json") as partial:
            partial.write_text(json.dumps(self.words, indent=1) + "\n")

    @property
    def words(self) -> list[str]:
        """Of its command, without the interpreter: the same wherever the scripts lie."""
        return _anywhere(self.command[1:])


def _anywhere(words: Sequence[str]) -> list[str]:
    return [Path(words[0]).name, *words[1:]]


@dataclass(frozen=True, kw_only=True)
class _Running:
    process: subprocess.Popen[bytes]
    lock: IO[bytes]
    alone: bool


class StepsFailed(RuntimeError):
    """Names every step that failed, its log and its last line."""


def run_steps(steps: Sequence[Step], logs: Path, workers: int) -> None:
    """Run what has not left its results yet. Output goes to ``logs/<name>.log``.

    What needs a step that failed is not run; the others are, then StepsFailed is raised. However this ends, no command
    of it goes on. ValueError for fewer than one worker.
    """
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    named = {step.name: step for step in steps}
    order = TopologicalSorter({step.name: step.after for step in steps})
    order.prepare()
    logs.mkdir(parents=True, exist_ok=True)
    for step in steps:
        if step.left():  # what is half done, its own script looks at
            step.check_command(logs)
    waiting: list[str] = []
    running: dict[str, _Running] = {}
    failed: dict[str, str] = {}
    with tqdm(total=len(steps), unit="step", smoothing=0, mininterval=10.0) as bar:
        try:
            while order.is_active():
                waiting += order.get_ready()
                if not running and not waiting:
                    break  # the rest needs what has failed
                waiting.sort(key=list(named).index)
                for name in list(waiting):
                    step = named[name]
                    full = len(running) >= (1 if step.alone else workers) or any(each.alone for each in running.values())
                    if full:
                        break
                    lock = locked(logs / f"{name}.lock")
                    if lock is None:  # a command that an earlier study left behind is still at it
                        continue
                    waiting.remove(name)
                    if step.left():
                        lock.close()
                        _over(order, bar, name)
                    else:
                        step.remember_command(logs)
                        running[name] = _start(step, logs / f"{name}.log", lock, 1 if step.alone else workers)
                bar.set_postfix_str(", ".join(running), refresh=False)
                time.sleep(POLL_SECONDS if running or waiting else 0.0)
                for name in [name for name, each in running.items() if each.process.poll() is not None]:
                    ended = running.pop(name)
                    ended.lock.close()
                    code = ended.process.returncode
                    if code == 0 and named[name].left():
                        _over(order, bar, name)
                    else:
                        failed[name] = last_error(logs / f"{name}.log", code)
                        bar.write(f"{name} failed, {failed[name]}")
        finally:
            for each in running.values():
                _stop(each)
    if failed:
        said = "; ".join(f"{name} ({logs / name}.log): {why}" for name, why in failed.items())
        raise StepsFailed(f"{len(failed)} of {len(steps)} steps failed: {said}")


def _over(order: TopologicalSorter, bar: tqdm, name: str) -> None:
    order.done(name)
    bar.update()


def _start(step: Step, log: Path, lock: IO[bytes], at_once: int) -> _Running:
    threads = str(max(1, available_cores() // at_once))
    with log.open("ab") as output:
        process = subprocess.Popen(
            step.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads},
            pass_fds=(lock.fileno(),),
            start_new_session=True,
        )
    return _Running(process=process, lock=lock, alone=step.alone)


def _stop(run: _Running) -> None:
    run.process.terminate()
    try:
        run.process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        run.process.kill()
        run.process.wait()
    run.lock.close()
