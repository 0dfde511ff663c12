"""Processes with a simulator: one scene each, and none is left behind by a parent that was killed."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import wait

import pytest

from colaworld.experiments import simulator_processes
from colaworld.experiments.simulator_processes import only_environment, simulator_pool

PARENT = """
import os, time
from colaworld.experiments.simulator_processes import new_pool

def work():
    time.sleep(600)

if __name__ == "__main__":
    pool = new_pool(1)
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(work)
    time.sleep(600)
"""


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_end_with_a_killed_parent(tmp_path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    assert alive(worker)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for _ in range(200):
        if not alive(worker):
            break
        time.sleep(0.05)
    assert not alive(worker)


def test_a_process_keeps_one_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Env:
        def __init__(self, suite: str, task_id: int) -> None:
            self.name = f"{suite}_{task_id}"

        def close(self) -> None:
            closed.append(self.name)

    monkeypatch.setattr(simulator_processes, "LiberoEnv", Env)
    monkeypatch.setattr(simulator_processes, "_open", {})
    first = only_environment(suite="a", task_id=0)
    assert only_environment(task_id=0, suite="a") is first and not closed
    assert only_environment(suite="a", task_id=1) is not first and closed == ["a_0"]
    assert only_environment(suite="a", task_id=0) is not first and closed == ["a_0", "a_1"]


def test_an_error_drops_what_has_not_begun() -> None:
    with pytest.raises(RuntimeError, match="enough"), simulator_pool(1) as pool:
        jobs = [pool.submit(time.sleep, 2) for _ in range(50)]
        raise RuntimeError("enough")
    wait(jobs, timeout=60)
    assert jobs[-1].cancelled()
