"""Who plays what: the same results by any number of workers, and what becomes of those that die."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from colaworld.experiments import episode_crew_ray
from colaworld.experiments.episode_crew import ATTEMPTS, SceneQueue, WorkersDied, describe_lost, play_all
from colaworld.experiments.episode_crew_ray import cpus_each

HERE = Path(__file__).parent


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch):
    """The module of toy players, which workers find too: they get this process's path."""
    monkeypatch.syspath_prepend(str(HERE))
    import episode_crew_toys

    return episode_crew_toys


class Kept:
    """Collects what was recorded."""

    def __init__(self) -> None:
        self.results: dict[int, dict] = {}

    def __call__(self, toy, result) -> None:
        assert toy.number == result["number"] and toy.number not in self.results
        self.results[toy.number] = result

    @property
    def values(self) -> dict[int, float]:
        return {number: result["value"] for number, result in sorted(self.results.items())}

    @property
    def pids(self) -> set[int]:
        return {result["pid"] for result in self.results.values()}


def gone(pid: int, seconds: float = 20) -> bool:
    """Whether the process ends (or is a zombie that nobody waits for) within ``seconds``."""
    for _ in range(int(seconds / 0.05)):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def alone(toys, numbers) -> dict[int, float]:
    kept = Kept()
    assert play_all([toys.Toy(number) for number in numbers], toys.make_player, on_record=kept) == []
    assert kept.pids == {os.getpid()}, "one worker is this process"
    return kept.values


@pytest.mark.parametrize("workers", [2, 3])
def test_results_do_not_depend_on_the_number_of_workers(workers: int, toys) -> None:
    kept, heard = Kept(), []
    episodes = [toys.Toy(number) for number in range(6)]
    lost = play_all(episodes, toys.make_player, workers=workers, on_record=kept, on_wait=heard.append)
    assert lost == [] and kept.values == alone(toys, range(6))
    assert os.getpid() not in kept.pids and 1 <= len(kept.pids) <= workers
    assert any(heard) and all(len(running) <= workers for running in heard)
    assert all(gone(pid) for pid in kept.pids)


def test_planned_episodes_are_the_same_in_two_processes(toys, spot_tasks) -> None:
    jobs = [
        toys.SpotJob(instance, row, seed)
        for instance in spot_tasks().instances[:3]
        for row in ("planner", "random", "expert")
        for seed in (0, 1)
    ]
    results: dict[int, dict] = {}
    for workers in (1, 2):
        play_all(jobs, toys.make_spot_player, workers=workers, on_record=results.setdefault(workers, {}).__setitem__)
    assert results[1] == results[2] and len(results[2]) == len(jobs)
    planned = [result["actions"] for job, result in results[2].items() if job.row == "planner"]
    assert len({str(actions) for actions in planned}) == len(planned), "chance is the episode's own"


