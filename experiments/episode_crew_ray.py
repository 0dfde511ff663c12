"""Workers as actors of a Ray cluster, each with its share of the CPUs; each node has colaworld installed.

Ray starts a node's processes with as many threads as an actor has CPUs, unless that node's ``OMP_NUM_THREADS`` says
otherwise. An actor whose process or node is lost is not restarted by Ray: the driver asks for a new one, which may be
elsewhere.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from colaworld.experiments.episode_crew import News
from colaworld.experiments.ray_cluster import connected

LOCAL_CPUS = 2
"""Of a cluster started here for an unsaid number of workers."""


class RayCrew:
    """``workers`` actors of the cluster at ``address`` (None: one for each of its CPUs), but not more than ``most``.

    Raises ValueError for a cluster that is not there, or has too few CPUs or no GPU.
    """

    def __init__(
        self, workers: int | None, address: str, make_player: Callable[[], Any], *, most: int, gpu: bool
    ) -> None:
        self._ray = connected(workers or LOCAL_CPUS, address)
        try:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            cpus = [int(node.get("CPU", 0)) for node in nodes]
            count = workers or sum(cpus)
            if not 1 <= count <= sum(cpus):
                raise ValueError(f"the Ray cluster at {address} has {sum(cpus)} CPUs, too few for --workers {count}")
            count = min(count, most)
            needs: dict[str, float] = {"num_cpus": cpus_each(cpus, count)}
            if gpu:
                gpus = sum(int(node.get("GPU", 0)) for node in nodes)
                if not gpus:
                    raise ValueError(f"the Ray cluster at {address} has no GPU")
                needs["num_gpus"] = 1 / math.ceil(count / gpus)
            self.seats = range(count)
            self._make_player = make_player
            self._actor = self._ray.remote(max_restarts=0, max_task_retries=0, **needs)(_Actor)
            self._actors: dict[int, Any] = {}
            self._asked: dict[Any, tuple[int, str]] = {}
            for seat in self.seats:
                self.replace(seat)
        except BaseException:
            self._ray.shutdown()
            raise

    def replace(self, seat: int) -> None:
        """Ask for an actor for ``seat``."""
        self._actors[seat] = self._actor.remote()
        self._asked[self._actors[seat].prepare.remote(self._make_player)] = (seat, "ready")

    def give(self, seat: int, episode: Any) -> None:
        """Have the actor of ``seat`` play."""
        self._asked[self._actors[seat].play.remote(episode)] = (seat, "done")

    def news(self, timeout: float) -> list[News]:
        """Which actors have answered within ``timeout`` seconds, or will never."""
        if not self._asked:
            return []
        ready, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=timeout)
        return [self._answer(reference) for reference in ready]

    def end(self, *, at_once: bool) -> None:
        """Leave the cluster, which ends the actors whatever they are at; one that was started here ends too."""
        self._ray.shutdown()

    def _answer(self, reference: Any) -> News:
        seat, what = self._asked.pop(reference)
        errors = self._ray.exceptions
        try:
            return News(seat, what, self._ray.get(reference))
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error))
            return News(seat, "error", cause)
        except errors.RayError as error:  # its process or its node is gone, or does not answer
            self._ray.kill(self._actors[seat])
            return News(seat, "died", type(error).__name__)


class _Actor:
    """One worker."""

    def prepare(self, make_player: Callable[[], Any]) -> None:
        self._player = make_player()

    def play(self, episode: Any) -> Any:
        return self._player(episode)


def cpus_each(nodes: Sequence[int], workers: int) -> int:
    """The most CPUs that each of ``workers`` can have, on ``nodes`` of so many CPUs, none of them split over two."""
    return max(each for each in range(1, max(nodes) + 1) if sum(cpus // each for cpus in nodes) >= workers)
