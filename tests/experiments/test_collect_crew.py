"""Who records what: every episode once, workers that keep their scene, and one sentence where no Ray cluster is."""

import socket
import sys
from concurrent.futures import Future
from itertools import groupby

import pytest

from colaworld.experiments.collect_crew import crew, record_all
from colaworld.experiments.collect_episode import Recorded
from colaworld.experiments.collect_plan import Job


def job(task_id: int, steps: int = 2) -> Job:
    return Job(
        suite="libero_goal", task_id=task_id, steps=steps, kind="play", height=64, width=64, render_profile="lite"
    )


class Workers:
    """Workers that have each episode done at once, and remember whom it was given to."""

    def __init__(self, count: int) -> None:
        self.given: list[list[tuple[int, int]]] = [[] for _ in range(count)]
        self.sends = [self._sender(worker) for worker in range(count)]

    def _sender(self, worker: int):
        def send(job: Job, seed: int) -> "Future[Recorded]":
            self.given[worker].append((job.task_id, seed))
            future: Future[Recorded] = Future()
            future.set_result(Recorded(data=f"{job.task_id}/{seed}".encode(), cpu_seconds=1.0))
            return future

        return send


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_every_episode_is_recorded_once_and_comes_back_as_itself(count: int) -> None:
    tasks = [(job(task_id), seed) for task_id in range(3) for seed in range(4)]
    found = list(record_all(Workers(count).sends, tasks))
    assert sorted((each.task_id, seed) for each, seed, _ in found) == [(j.task_id, seed) for j, seed in tasks]
    assert all(episode.data == f"{each.task_id}/{seed}".encode() for each, seed, episode in found)


def test_workers_keep_their_scene_and_join_another_only_when_it_is_done() -> None:
    workers = Workers(2)
    tasks = [(job(task_id), seed) for seed in range(6) for task_id in range(4)]  # scenes interleaved
    list(record_all(workers.sends, tasks))
    stays = [[task_id for task_id, _ in groupby(given, key=lambda each: each[0])] for given in workers.given]
    assert all(len(each) == len(set(each)) for each in stays)  # no worker builds a scene twice
    assert sum(map(len, stays)) <= 4 + 1  # and only the last is built by both
    assert stays[0][0] != stays[1][0]


def test_a_worker_joins_where_most_is_left() -> None:
    workers = Workers(3)
    list(record_all(workers.sends, [(job(0), 0), (job(1, steps=50), 1), (job(1, steps=50), 2), (job(2), 3)]))
    assert [given[0][0] for given in workers.given] == [1, 1, 0]


def test_an_error_in_a_worker_comes_out_after_what_the_others_finished() -> None:
    def broken(job: Job, seed: int) -> "Future[Recorded]":
        future: Future[Recorded] = Future()
        future.set_exception(ValueError("the table fell over"))
        return future

    found = []
    with pytest.raises(ValueError, match="the table fell over"):
        for each, _, _ in record_all([broken, *Workers(1).sends], [(job(0, steps=9), 0), (job(1), 1)]):
            found.append(each.task_id)
    assert found == [1]


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_no_ray_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (f"ray://127.0.0.1:{unused_port()}", f"127.0.0.1:{unused_port()}"):
        with pytest.raises(ValueError, match=f"no Ray cluster answers at {address}"), crew(2, address):
            pass
    with pytest.raises(ValueError, match="--ray is 'local', 'auto', .* got 'moon'"), crew(2, "moon"):
        pass
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"), crew(0, "local"):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'colaworld\[ray\]'"), crew(2, "local"):
        pass
