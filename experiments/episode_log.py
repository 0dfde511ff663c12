"""A run folder that survives being killed: one JSON line per finished episode, and what they depend on beside them.

``run.json`` holds, for each row of the table, everything that its episodes depend on; running again with another
setting into the same folder is an error, running again with the same goes on where it stopped. Every table is
computed from ``episodes.jsonl``.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colaworld.envs.whole_file import whole_file

Key = tuple[str, int, int]
"""(row, instance, seed)."""


class EpisodeLog:
    """Finished episodes of ``folder``, which is made if it is not there.

    ``settings[row]`` is what the row's episodes depend on. Raises ValueError when the folder holds episodes of a row
    made with other settings (naming the first that differs), or a damaged line before the last one.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder = folder
        self.path = folder / "episodes.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        settings = json.loads(json.dumps(settings))
        kept = self._known_settings()
        for row in settings.keys() & kept.keys():
            check_same(folder, row, kept[row], settings[row])
        self._records = self._read()
        write_json(folder / "run.json", {"rows": {**kept, **settings}})

    def __contains__(self, key: Key) -> bool:
        return key in self._records

    def __len__(self) -> int:
        return len(self._records)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one finished episode; it is on disk when this returns."""
        line = json.dumps(record, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._records[key_of(record)] = json.loads(line)

    def records(self, keys: set[Key]) -> list[dict[str, Any]]:
        """The finished episodes among ``keys``, in the order they were run."""
        return [record for key, record in self._records.items() if key in keys]

    def _known_settings(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        return read_settings(path) if path.exists() else {}

    def _read(self) -> dict[Key, dict[str, Any]]:
        """Episodes so far. A last line that was cut off by a kill is dropped from the file, so that appending goes on
        cleanly.
        """
        if not self.path.exists():
            return {}
        records, whole = read_lines(self.path)
        if whole is not None:
            write_text(self.path, whole)
        return records


def read_settings(path: Path) -> dict[str, Any]:
    """What the episodes of each row depend on, by the ``run.json`` at ``path``; ValueError when it is damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); name another --out") from error


def read_lines(path: Path) -> tuple[dict[Key, dict[str, Any]], str | None]:
    """The episodes of an ``episodes.jsonl``, in the order they were run, and, where its last line was cut off by a
    kill, the text without that line. Raises ValueError for a damaged line before the last one.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    records: dict[Key, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            key = key_of(record)
            if not line.endswith("\n"):
                raise ValueError("the line has no end")
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, is damaged ({error}); name another --out") from error
            return records, "".join(lines[:-1])
        records.setdefault(key, record)
    return records, None


def key_of(record: Mapping[str, Any]) -> Key:
    """What tells one episode from another."""
    return str(record["row"]), int(record["instance"]), int(record["seed"])


def check_same(folder: Path, row: str, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first setting of ``row`` that is not what ``folder`` was made with."""
    for name in sorted(kept.keys() | wanted.keys()):
        if kept.get(name) != wanted.get(name):
            raise ValueError(
                f"{folder} holds {row} episodes made with {name} = {kept.get(name)!r}, "
                f"this run has {wanted.get(name)!r}; name another --out"
            )


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """JSON, whole or not at all; without an ``indent`` on one line."""
    separators = (",", ":") if indent is None else None
    write_text(path, json.dumps(content, indent=indent, separators=separators) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
