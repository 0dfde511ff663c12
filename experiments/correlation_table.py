"""Tables of how costs rank plans, from the lines of ``cost_correlation.py``.

A line holds for one goal instance ``outcomes`` ``{name: [metres, one for each plan]}`` and ``costs`` ``{cost: {future:
[value or None]}}``, None where a cost was not finite.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from colaworld.experiments.goal_measures import correlation, interval
from colaworld.experiments.report import aligned, by_category

UNDECIDED = 0.01
"""Metres between the best and the worst plan of an instance, below which it tells nothing about a cost."""
FUTURES = ("imagined", "true")


def correlations(records: Sequence[Mapping[str, Any]], outcome: str) -> list[dict[str, Any]]:
    """One entry for each category (then ``all``), cost and future: ``correlation`` over the instances that decide
    something, ``chosen``, ``mean`` and ``best`` outcome in metres, and how many were ``undecided``.

    ``model_error``, with the imagined future: by how much its correlation is below the true one's, paired.
    """
    entries = []
    for category, chosen in by_category(records).items():
        decided = [each for each in chosen if np.ptp(each["outcomes"][outcome]) >= UNDECIDED]
        for name in chosen[0]["costs"]:
            rho = {f: [_rank_correlation(each, name, f, outcome) for each in decided] for f in FUTURES}
            for future in FUTURES:
                entry = {"category": category, "cost": name, "future": future, "instances": len(decided)}
                entry["undecided"] = len(chosen) - len(decided)
                if decided:
                    entry["correlation"] = interval(rho[future])
                    entry |= _choice(decided, name, future, outcome)
                    if future == "imagined":
                        lost = np.subtract(rho["true"], rho["imagined"]).tolist()
                        entry["model_error"] = interval(lost)
                entries.append(entry)
    return entries


def table_of(entries: Sequence[Mapping[str, Any]]) -> str:
    """For a terminal."""
    header = ("category", "cost", "future", "rank correlation", "95 %", "instances", "chosen (cm)", "mean", "best")
    rows: list[Sequence[str]] = [header]
    for entry in entries:
        counted = f"{entry['instances']} (+{entry['undecided']})"
        row = [entry["category"], entry["cost"], entry["future"]]
        if "correlation" not in entry:
            rows.append([*row, "-", "-", counted, "-", "-", "-"])
            continue
        found = entry["correlation"]
        row += [f"{found['estimate']:.2f}", f"[{found['low']:.2f}, {found['high']:.2f}]" if "low" in found else "-"]
        rows.append([*row, counted, *(f"{100 * entry[name]:.1f}" for name in ("chosen", "mean", "best"))])
    return "\n".join(aligned(rows))


def _costs(record: Mapping[str, Any], name: str, future: str) -> np.ndarray:
    """With infinity for what was not finite: planners reject it."""
    return np.array([math.inf if value is None else value for value in record["costs"][name][future]])


def _rank_correlation(record: Mapping[str, Any], name: str, future: str, outcome: str) -> float:
    costs = _costs(record, name, future)
    worst = np.unique(costs, return_inverse=True)[1]  # ranks alone, so that infinities are no trouble
    return correlation(worst, record["outcomes"][outcome])


def _choice(records: Sequence[Mapping[str, Any]], name: str, future: str, outcome: str) -> dict[str, float]:
    """Means over instances, metres: what the cheapest plan (all that cost the least) came to, and the mean and the best
    of all plans."""
    found = [np.array(each["outcomes"][outcome]) for each in records]
    costs = [_costs(each, name, future) for each in records]
    cheapest = [values[each == each.min()].mean() for each, values in zip(costs, found, strict=True)]
    return {
        "chosen": float(np.mean(cheapest)),
        "mean": float(np.mean([values.mean() for values in found])),
        "best": float(np.mean([values.min() for values in found])),
    }
