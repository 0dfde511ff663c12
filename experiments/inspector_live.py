"""The plan inspector while episodes are played: the page of ``inspector`` on the loopback address, kept up to date.

A thread answers; the evaluation only hands over references, so it never waits for a reader and no reader can break
it. Nothing outside this machine can connect, and a page of another origin is turned away by its Host header.

Addresses: ``/`` the page, ``/index.json`` the list of episodes and the tables, ``/episodes/NAME.json`` one episode
with its pictures (the running one up to its latest step), ``/events`` a word (server-sent events) whenever something
has changed.
"""

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import numpy as np

from colaworld.experiments.inspector import make_index, page, payload
from colaworld.experiments.inspector_episode import Packed, Planned, Seen, episode_name, load, pack, stored_bytes

HOST = "127.0.0.1"
HEARTBEAT = 5.0
"""Seconds after which a silent stream of events says that it is still there."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The lists of a ``Seen`` as they were, of the same frames."""

    goal: np.ndarray
    executed: tuple[np.ndarray, ...]
    distances: tuple[float, ...]
    plans: dict[int, Planned]

    def so_far(self) -> dict[str, Any]:
        """What the log would say of it."""
        seconds = [plan.seconds for plan in self.plans.values()]
        return {
            "steps": len(self.executed) - 1,
            "start_distance": self.distances[0],
            "best_distance": min(self.distances[1:], default=self.distances[0]),
            "final_distance": self.distances[-1],
            "plan_seconds": float(np.median(seconds)) if seconds else None,
        }


class LiveReport:
    """Serves what is known of the results folder ``out`` until ``close``; a context manager.

    ``records`` are the episodes finished before, ``total`` how many there will be; ``port`` 0 takes a free one. Raises
    ValueError when the port cannot be had.
    """

    def __init__(
        self,
        out: Path,
        *,
        title: str,
        records: Iterable[Mapping[str, Any]] = (),
        total: int | None = None,
        port: int = 0,
    ) -> None:
        self.out, self.title, self.total = out, title, total
        self._changed = threading.Condition()
        self._records = list(records)
        self._running: Mapping[str, Any] | None = None
        self._snapshot: Snapshot | None = None
        self._version, self._closed = 0, False
        self._packed: tuple[int, Packed] | None = None
        try:
            self._server = Server((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise ValueError(f"cannot serve on {HOST} port {port}: {error}") from error
        self._server.report = self
        self._thread = threading.Thread(target=self._server.serve_forever, name="live report", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self._server.server_port}/"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, episode: Mapping[str, Any], seen: Seen) -> None:
        """The ``episode`` (row, instance, category, scene, seed, ...) that is being played has come this far."""
        snapshot = Snapshot(
            goal=seen.goal, executed=tuple(seen.executed), distances=tuple(seen.distances), plans=dict(seen.plans)
        )
        self._change(lambda: self._show(episode, snapshot))

    def finished(self, record: Mapping[str, Any]) -> None:
        """An episode is in the log, and its files are in the results folder."""
        self._change(lambda: (self._records.append(record), self._show(None, None)))

    def close(self) -> None:
        """Stop answering."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def index(self) -> dict[str, Any]:
        """The page's index as it is now."""
        with self._changed:
            records, running, snapshot = list(self._records), self._running, self._snapshot
        names = [episode_name(record) for record in records]
        kept = [name for name in names if stored_bytes(self.out, name) is not None]
        if running is not None:
            running = {**running, **snapshot.so_far()}
        return make_index(records, title=self.title, pictures=kept, running=running, total=self.total)

    def episode(self, name: str) -> dict[str, Any] | None:
        """What the page shows of one episode; None for a name that is none."""
        with self._changed:
            known = {episode_name(record) for record in self._records}
            running, snapshot, version = self._running, self._snapshot, self._version
        if running is not None and name == episode_name(running):
            return payload(self._pack(snapshot, version))
        packed = load(self.out, name) if name in known else None
        return None if packed is None else payload(packed)

    def wait(self, version: int) -> int | None:
        """The version once it is not ``version`` any more, or after a while; None when it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._version != version, timeout=HEARTBEAT)
            return None if self._closed else self._version

    def _pack(self, snapshot: Snapshot, version: int) -> Packed:
        """Several readers ask for the same step: it is made once."""
        latest = self._packed
        if latest is None or latest[0] != version:
            latest = self._packed = (version, pack(snapshot))
        return latest[1]

    def _show(self, running: Mapping[str, Any] | None, snapshot: Snapshot | None) -> None:
        self._running, self._snapshot = running, snapshot

    def _change(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self._version += 1
            self._changed.notify_all()


class Server(ThreadingHTTPServer):
    """Its threads end with the process, and what goes wrong with one reader stays there."""

    daemon_threads = True
    block_on_close = False
    report: LiveReport

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that went away is no news for whoever reads the evaluation's progress."""


class Handler(BaseHTTPRequestHandler):
    """Answers GET."""

    server: Server

    def do_GET(self) -> None:
        """See the module."""
        report, port = self.server.report, self.server.server_port
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            return self.send_error(HTTPStatus.FORBIDDEN)
        path = self.path.partition("?")[0]
        if path == "/":
            return self._send("".join(page(report.index(), iter(()), live=True)), "text/html")
        if path == "/index.json":
            return self._send(json.dumps(report.index()), "application/json")
        if path == "/events":
            return self._events(report)
        name = path.removeprefix("/episodes/").removesuffix(".json")
        episode = report.episode(name) if path == f"/episodes/{name}.json" else None
        if episode is None:
            return self.send_error(HTTPStatus.NOT_FOUND)
        return self._send(json.dumps(episode), "application/json")

    def _send(self, text: str, kind: str) -> None:
        body = text.encode("utf-8")
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def _events(self, report: LiveReport) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        seen: int | None = 0
        while (seen := report.wait(seen)) is not None:
            self.wfile.write(f"data: {seen}\n\n".encode())
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Requests are nobody's business."""