def test_cores_are_shared_unless_the_environment_says_otherwise(toys, monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> set[str]:
        kept = Kept()
        play_all([toys.Toy(0), toys.Toy(1)], toys.make_player, workers=2, on_record=kept)
        return {result["threads"] for result in kept.results.values()}

    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads() == {"5"}
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads() == {"3"}
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_killed_worker_costs_no_episode(toys, tmp_path) -> None:
    kept = Kept()
    episodes = [toys.Toy(number, "dies once" if number == 2 else "play", str(tmp_path)) for number in range(6)]
    assert play_all(episodes, toys.make_player, workers=2, on_record=kept) == []
    assert (tmp_path / "began_2").exists() and kept.values == alone(toys, range(6))


def test_an_episode_that_kills_its_workers_is_given_up_by_name(toys, tmp_path) -> None:
    kept = Kept()
    episodes = [toys.Toy(number, "poison" if number == 1 else "play", str(tmp_path)) for number in range(5)]
    lost = play_all(episodes, partial(toys.make_player, str(tmp_path)), workers=2, on_record=kept)
    assert [(each.episode.number, each.deaths) for each in lost] == [(1, ("SIGKILL",) * ATTEMPTS)]
    assert kept.values == alone(toys, (0, 2, 3, 4))
    assert describe_lost(lost).startswith("1 episode given up, each after 3 workers died of it: toy 1 (SIGKILL")
    # Those two, and a new one for each death that left something to do.
    assert len(list(tmp_path.glob("worker_*"))) <= 2 + ATTEMPTS


def test_an_error_in_a_player_is_raised_after_what_is_finished(toys) -> None:
    kept = Kept()
    episodes = [toys.Toy(0), toys.Toy(2), toys.Toy(4, "error"), toys.Toy(6), toys.Toy(8)]  # one scene, in turn
    with pytest.raises(FloatingPointError, match="all 32 candidates") as caught:
        play_all(episodes, toys.make_player, workers=2, on_record=kept)
    assert {0, 2} & set(kept.results), "what came before is kept"
    assert "in a worker" in caught.value.__notes__[0] and "toys.py" in caught.value.__notes__[0]
    assert all(gone(pid) for pid in kept.pids)


def test_workers_that_cannot_get_ready_are_one_error(toys, tmp_path) -> None:
    episodes = [toys.Toy(number) for number in range(3)]
    with pytest.raises(FileNotFoundError, match="there are no weights"):
        play_all(episodes, partial(toys.make_player, birth="fails"), workers=2, on_record=Kept())
    with pytest.raises(WorkersDied, match="3 workers in a row died while they got ready, by SIGKILL"):
        play_all(episodes, partial(toys.make_player, str(tmp_path), "dies"), workers=2, on_record=Kept())
    assert len(list(tmp_path.glob("worker_*"))) <= ATTEMPTS + 1, "it does not go on for ever"


PARENT = """
import sys
sys.path.insert(0, {here!r})
from functools import partial
from colaworld.experiments.episode_crew import play_all
from episode_crew_toys import Toy, make_player

def run():
    episodes = [Toy(0), Toy(1), Toy(2, "long", {folder!r}), Toy(3, "long", {folder!r})]
    record = lambda toy, result: print(toy.number, flush=True)
    play_all(episodes, partial(make_player, {folder!r}), workers=2, on_record=record)

if __name__ == "__main__":
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_parent_takes_its_workers_along_at_once(sent: signal.Signals, tmp_path) -> None:
    """As by Ctrl-C, which the whole group gets, in a shell."""
    script, group = tmp_path / "parent.py", sent is signal.SIGINT
    script.write_text(PARENT.format(here=str(HERE), folder=str(tmp_path)))
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background are begun without it
    )
    assert sorted(parent.stdout.readline() for _ in range(2)) == ["0\n", "1\n"]
    while len(list(tmp_path.glob("began_*"))) < 2:
        assert parent.poll() is None
        time.sleep(0.02)
    (os.killpg if group else os.kill)(parent.pid, sent)
    errors = parent.communicate(timeout=60)[1]
    workers = [int(path.name.rpartition("_")[2]) for path in tmp_path.glob("worker_*")]
    assert len(workers) == 2 and all(gone(pid) for pid in workers)
    assert "Traceback" not in errors
    assert parent.returncode == (130 if group else -sent)


def test_workers_keep_their_scene_and_then_join_where_most_is_left(toys) -> None:
    queue = SceneQueue([toys.Toy(number) for number in (0, 2, 4, 6, 1)])
    assert queue.take(0).number == 0 and queue.take(1).number == 2, "three are left with one there, one with none"
    assert [queue.take(1).number, queue.take(0).number, queue.take(0).number] == [4, 6, 1]
    assert queue.take(0) is None and not queue
    queue.put_back(toys.Toy(2))
    assert queue and queue.take(1).number == 2


def test_no_workers_and_no_cluster_are_one_sentence(toys) -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        play_all([toys.Toy(0)], toys.make_player, workers=0, on_record=Kept())
    with pytest.raises(ValueError, match="--ray is 'local', 'auto', .* got 'moon'"):
        play_all([toys.Toy(0)], toys.make_player, ray_address="moon", on_record=Kept())
    assert play_all([], toys.make_player, workers=2, on_record=Kept()) == []


def test_a_ray_cluster_plays_the_same_and_outlives_its_dead(toys, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))  # as on every node, what players are made of has to be there
    kept = Kept()
    kinds = {1: "poison", 2: "dies once"}
    episodes = [toys.Toy(number, kinds.get(number, "play"), str(tmp_path)) for number in range(5)]
    lost = play_all(episodes, toys.make_player, workers=2, ray_address="local", on_record=kept)
    assert [each.episode.number for each in lost] == [1] and len(lost[0].deaths) == ATTEMPTS
    assert kept.values == alone(toys, (0, 2, 3, 4))
    assert os.getpid() not in kept.pids and all(gone(pid) for pid in kept.pids)
    assert not ray.is_initialized(), "the crew leaves the cluster"


def test_cpus_of_a_cluster_are_shared_without_splitting_a_worker_over_nodes() -> None:
    assert cpus_each([8], 2) == 4 and cpus_each([8], 3) == 2 and cpus_each([8], 8) == 1
    assert cpus_each([3, 3], 2) == 3 and cpus_each([2, 2, 2], 2) == 2 and cpus_each([4, 16], 2) == 8


def test_an_error_on_a_cluster_is_the_players_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not Ray's, whose text is a traceback; on a cluster of nothing that answers with an error at once."""

    def get(reference):
        raise ray.exceptions.RayTaskError("play", "traceback", FloatingPointError("all 32 candidates are NaN"))

    play = SimpleNamespace(remote=lambda argument: object())
    actor = SimpleNamespace(prepare=play, play=play)
    cluster = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}],
        remote=lambda **needs: lambda made: SimpleNamespace(remote=lambda: actor),
        wait=lambda references, **settings: (references[:1], references[1:]),
        get=get,
        exceptions=ray.exceptions,
        shutdown=lambda: None,
    )
    monkeypatch.setattr(episode_crew_ray, "connected", lambda cpus, address: cluster)
    with pytest.raises(FloatingPointError, match="^all 32 candidates are NaN$"):
        play_all([SimpleNamespace(name="a", scene="b")], list, ray_address="auto", on_record=print)
    with pytest.raises(ValueError, match="the Ray cluster at auto has 2 CPUs, too few for --workers 3"):
        play_all([SimpleNamespace(name="a", scene="b")], list, workers=3, ray_address="auto", on_record=print)
    with pytest.raises(ValueError, match="the Ray cluster at auto has no GPU"):
        play_all([SimpleNamespace(name="a", scene="b")], list, ray_address="auto", gpu=True, on_record=print)
