"""What is kept of each cell of the grid: one small JSON file, all that the report and the resumption need.

``results/reproduce/<preset>/cells/<cell>.json`` holds the cell's identity (flags, hashes of data and starting weights),
its state, its ``evaluation.json`` and the watched curves of its ``metrics.jsonl``, thinned and rounded. Run folders can
be thrown away, and another machine goes on from these files.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from colaworld.experiments.episode_log import write_text
from colaworld.experiments.reproduce_cells import Cell, Scale
from colaworld.experiments.reproduce_variants import VARIANTS

FORMAT = 1
LOOKS = 40
"""Most points that are kept of a curve."""
CURVE_DIGITS, EVALUATION_DIGITS = 4, 5
"""Significant."""
PREFIX = "held_out/"


@dataclass(frozen=True, kw_only=True)
class StoredCell:
    """A cell that has run: finished with its numbers, or failed with its last error line."""

    cell: str
    variant: str
    seed: int
    identity: dict[str, Any]
    """``flags``, and SHA-256 of ``data`` and ``init``."""
    status: Literal["finished", "failed"]
    attempts: int = 1
    error: str | None = None
    made_by: dict[str, Any] = field(default_factory=dict)
    """Versions, git revision, cores and workers of the machine that ran it."""
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    """``total_step`` and the watched numbers, without their prefix."""
    evaluation: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether there are numbers."""
        return self.status == "finished"


class CellStore:
    """The files of one preset's cells in ``folder``, for a grid with these flags, data and starting weights.

    Raises ValueError for a file that is damaged, holds no cell of the grid, or holds numbers of a cell with another
    identity. What failed under another identity has no numbers, and counts as not run.
    """

    def __init__(self, folder: Path, scale: Scale, hashes: Mapping[str, str]) -> None:
        self.folder, self.scale, self.hashes = folder, scale, dict(hashes)
        self.read()

    def identity(self, cell: Cell) -> dict[str, Any]:
        """What the numbers of ``cell`` depend on."""
        return {"flags": cell.flags(self.scale), **self.hashes}

    def path(self, cell: str) -> Path:
        """The file of a cell."""
        return self.folder / f"{cell}.json"

    def read(self) -> dict[str, StoredCell]:
        """All cells by name."""
        stored = (self._read(path) for path in sorted(self.folder.glob("*.json")))
        return {cell.cell: cell for cell in stored if cell is not None}

    def get(self, cell: Cell) -> StoredCell | None:
        """What is there of ``cell`` at this moment."""
        path = self.path(cell.name)
        return self._read(path) if path.is_file() else None

    def write(self, stored: StoredCell) -> None:
        """Keep a cell; its file is whole or not there."""
        content = {"format": FORMAT, **asdict(stored)}
        dense = partial(json.dumps, allow_nan=False, separators=(",", ":"))
        lines = (f"{dense(key)}: {dense(value)}" for key, value in content.items())
        write_text(self.path(stored.cell), "{\n" + ",\n".join(lines) + "\n}\n")

    def _read(self, path: Path) -> StoredCell | None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            stored = StoredCell(**content)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a cell of this grid ({error}); remove it to run the cell again") from error
        if stored.variant not in VARIANTS or stored.cell != path.stem:
            raise ValueError(f"{path}: the grid has no cell {stored.cell!r} of variant {stored.variant!r}; remove it")
        wanted = self.identity(Cell(variant=VARIANTS[stored.variant], seed=stored.seed))
        difference = first_difference(stored.identity, wanted)
        if difference is not None and stored.finished:
            raise ValueError(f"{path}: {difference}; remove it to run the cell again")
        return stored if difference is None else None


def stored_hashes(folder: Path) -> dict[str, str]:
    """Of what the finished cells in ``folder`` started from; empty where there is none, or a file is damaged, which
    ``CellStore`` says."""
    for path in sorted(folder.glob("*.json")):
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["status"] == "finished":
                return {key: value for key, value in stored["identity"].items() if key != "flags"}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}
    return {}


def first_difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """A sentence naming the first flag or hash in which two identities differ; None when they are the same."""
    flat_stored, flat_wanted = (
        {**each.get("flags", {}), **{key: value for key, value in each.items() if key != "flags"}}
        for each in (stored, wanted)
    )
    for key in dict.fromkeys((*flat_wanted, *flat_stored)):
        if flat_stored.get(key) != flat_wanted.get(key):
            return f"made with {key} = {flat_stored.get(key)!r}, this grid has {flat_wanted.get(key)!r}"
    return None


def read_evaluation(path: Path, cell: Cell) -> dict[str, Any]:
    """A run's ``evaluation.json``, rounded. ValueError when it is missing, damaged, or of another recipe or seed."""
    if not path.is_file():
        raise ValueError(f"{path}: the run ended without it")
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    for key, wanted in (("format", 1), ("recipe", cell.variant.recipe), ("seed", cell.seed)):
        if evaluation.get(key) != wanted:
            raise ValueError(f"{path}: {key} is {evaluation.get(key)!r}, not {wanted!r}")
    return rounded(evaluation, EVALUATION_DIGITS)


def read_curves(path: Path, looks: int = LOOKS) -> dict[str, list[float | None]]:
    """The watched numbers of a run's ``metrics.jsonl``: at most ``looks`` lines of them, evenly spread, with the first
    and the last; None where a line lacks a number.
    """
    if not path.is_file():
        return {}
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if PREFIX in line)
    watched = [line for line in lines if any(key.startswith(PREFIX) for key in line)]
    count = min(looks, len(watched))
    kept = [watched[round(i * (len(watched) - 1) / max(1, count - 1))] for i in range(count)]
    keys = dict.fromkeys(key for line in kept for key in line if key.startswith(PREFIX))
    curves = {"total_step": [line["total_step"] for line in kept]}
    return curves | {key.removeprefix(PREFIX): rounded([line.get(key) for line in kept], CURVE_DIGITS) for key in keys}


def rounded(value: Any, digits: int) -> Any:
    """JSON with its floats at ``digits`` significant digits; what is not finite becomes None."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [rounded(each, digits) for each in value]
    return value
