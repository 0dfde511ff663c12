"""Play episodes side by side: in this process, in processes beside it, or in actors of a Ray cluster.

Each worker makes its own player (tasks, world, policies) from one picklable callable and then plays one episode at a
time. An episode's chance is its own, so results do not depend on who plays it. What a player returns comes back as a
value: the parent alone writes files, and a cluster needs no shared disk.

A worker that dies costs the episode that it was at: it is given to another one. An episode whose workers died
`ATTEMPTS` times is given up and reported; the others go on. An exception in a player is a bug or bad input, not a
death: it is raised here after what else is finished has been kept.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

ATTEMPTS = 3
"""Workers that an episode may cost, and workers in a row that may die before they are ready."""
WAIT_SECONDS = 1.0
"""How often ``on_wait`` is called while nothing happens."""


class Episode(Hashable, Protocol):
    """What is given to a worker: picklable, and no two are equal."""

    @property
    def name(self) -> str:
        """For people: "reach 12, planner, seed 0"."""

    @property
    def scene(self) -> str:
        """Episodes of one scene are best played by one worker: building a scene takes seconds."""


EpisodeT = TypeVar("EpisodeT", bound=Episode)
Player = Callable[[EpisodeT], Any]


class Lost(NamedTuple):
    """An episode that was given up, and how each of its workers died."""

    episode: Any
    deaths: tuple[str, ...]


class WorkersDied(RuntimeError):
    """Workers die before they are ready to play anything."""


class News(NamedTuple):
    """What came from the worker in ``seat``: it is ready, has done (the result), met an error (the exception), or
    died (how)."""

    seat: int
    what: Literal["ready", "done", "error", "died"]
    value: Any = None


class Crew(Protocol):
    """Workers in numbered seats, each of which is getting ready, waits for an episode, or plays one."""

    seats: Sequence[int]

    def give(self, seat: int, episode: Any) -> None:
        """Have the waiting worker of ``seat`` play ``episode``."""

    def news(self, timeout: float) -> list[News]:
        """What has happened, after at most ``timeout`` seconds; maybe nothing."""

    def replace(self, seat: int) -> None:
        """A new worker for ``seat``, whose old one has died."""

    def end(self, *, at_once: bool) -> None:
        """End all workers; ``at_once``: whatever they are at."""


def play_all(
    episodes: Sequence[EpisodeT],
    make_player: Callable[[], Player[EpisodeT]],
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    gpu: bool = False,
    on_record: Callable[[EpisodeT, Any], None],
    on_wait: Callable[[Sequence[EpisodeT]], None] = lambda running: None,
) -> list[Lost]:
    """Have every one of ``episodes`` played; returns those that were given up, in order.

    Args:
        episodes: to be played; the order is kept only by one worker.
        make_player: makes a worker's player; picklable unless this process plays, as a function of a module or a
            ``functools.partial`` of one are.
        workers: how many; None: one, or as many as the Ray cluster has CPUs. One without Ray is this process itself,
            which does not survive what kills it.
        ray_address: of a Ray cluster: ``auto``, ``host:port``, ``ray://host:port``, ``local`` for one here.
        gpu: whether Ray has to give each worker (a share of) a GPU.
        on_record: called with an episode and what its player returned, as each is finished, in this process.
        on_wait: called about once a second with the episodes that are being played (not in this process).

    Raises ValueError for ``workers`` below 1 or no Ray cluster at the address, WorkersDied when `ATTEMPTS` workers in a
    row die before they are ready, and what a player raises. However this ends, so do the workers, at once.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if not episodes:
        return []
    if ray_address is None and workers in (None, 1):
        player = make_player()
        for episode in episodes:
            on_record(episode, player(episode))
        return []
    with _crew(workers, len(episodes), ray_address, gpu, make_player) as crew:
        return drive(crew, episodes, on_record=on_record, on_wait=on_wait)


