"""Workers as processes of this machine, each at the other end of a pipe of its own.

A pipe that ends tells both sides: the parent, that a worker died (with its exit code, to say how); a worker, that its
parent is gone or wants it gone, whereupon it exits at once, whatever it is at. (A pool of ``concurrent.futures`` breaks
as a whole when a worker dies, does not say which job killed it, and can wait for ever on half a result.)
"""

import faulthandler
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from colaworld.experiments.episode_crew import News

POLITE_SECONDS = 10.0
"""How long a worker has to leave by itself when all is done."""


class ProcessCrew:
    """``workers`` processes, started afresh (spawn), with the machine's cores shared between them.

    An ``OMP_NUM_THREADS`` in the environment says otherwise about threads.
    """

    def __init__(self, workers: int, make_player: Callable[[], Any]) -> None:
        self.seats = range(workers)
        self._make_player = make_player
        self._threads = max(1, (os.cpu_count() or 1) // workers)
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, multiprocessing.process.BaseProcess] = {}
        self._pipes: dict[int, Connection] = {}
        self._ready: set[int] = set()
        resource_tracker.ensure_running()  # it would lift the block of interrupts that the first worker starts under
        try:
            for seat in self.seats:
                self.replace(seat)
        except BaseException:
            self.end(at_once=True)
            raise

    def replace(self, seat: int) -> None:
        """Start a process for ``seat``."""
        ours, theirs = self._context.Pipe()
        self._pipes[seat] = ours
        self._processes[seat] = self._context.Process(target=_work, args=(theirs, self._make_player))
        with _environment(self._threads), _interrupts_blocked():
            self._processes[seat].start()
        theirs.close()

    def give(self, seat: int, episode: Any) -> None:
        """Send ``episode`` to the process of ``seat``; if that has died, `news` tells."""
        try:
            self._pipes[seat].send(episode)
        except ConnectionError:
            pass

    def news(self, timeout: float) -> list[News]:
        """What came through the pipes within ``timeout`` seconds."""
        seats = {id(pipe): seat for seat, pipe in self._pipes.items()}
        ready = connection.wait(list(self._pipes.values()), timeout)
        return [self._read(seats[id(pipe)]) for pipe in ready]

    def end(self, *, at_once: bool) -> None:
        """End all processes."""
        if not at_once:
            for seat in self._ready:
                self.give(seat, None)
            for seat in self._ready:
                self._processes[seat].join(POLITE_SECONDS)
        for process in self._processes.values():
            if process.pid is not None:
                process.kill()
                process.join()
        for pipe in self._pipes.values():
            pipe.close()

    def _read(self, seat: int) -> News:
        try:
            what, value = self._pipes[seat].recv()
        except (EOFError, OSError):  # the latter in the middle of a message
            process = self._processes[seat]
            process.kill()
            process.join()
            self._pipes.pop(seat).close()
            self._ready.discard(seat)
            return News(seat, "died", how(process.exitcode))
        self._ready.add(seat)
        return News(seat, what, value)


def how(exit_code: int) -> str:
    """An exit code in words: ``SIGKILL``, ``exit code 3``."""
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Variables that a process started in the block begins with: libraries read them once, when they are loaded."""
    wanted = {name: str(threads) for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS") if name not in os.environ}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            del os.environ[name]


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process started in the block is never interrupted: Ctrl-C reaches the whole group, and the parent decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- In the worker ---------------------------------------------------------------------------------------------------


def _work(pipe: Connection, make_player: Callable[[], Any]) -> None:
    """Get ready, then play what comes until None does."""
    faulthandler.enable()
    episodes: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, episodes), daemon=True).start()
    try:
        player = make_player()
        pipe.send(("ready", None))
    except Exception as error:
        pipe.send(("error", portable(error)))
        return
    while (episode := episodes.get()) is not None:
        try:
            pipe.send(("done", player(episode)))
        except Exception as error:
            pipe.send(("error", portable(error)))


def _listen(pipe: Connection, episodes: "SimpleQueue[Any]") -> None:
    try:
        while True:
            episodes.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(1)


def portable(error: Exception) -> Exception:
    """``error`` with its traceback as a note, or a RuntimeError that says the same where it cannot be pickled."""
    note = "in a worker:\n" + "".join(traceback.format_exception(error))
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:
        again = RuntimeError(f"{type(error).__name__}: {error}")
    again.add_note(note)
    return again
