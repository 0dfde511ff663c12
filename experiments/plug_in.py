"""Plug in yours: a world model, planner or objective that lies somewhere else, from ``module:factory``.

    python -m colaworld.experiments.plug_in my_module:factory                       # does it keep the laws?
    python -m colaworld.experiments.plug_in experiments/examples/delta_cnn.py:world --kwargs path=runs/delta_cnn

``docs/plug_in.md`` is the contract. What is plugged in runs as part of this process, with all its rights.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import json
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import tyro

from colaworld.experiments.cli import main
from colaworld.experiments.conformance import Finding, told
from colaworld.experiments.provenance import file_hash
from colaworld.planning.protocols import World

Kind = Literal["world", "planner", "objective"]
MARKS: Mapping[Kind, str] = {"world": "imagine", "planner": "update", "objective": "target"}
"""The method that tells what something is."""
PLACES = frozenset({"device"})
"""Arguments that say where something runs and not what it is."""
WORDS = {"True": True, "False": False, "None": None}


class PlugInError(ValueError):
    """What is wrong with a plug-in, in one sentence."""


@dataclass(frozen=True, kw_only=True)
class PluggedIn:
    """What a factory ``made``, and its ``identity``: what results that depend on it are bound to (see ``identify``)."""

    made: Any
    identity: dict[str, Any]


def is_spec(text: str) -> bool:
    """Whether ``text`` names a plug-in (``module:attribute``) and not something that ships."""
    return ":" in text


def shown(text: str) -> str:
    """A plug-in without the folders of its file, for tables and names of results; what ships as it is."""
    place, colon, name = text.rpartition(":")
    return f"{Path(place).name if place.endswith('.py') else place}{colon}{name}"


def plug_in(
    spec: str, words: tuple[str, ...] = (), *, kind: Kind, world: World | None = None, **offered: Any
) -> PluggedIn:
    """``assemble``, and examine what was made; ``world`` is the one whose latents an objective is tried on (None:
    frames).

    Raises PlugInError for whatever is wrong, broken laws above all.
    """
    plugged = assemble(spec, words, **offered)
    broken = [finding for finding in examine(plugged.made, kind, world=world) if finding.status == "fail"]
    if broken:
        each = "; ".join(f"{finding.method}: {finding.law}: {finding.message}" for finding in broken)
        raise PlugInError(f"{spec} is no {kind}: {each}")
    return plugged


def examine(made: Any, kind: Kind, *, size: int = 64, world: World | None = None) -> tuple[Finding, ...]:
    """The laws of its kind, on frames of ``size`` unless a world says its ``height`` and ``width``."""
    # Needs PyTorch, which a wrong flag should not have to wait for.
    from colaworld.experiments.conformance_planner import check_objective, check_planner
    from colaworld.experiments.conformance_world import check_world

    if kind == "planner":
        return check_planner(made)
    seen = made if kind == "world" else world
    frames = {name: getattr(seen, name, None) or size for name in ("height", "width")}
    return check_world(made, **frames) if kind == "world" else check_objective(made, world, **frames)


@cache
def assemble(spec: str, words: tuple[str, ...] = (), **offered: Any) -> PluggedIn:
    """Load ``spec`` and call it with ``words`` (``key=value``, see ``arguments_of``), once for a process.

    ``offered`` are arguments that it gets if it has parameters of those names and ``words`` do not say otherwise.
    Raises PlugInError naming what is wrong.
    """
    module, factory = load(spec)
    arguments = wanted(factory, offered) | arguments_of(words)
    check_arguments(spec, factory, arguments)
    try:
        made = factory(**arguments)
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        raise PlugInError(f"{spec} raised {told(error)}") from error
    return PluggedIn(made=made, identity=identify(spec, arguments, module, factory, made))


def load(spec: str) -> tuple[ModuleType, Callable[..., Any]]:
    """The module and the factory that ``spec`` names: ``module:attribute`` or ``path/to/file.py:attribute``.

    Modules are also looked for in the working directory, and a file's own imports beside it. Raises PlugInError.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise PlugInError(f"{spec!r} is not of the form module:attribute or path/to/file.py:attribute")
    is_path = place.endswith(".py") or "/" in place or "\\" in place
    module = _from_file(spec, Path(place)) if is_path else _from_path(spec, place)
    try:
        factory = operator.attrgetter(name)(module)
    except AttributeError as error:
        near = difflib.get_close_matches(name, [each for each in vars(module) if not each.startswith("_")])
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise PlugInError(f"{spec}: {place} has no attribute {name!r}{hint}") from error
    kind = kind_of(factory)
    if kind and not inspect.isclass(factory):
        raise PlugInError(f"{spec} is a {kind} already; name a function or class that makes one")
    if not callable(factory):
        raise PlugInError(f"{spec} is a {type(factory).__name__}, which cannot be called; name a function or class")
    return module, factory


def kind_of(thing: Any) -> Kind | None:
    """By the method that tells."""
    return next((kind for kind, mark in MARKS.items() if callable(getattr(thing, mark, None))), None)


