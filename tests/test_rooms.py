"""The rooms and the doors between them: which room may import which, walked over every file's syntax tree."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOORS = {
    "planning": {"planning"},
    "models": {"models"},
    "envs": {"envs"},
    "adapters": {"adapters", "models"},
    "experiments": {"experiments", "adapters", "models", "envs", "planning"},
}
"""For each room, the rooms that it may import."""

FILES = [path for room in DOORS for path in sorted((ROOT / room).rglob("*.py"))]


def imported_names(source: str) -> Iterator[tuple[int, str]]:
    """``(line, dotted name)`` of every absolute import in ``source``; a relative import yields its leading dots too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield node.lineno, base
            if base == "colaworld":  # `from colaworld import models` is a door too
                yield from ((node.lineno, f"colaworld.{alias.name}") for alias in node.names)


def violations(room: str, source: str) -> list[str]:
    """Sentences, one for each import of ``source`` that its room's table does not allow."""
    found = []
    for line, name in imported_names(source):
        parts = name.split(".")
        if name.startswith("."):
            found.append(f"line {line}: relative import {name!r}; write the full name, colaworld.<room>.<module>")
        elif parts[0] in DOORS:
            found.append(f"line {line}: bare import of {name!r}; write colaworld.{name}")
        elif parts[0] == "colaworld" and len(parts) > 1 and parts[1] not in DOORS[room]:
            found.append(f"line {line}: {room} may not import {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_import_goes_through_a_door(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    assert not violations(room, path.read_text(encoding="utf-8"))


def test_every_room_is_there() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(DOORS)


@pytest.mark.parametrize(
    ("room", "source", "allowed"),
    [
        ("planning", "import torch\nfrom colaworld.planning.search import Plan", True),
        ("planning", "from colaworld.models import codec", False),
        ("models", "def f():\n    import colaworld.envs.libero", False),
        ("envs", "from colaworld import planning", False),
        ("adapters", "from colaworld.models.codec import Codec", True),
        ("adapters", "from colaworld.experiments.cli import main", False),
        ("experiments", "from colaworld import planning, envs", True),
        ("experiments", "import models", False),
        ("planning", "from .search import Plan", False),
    ],
)
def test_the_walk_itself_sees_what_it_should(room: str, source: str, allowed: bool) -> None:
    assert (not violations(room, source)) == allowed
