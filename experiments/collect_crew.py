"""Who records: this process, processes beside it, or actors of a Ray cluster, all behind one callable for each.

A worker is ``send(job, seed) -> Future[Recorded]``. Finished episodes come back as bytes, so a cluster needs no shared
disk; the driver alone writes files. ``record_all`` gives each worker episodes of the scene that it has built for as
long as there are any.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager

from colaworld.experiments.collect_episode import Recorded, recorded
from colaworld.experiments.collect_plan import Job
from colaworld.experiments.ray_cluster import connected
from colaworld.experiments.simulator_processes import one_thread, simulator_pool

Send = Callable[[Job, int], "Future[Recorded]"]


@contextmanager
def crew(workers: int | None, ray_address: str | None) -> Iterator[list[Send]]:
    """The workers; when the block ends they are gone, without waiting for what they were at if it ends badly.

    ``workers``: how many; None means two, or as many as the Ray cluster at ``ray_address`` has CPUs.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if ray_address is not None:
        with _ray_actors(workers, ray_address) as sends:
            yield sends
    elif workers == 1:
        yield [_at_once]
    else:
        with _processes(workers or 2) as sends:
            yield sends


def record_all(sends: Sequence[Send], tasks: Sequence[tuple[Job, int]]) -> Iterator[tuple[Job, int, Recorded]]:
    """Every episode of ``tasks`` as it gets finished; an error in a worker is raised here."""
    queues: dict[str, list[tuple[Job, int]]] = {}
    for job, seed in tasks:
        queues.setdefault(job.scene, []).append((job, seed))
    held: dict[int, str] = {}
    running: dict[Future[Recorded], tuple[int, Job, int]] = {}

    def hand_out(worker: int) -> None:
        scene = held.get(worker)
        if not queues.get(scene or ""):
            held.pop(worker, None)
            scene = next_scene(queues, Counter(held.values()))
        if scene is not None:
            held[worker] = scene
            job, seed = queues[scene].pop(0)
            running[sends[worker](job, seed)] = (worker, job, seed)

    for worker in range(len(sends)):
        hand_out(worker)
    while running:
        done = wait(running, return_when=FIRST_COMPLETED).done
        for future in sorted(done, key=lambda each: each.exception() is not None):  # what succeeded is kept first
            worker, job, seed = running.pop(future)
            yield job, seed, future.result()
            hand_out(worker)


def next_scene(queues: dict[str, list[tuple[Job, int]]], workers_at: Counter[str]) -> str | None:
    """Where a free worker helps most: the scene with the most steps left for each worker, itself included."""
    left = {scene: sum(job.steps for job, _ in queue) for scene, queue in queues.items() if queue}
    return max(left, key=lambda scene: left[scene] / (1 + workers_at[scene]), default=None)


def _at_once(job: Job, seed: int) -> "Future[Recorded]":
    future: Future[Recorded] = Future()
    future.set_result(recorded(job, seed))
    return future


@contextmanager
def _processes(count: int) -> Iterator[list[Send]]:
    """A pool of one for each worker, so that the driver decides which process gets an episode."""
    with ExitStack() as stack:
        yield [_sender(stack.enter_context(simulator_pool(1))) for _ in range(count)]


def _sender(pool: ProcessPoolExecutor) -> Send:
    return lambda job, seed: pool.submit(recorded, job, seed)


# ---- Ray -------------------------------------------------------------------------------------------------------------


class _Recorder:
    """What runs as an actor; its process has colaworld installed and a core of its own."""

    def __init__(self) -> None:
        one_thread()

    def record(self, job: Job, seed: int) -> Recorded:
        return recorded(job, seed)


@contextmanager
def _ray_actors(workers: int | None, address: str) -> Iterator[list[Send]]:
    ray = connected(workers or 2, address)
    try:
        cpus = int(ray.cluster_resources().get("CPU", 0))
        count = workers or cpus
        if not 1 <= count <= cpus:
            raise ValueError(f"the Ray cluster at {address} has {cpus} CPUs, too few for --workers {count}")
        # A lost node costs the episodes that it was at: Ray starts the actor elsewhere and sends them again.
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=2)(_Recorder)
        actors = [actor.remote() for _ in range(count)]
        yield [_ray_sender(each) for each in actors]
    finally:
        ray.shutdown()


def _ray_sender(actor: object) -> Send:
    return lambda job, seed: actor.record.remote(job, seed).future()
