"""Set two evaluations against each other, episode by episode::

    python experiments/compare.py runs/one runs/other             # results folders, or their summary.json
    python experiments/compare.py runs/one runs/one --row-b random
    python experiments/compare.py A/summary.json B/summary.json --shared --json difference.json

Both have to have played the same goal instances and seeds, of the same manifest, in simulators that behave alike; what
is not so is named and nothing is compared.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from colaworld.experiments import cli
from colaworld.experiments.compare_runs import Side, different_settings, pair_up, read_side, unknown_simulators
from colaworld.experiments.compare_table import ALPHA, CONFIDENCE, MOST, POWER, Comparison, comparisons
from colaworld.experiments.episode_log import write_json
from colaworld.experiments.intervals import Interval
from colaworld.experiments.report import aligned

METHODS = {
    "rates": "Wilson",
    "difference": "Bonett and Price's adjusted Wald interval for paired rates",
    "test": "exact McNemar; with several seeds, sign flips of each instance's difference",
    "needed": "exact power of the exact McNemar test at the observed rates",
    "unit": "goal instance: seeds of one instance are averaged first",
}
HEADER = (
    "category", "both won", "only A", "only B", "neither", "A", "B", "A - B", "p", "more needed", "closest (cm) A / B"
)  # fmt: skip
SHOWN = 12
"""How many episodes a line names."""


def compare(
    a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")],
    b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")],
    row: str = "planner",
    row_a: str | None = None,
    row_b: str | None = None,
    shared: bool = False,
    json: Path | None = None,
) -> None:
    """Compare row by row what two evaluations reached on the same episodes.

    Args:
        a: a results folder of vp2_eval.py, or its summary.json (episodes.jsonl beside it).
        b: the other one; may be the same, with another row.
        row: which row of both: planner, random, expert, ...
        row_a: A's row, where it is another.
        row_b: B's row, where it is another.
        shared: whether to compare the episodes that both have, where one has more.
        json: also write all numbers to this file.
    """
    sides = read_side(a, row_a or row), read_side(b, row_b or row)
    pairs = pair_up(*sides, shared=shared)
    table = comparisons(pairs)
    print("\n".join(text(*sides, table, unknown=unknown_simulators(pairs))))
    if json is not None:
        write_json(json, as_json(*sides, table))
        print(f"\nnumbers: {json}")


def text(a: Side, b: Side, table: Sequence[Comparison], *, unknown: int) -> list[str]:
    """Lines for a terminal."""
    whole = table[-1]
    lines = [f"A: {a.name}, {a.path}", f"B: {b.name}, {b.path}"]
    if a.row == b.row:
        changed = different_settings(a, b)
        lines.append("A and B differ in: " + ("; ".join(map(_change, changed)) if changed else "no setting"))
    seeds = len({seed for _, seed in a.episodes.keys() & b.episodes.keys()})
    manifest = f" of {a.settings['manifest']}" if "manifest" in a.settings else ""
    lines.append(
        f"Played by both: {_count(whole.episodes, 'episode')}, {_count(whole.instances, 'instance')}{manifest}, "
        f"{_count(seeds, 'seed')}"
    )
    if unknown:
        lines.append(f"In {unknown} of them a side recorded no simulator, so that likeness is not checked there.")
    lines += ["", *aligned([HEADER, *map(_row, table)]), "", _verdict(whole)]
    for won, episodes in (("A", whole.only_a_episodes), ("B", whole.only_b_episodes)):
        if episodes:
            lines.append(f"Only {won} won: {_named(episodes, seeds)}")
    return [*lines, "", *_methods(table)]


def _methods(table: Sequence[Comparison]) -> list[str]:
    several = any(each.episodes > each.instances for each in table)
    lines = [
        f"[ ]: {100 * CONFIDENCE:.0f} % intervals, Wilson's for A and B, Bonett and Price's (paired) for A - B.",
        f"p: two-sided {'test by sign flips of instances' if several else 'exact McNemar test'}. It decides where the "
        "interval of A - B, an approximation, says otherwise.",
        f"more needed: instances besides these with which that test gives p < {ALPHA} with {100 * POWER:.0f} % chance, "
        "were the rates as here.",
        "closest: the median of how near an episode came to its goal, of the median distance at its start.",
    ]
    if len(table) > 1:
        lines.append("Of several categories some differ by chance: p is not corrected for how many there are.")
    if several:
        lines.append(
            "Seeds of one instance are not independent: they are averaged first; intervals, test and needs count "
            "instances."
        )
    return lines


def _row(each: Comparison) -> tuple[str, ...]:
    counts = (each.both, each.only_a, each.only_b, each.neither)
    return (
        each.category,
        *map(str, counts),
        _percent(each.rate_a),
        _percent(each.rate_b),
        _percent(each.difference, sign="+"),
        f"{each.p_value:.2g}",
        _more(each),
        f"{100 * each.closest_a:.1f} / {100 * each.closest_b:.1f} of {100 * each.start:.1f}",
    )


def _percent(interval: Interval, sign: str = "") -> str:
    values = (interval.estimate, interval.low, interval.high)
    estimate, low, high = (f"{round(100 * value) + 0:{sign}d}" for value in values)
    return f"{estimate} % [{low}, {high}]"


def _more(each: Comparison) -> str:
    if each.difference.estimate == 0:
        return "-"
    return f"over {MOST:,}" if each.more is None else str(each.more)


def _verdict(each: Comparison) -> str:
    better = "A" if each.difference.estimate > 0 else "B"
    of = "" if each.category == "all" else f" at {each.category}"
    if each.significant:
        return f"{better} is better{of} (p = {each.p_value:.2g})."
    if each.difference.estimate == 0:
        return f"No difference was seen{of}, so no number of episodes would confirm one."
    more = f"more than {MOST:,}" if each.needed is None else f"{each.needed}"
    return (
        f"{better} was ahead{of}, but not by enough to tell (p = {each.p_value:.2g}): a difference like this needs "
        f"{more} instances, here are {each.instances}."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _named(episodes: Sequence[tuple[int, int]], seeds: int) -> str:
    names = [str(index) if seeds == 1 else f"{index} (seed {seed})" for index, seed in episodes]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"instance{'s' if len(names) > 1 else ''} {', '.join(names[:SHOWN])}{more}"


def _change(changed: tuple[str, Any, Any]) -> str:
    name, one, other = (each[:12] if isinstance(each, str) and len(each) == 64 else each for each in changed)
    return f"{name} {one} / {other}"


def as_json(a: Side, b: Side, table: Sequence[Comparison]) -> dict[str, Any]:
    """All numbers."""
    return {
        **{
            name: {"path": str(side.path), "row": side.row, "settings": dict(side.settings)}
            for name, side in (("a", a), ("b", b))
        },
        "confidence": CONFIDENCE,
        "alpha": ALPHA,
        "power": POWER,
        "methods": METHODS,
        "table": [each.as_dict() for each in table],
    }


if __name__ == "__main__":
    cli.main(compare)