def _from_path(spec: str, name: str) -> ModuleType:
    """An importable module."""
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise PlugInError(f"{spec}: no module named {error.name!r} here or among what is installed") from error
        raise PlugInError(f"{spec}: importing {name} raised {told(error)}") from error
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        raise PlugInError(f"{spec}: importing {name} raised {told(error)}") from error


def _from_file(spec: str, path: Path) -> ModuleType:
    """A file as a module of its own, loaded once in a process."""
    if path.suffix != ".py" or not path.is_file():
        raise PlugInError(f"{spec}: there is no Python file {path}")
    path = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    made = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(made)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        made.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        del sys.modules[name]
        raise PlugInError(f"{spec}: importing {path} raised {told(error)}") from error
    return module


def arguments_of(words: Sequence[str]) -> dict[str, Any]:
    """``("steps=3", "path=runs/a")``, or one JSON object, as keyword arguments.

    A value is read as JSON (3, 0.5, true, null, [1, 2], "quoted"), or as True, False, None; anything else is the string
    it is. Raises PlugInError naming the word that is neither.
    """
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        try:
            return json.loads(words[0], parse_constant=_no_constant)
        except ValueError as error:
            raise PlugInError(f"plug-in arguments {words[0]!r} are no JSON object: {error}") from error
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise PlugInError(f"plug-in arguments are key=value or one JSON object, got {word!r}")
        if key in found:
            raise PlugInError(f"plug-in argument {key!r} is given twice")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    if text in WORDS:
        return WORDS[text]
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def wanted(factory: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``offered`` that ``factory`` has parameters for, by name."""
    try:
        names = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some built-in ones have none
        return {}
    return {name: value for name, value in offered.items() if name in names}


def check_arguments(spec: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise PlugInError naming an argument that is missing or unknown."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise PlugInError(f"{spec}: {error}; it takes {signature}") from error


def identify(
    spec: str, arguments: Mapping[str, Any], module: ModuleType, factory: Callable[..., Any], made: Any
) -> dict[str, Any]:
    """JSON-ready: ``spec`` (of a file, its name alone), ``arguments`` (but where it runs), ``source`` (hash of the
    files that define module, factory and what it made) and ``checkpoint`` (hash of the files or folders that its
    attribute ``checkpoint`` names; None without one).
    """
    return {
        "spec": shown(spec),
        "arguments": {key: value for key, value in arguments.items() if key not in PLACES},
        "source": _digest(source_files(module, factory, made)),
        "checkpoint": _checkpoint(spec, made),
    }


def source_files(module: ModuleType, factory: Callable[..., Any], made: Any) -> set[Path]:
    """Where module, factory and the classes of ``made`` are defined; neither Python, PyTorch nor this package's own
    (their versions are told elsewhere), unless the plug-in lies there.
    """
    usual = sys.stdlib_module_names | {"torch", "colaworld"}
    classes = [each for each in type(made).__mro__ if each.__module__.partition(".")[0] not in usual]
    foreign = factory if str(getattr(factory, "__module__", "")).partition(".")[0] not in usual else module
    found = set()
    for thing in (module, foreign, *classes):
        try:
            found.add(Path(inspect.getsourcefile(thing) or ""))
        except TypeError:  # built in, or a partial
            continue
    return {path for path in found if path.is_file()}


def _checkpoint(spec: str, made: Any) -> str | None:
    named = getattr(made, "checkpoint", None)
    if named is None:
        return None
    try:
        places = [named] if isinstance(named, str | Path) else list(named)
        return _digest(Path(place) for place in places)
    except (FileNotFoundError, TypeError) as error:
        raise PlugInError(f"{spec}: checkpoint must be a path or several, got {named!r}: {error}") from error


def _digest(paths: Any) -> str:
    """Of what lies there, wherever that is."""
    return hashlib.sha256(" ".join(sorted(file_hash(path) for path in paths)).encode()).hexdigest()


def check(
    spec: tyro.conf.Positional[str], kwargs: tuple[str, ...] = (), kind: Kind | None = None, size: int = 64
) -> None:
    """Examine a world model, planner or objective of yours, and print each law with what was found.

    Args:
        spec: module:attribute or path/to/file.py:attribute, a function or class that makes it.
        kwargs: its arguments, key=value each, or one JSON object.
        kind: what it should be; told from its methods when not given.
        size: height and width in pixels of the frames it is tried on, where it does not say its own.
    """
    plugged = assemble(spec, kwargs)
    kind = kind or kind_of(plugged.made)
    if kind is None:
        names = " nor ".join(MARKS.values())
        raise PlugInError(f"{spec} made a {type(plugged.made).__name__}, which has neither {names}")
    findings = examine(plugged.made, kind, size=size)
    print(f"{spec}: {type(plugged.made).__name__}, a {kind}\n", *findings, sep="\n")
    print(f"\nidentity: {json.dumps(plugged.identity, indent=2)}")
    broken = sum(finding.status == "fail" for finding in findings)
    if broken:
        raise PlugInError(f"{spec} breaks {broken} of {len(findings)} laws")


if __name__ == "__main__":
    main(check)
