"""Runs of ``vp2_eval.py`` as they lie on disk, and whether their episodes may be set against each other."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from colaworld.experiments.episode_log import read_lines, read_settings

SAME = ("mujoco", "robosuite", "render_profile", "height", "width", "frame_skip", "max_steps")
"""Settings without which two episodes of one instance are not the same task; compared where both runs name them."""
SHOWN = 8
"""How many episodes an error names."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One row of one run: where it is, what its episodes depend on, and they by (instance, seed)."""

    path: Path
    row: str
    settings: Mapping[str, Any]
    episodes: Mapping[tuple[int, int], Mapping[str, Any]]

    @property
    def name(self) -> str:
        """For people: "planner (cem)"."""
        planners = dict.fromkeys(str(each["planner"]) for each in self.episodes.values() if each.get("planner"))
        return f"{self.row} ({', '.join(planners)})" if planners else self.row


class Pair(NamedTuple):
    """An episode as A and as B played it."""

    a: Mapping[str, Any]
    b: Mapping[str, Any]


def read_side(path: Path, row: str) -> Side:
    """Row ``row`` of the run at ``path``: a results folder (finished or not), or its ``summary.json`` with
    ``episodes.jsonl`` beside it; ``NAME_summary.json`` has ``NAME_episodes.jsonl``.

    Raises FileNotFoundError for a file that is missing, ValueError for a damaged one and for a row that is not there.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if path.is_dir():
        episodes, described = path / "episodes.jsonl", path / "run.json"
        if not described.exists():
            described = path / "summary.json"
    else:
        prefix = path.name.removesuffix("summary.json")
        if prefix == path.name:
            raise ValueError(f"{path} is neither a results folder nor a summary.json")
        episodes, described = path.with_name(f"{prefix}episodes.jsonl"), path
    for file in (described, episodes):
        if not file.is_file():
            raise FileNotFoundError(f"there is no {file}")
    settings = read_settings(described) if described.name == "run.json" else _summary_settings(described)
    records = read_lines(episodes)[0].values()
    chosen = {(each["instance"], each["seed"]): each for each in records if each["row"] == row}
    if row not in settings or not chosen:
        there = ", ".join(dict.fromkeys(each["row"] for each in records)) or "none"
        raise ValueError(f"{path} has no episodes of row {row!r}; its rows: {there}")
    for key, record in chosen.items():
        for field in ("category", "success", "best_distance", "start_distance"):
            if field not in record:
                raise ValueError(f"{episodes}: the {row} episode {episode_name(key)} has no {field!r}")
    return Side(path=path, row=row, settings=settings[row], episodes=chosen)


def _summary_settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a summary of vp2_eval.py ({type(error).__name__}: {error})") from error


def pair_up(a: Side, b: Side, *, shared: bool) -> list[Pair]:
    """The episodes of both by (instance, seed); with ``shared`` those that only one has are left out.

    Raises ValueError, naming both sides, for different manifests, tasks or simulators, and for episodes that only one
    has.
    """
    check_same_tasks(a, b)
    only_a, only_b = (sorted(x.episodes.keys() - y.episodes.keys()) for x, y in ((a, b), (b, a)))
    both = sorted(a.episodes.keys() & b.episodes.keys())
    if not both:
        raise ValueError(f"{a.path} and {b.path} have no episode (instance and seed) in common")
    if (only_a or only_b) and not shared:
        missing = "; ".join(f"only {side.path} has {_some(keys)}" for side, keys in ((a, only_a), (b, only_b)) if keys)
        raise ValueError(f"not every episode was played by both: {missing}; --shared compares the {len(both)} of both")
    pairs = [Pair(a.episodes[key], b.episodes[key]) for key in both]
    check_same_simulators(a, b, pairs)
    return pairs


def check_same_tasks(a: Side, b: Side) -> None:
    """Raise ValueError when the manifests differ by their hash, or a setting of the episodes does."""
    for name in ("manifest_sha256", "manifest"):
        one, other = a.settings.get(name), b.settings.get(name)
        if one is None and other is None:
            continue
        if one != other:
            raise ValueError(
                f"different goal manifests: {a.path} was played on {_manifest(a)}, {b.path} on {_manifest(b)}"
            )
        break
    for name in SAME:
        one, other = a.settings.get(name), b.settings.get(name)
        if one is not None and other is not None and one != other:
            raise ValueError(f"not the same task: {a.path} has {name} = {one!r}, {b.path} has {other!r}")


def check_same_simulators(a: Side, b: Side, pairs: Iterable[Pair]) -> None:
    """Raise ValueError for the first pair whose simulators' fingerprints differ in what both of them state."""
    for pair in pairs:
        one, other = pair.a.get("simulator") or {}, pair.b.get("simulator") or {}
        for name in one.keys() & other.keys():
            if None not in (one[name], other[name]) and one[name] != other[name]:
                raise ValueError(
                    f"different simulators: in scene {pair.a.get('scene')} {a.path} has {name} = {one[name]!r}, "
                    f"{b.path} has {other[name]!r}"
                )


def unknown_simulators(pairs: Sequence[Pair]) -> int:
    """Of how many pairs a side says nothing of its simulator, as runs did before there were fingerprints."""
    return sum(not pair.a.get("simulator") or not pair.b.get("simulator") for pair in pairs)


def different_settings(a: Side, b: Side) -> list[tuple[str, Any, Any]]:
    """(name, A's, B's) of each setting that differs, for two rows of one kind; a setting that one lacks is None."""
    one, other = _flat(a.settings), _flat(b.settings)
    return [(name, one.get(name), other.get(name)) for name in {**one, **other} if one.get(name) != other.get(name)]


def episode_name(key: tuple[int, int]) -> str:
    """For people."""
    return f"{key[0]} (seed {key[1]})"


def _manifest(side: Side) -> str:
    return f"{side.settings.get('manifest')} ({str(side.settings.get('manifest_sha256', 'no hash'))[:12]})"


def _some(keys: Sequence[tuple[int, int]]) -> str:
    names = ", ".join(episode_name(key) for key in keys[:SHOWN])
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} episode{'s' if len(keys) > 1 else ''}, instance {names}{more}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