@contextmanager
def _crew(
    workers: int | None, most: int, ray_address: str | None, gpu: bool, make_player: Callable[[], Any]
) -> Iterator[Crew]:
    crew: Crew
    if ray_address is None:
        from colaworld.experiments.episode_crew_processes import ProcessCrew

        crew = ProcessCrew(min(workers or 1, most), make_player)
    else:
        from colaworld.experiments.episode_crew_ray import RayCrew

        crew = RayCrew(workers, ray_address, make_player, most=most, gpu=gpu)
    try:
        yield crew
    except BaseException:
        crew.end(at_once=True)
        raise
    crew.end(at_once=False)


def drive(
    crew: Crew,
    episodes: Sequence[EpisodeT],
    *,
    on_record: Callable[[EpisodeT, Any], None],
    on_wait: Callable[[Sequence[EpisodeT]], None],
) -> list[Lost]:
    """Hand ``episodes`` to ``crew`` until each is played or given up; see `play_all`."""
    queue = SceneQueue(episodes)
    idle: set[int] = set()
    running: dict[int, EpisodeT] = {}
    deaths: dict[EpisodeT, list[str]] = {}
    unready = 0
    while queue or running:
        for seat in sorted(idle):
            episode = queue.take(seat)
            if episode is not None:
                idle.remove(seat)
                running[seat] = episode
                crew.give(seat, episode)
        on_wait(list(running.values()))
        finished: list[tuple[EpisodeT, Any]] = []
        errors: list[Exception] = []
        for seat, what, value in crew.news(WAIT_SECONDS):
            episode = running.pop(seat, None)
            if what == "ready":
                unready = 0
            elif what == "done":
                finished.append((episode, value))
            elif what == "error":
                errors.append(value)
            elif episode is None:
                unready += seat not in idle
                if unready == ATTEMPTS:
                    errors.append(WorkersDied(f"{ATTEMPTS} workers in a row died while they got ready, by {value}"))
            else:
                deaths.setdefault(episode, []).append(value)
                if len(deaths[episode]) < ATTEMPTS:
                    queue.put_back(episode)
            if what == "died":
                idle.discard(seat)
                queue.leave(seat)
                if not errors and (queue or running):
                    crew.replace(seat)
            else:
                idle.add(seat)
        for episode, result in finished:
            on_record(episode, result)
        if errors:
            raise errors[0]
    return [Lost(each, tuple(deaths[each])) for each in episodes if len(deaths.get(each, ())) == ATTEMPTS]


def describe_lost(lost: Sequence[Lost]) -> str:
    """One sentence that names what was given up."""
    names = "; ".join(f"{each.episode.name} ({', '.join(each.deaths)})" for each in lost)
    count = f"{len(lost)} episode{'s' if len(lost) > 1 else ''}"
    return f"{count} given up, each after {ATTEMPTS} workers died of it: {names}"


class SceneQueue:
    """Episodes that wait, by scene: a worker keeps its scene for as long as there are any, then joins where most are
    left for each worker."""

    def __init__(self, episodes: Sequence[Any]) -> None:
        self._waiting: dict[str, deque[Any]] = {}
        for episode in episodes:
            self.put_back(episode)
        self._at: dict[int, str] = {}

    def __bool__(self) -> bool:
        return any(self._waiting.values())

    def put_back(self, episode: Any) -> None:
        """Last of its scene."""
        self._waiting.setdefault(episode.scene, deque()).append(episode)

    def leave(self, seat: int) -> None:
        """The worker of ``seat`` holds no scene any more."""
        self._at.pop(seat, None)

    def take(self, seat: int) -> Any | None:
        """The next episode for the worker of ``seat``; None when none waits."""
        if not self._waiting.get(self._at.get(seat, "")):
            self.leave(seat)
            others = Counter(self._at.values())
            left = {scene: len(waiting) for scene, waiting in self._waiting.items() if waiting}
            if not left:
                return None
            self._at[seat] = max(left, key=lambda scene: left[scene] / (1 + others[scene]))
        return self._waiting[self._at[seat]].popleft()
