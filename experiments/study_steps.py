"""Commands that need each other's results, as many at once as there are workers: what ``study.py`` is made of.

A step that has left what it is for is not run again, and each of our scripts goes on where it was killed; so the whole
can be killed at any moment.
"""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from tqdm import tqdm

from colaworld.experiments.reproduce_runs import GRACE_SECONDS, POLL_SECONDS, available_cores, last_error


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command; it is over when ``left`` says that its results are there."""

    name: str
    command: tuple[str, ...]
    left: Callable[[], bool]
    after: tuple[str, ...] = ()
    """Steps whose results it reads."""


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
    waiting: list[str] = []
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed: dict[str, str] = {}
    with tqdm(total=len(steps), unit="step", smoothing=0, mininterval=10.0) as bar:
        try:
            while order.is_active():
                waiting += order.get_ready()
                if not running and not waiting:
                    break  # the rest needs what has failed
                waiting.sort(key=list(named).index)
                while waiting and len(running) < workers:
                    step = named[waiting.pop(0)]
                    if step.left():
                        _over(order, bar, step.name)
                    else:
                        running[step.name] = _start(step, logs / f"{step.name}.log", workers)
                bar.set_postfix_str(", ".join(running), refresh=False)
                time.sleep(POLL_SECONDS if running else 0.0)
                for name in [name for name, process in running.items() if process.poll() is not None]:
                    code = running.pop(name).returncode
                    if code == 0 and named[name].left():
                        _over(order, bar, name)
                    else:
                        failed[name] = last_error(logs / f"{name}.log", code)
                        bar.write(f"{name} failed, {failed[name]}")
        finally:
            for process in running.values():
                _stop(process)
    if failed:
        said = "; ".join(f"{name} ({logs / name}.log): {why}" for name, why in failed.items())
        raise StepsFailed(f"{len(failed)} of {len(steps)} steps failed: {said}")


def _over(order: TopologicalSorter, bar: tqdm, name: str) -> None:
    order.done(name)
    bar.update()


def _start(step: Step, log: Path, workers: int) -> subprocess.Popen[bytes]:
    threads = str(max(1, available_cores() // workers))
    with log.open("wb") as output:
        return subprocess.Popen(
            step.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads},
            start_new_session=True,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
