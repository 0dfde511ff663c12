"""Processes with a simulator each: one thread, one scene at a time, gone when their parent is.

Building a scene takes seconds and holds hundreds of MiB, so a process keeps the one it used last, and only that.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from colaworld.envs.libero import LiberoEnv


@contextmanager
def simulator_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of ``workers`` processes; an error in the block drops what has not begun yet."""
    pool = new_pool(workers)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def new_pool(workers: int) -> ProcessPoolExecutor:
    """A pool that its owner shuts down."""
    one_thread()
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_the_parent
    )


def one_thread() -> None:
    """Keep software GL and BLAS of this process and its children to one thread: each simulator has one core."""
    for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


_open: dict[tuple[Any, ...], LiberoEnv] = {}


def only_environment(**settings: Any) -> LiberoEnv:
    """This process's ``LiberoEnv(**settings)``, the one at hand where it was made so; else the old one goes first."""
    key = tuple(sorted(settings.items()))
    if key not in _open:
        while _open:
            _open.popitem()[1].close()
        _open[key] = LiberoEnv(**settings)
    return _open[key]


def _end_with_the_parent() -> None:
    """A killed parent cannot tell its workers, and they would go on for as long as they have work."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
