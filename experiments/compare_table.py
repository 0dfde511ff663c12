"""Two rows on the same episodes, in numbers: who won what, rates, the paired difference, what it would take to tell.

The unit is the goal instance. Seeds of one instance share its start, its goal and its difficulty, so they are averaged
first and count as one: no interval gets narrower by playing the same instance more often than chance would have it.
With one seed all of this is the usual arithmetic of episodes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from colaworld.experiments.compare_runs import Pair
from colaworld.experiments.intervals import (
    MCNEMAR,
    SIGN_FLIPS,
    Interval,
    exact_mcnemar,
    instances_needed,
    paired_difference,
    pairs_needed,
    sign_flip_test,
    wilson,
)

CONFIDENCE = 0.95
ALPHA = 0.05
POWER = 0.8
MOST = 100_000
"""Instances that one would never play."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A against B in one category. Counts are of episodes, intervals and the test of instances, distances in metres.

    ``needed``: instances at which the test finds the observed difference with p < `ALPHA` and chance `POWER`; None
    where there is no difference, or more than `MOST` are needed. ``only_a_episodes``: (instance, seed).
    """

    category: str
    instances: int
    episodes: int
    both: int
    only_a: int
    only_b: int
    neither: int
    rate_a: Interval
    rate_b: Interval
    difference: Interval
    p_value: float
    test: str
    needed: int | None
    closest_a: float
    closest_b: float
    start: float
    only_a_episodes: list[tuple[int, int]]
    only_b_episodes: list[tuple[int, int]]

    @property
    def significant(self) -> bool:
        """By the test."""
        return self.p_value < ALPHA

    @property
    def more(self) -> int | None:
        """Instances still to be played; 0 when the difference is significant already."""
        if self.significant:
            return 0
        return None if self.needed is None else max(1, self.needed - self.instances)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "significant": self.significant, "more": self.more}


def comparisons(pairs: Sequence[Pair]) -> list[Comparison]:
    """For each category in order of appearance, then ``all`` when there is more than one."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.a["category"], []).append(pair)
    if len(groups) > 1:
        groups["all"] = list(pairs)
    return [compare_pairs(category, group) for category, group in groups.items()]


def compare_pairs(category: str, pairs: Sequence[Pair]) -> Comparison:
    """``pairs`` of one category (at least one)."""
    a, b = (np.array([bool(each["success"]) for each in side]) for side in zip(*pairs, strict=True))
    instances = sorted({pair.a["instance"] for pair in pairs})
    count = len(instances)
    member = np.array([[pair.a["instance"] == instance for pair in pairs] for instance in instances], float)
    mean = member / member.sum(axis=1, keepdims=True)  # (instances, episodes)
    only_a, only_b = (float((mean @ each).sum()) for each in (a & ~b, ~a & b))
    lead = mean @ (a.astype(float) - b)
    outcomes = exact_mcnemar(a.tolist(), b.tolist())
    clustered = count < len(pairs)
    return Comparison(
        category=category,
        instances=count,
        episodes=len(pairs),
        both=outcomes.both,
        only_a=outcomes.only_first,
        only_b=outcomes.only_second,
        neither=outcomes.neither,
        rate_a=wilson(float((mean @ a).sum()), count, CONFIDENCE),
        rate_b=wilson(float((mean @ b).sum()), count, CONFIDENCE),
        difference=paired_difference(only_a, only_b, count, CONFIDENCE),
        p_value=sign_flip_test(lead) if clustered else outcomes.p_value,
        test=SIGN_FLIPS if clustered else MCNEMAR,
        needed=pairs_needed(only_a / count, only_b / count, alpha=ALPHA, power=POWER, most=MOST)
        if np.allclose(lead, lead.round())  # seeds agree: the test is McNemar's then
        else instances_needed(lead, alpha=ALPHA, power=POWER, most=MOST),
        closest_a=float(np.median([pair.a["best_distance"] for pair in pairs])),
        closest_b=float(np.median([pair.b["best_distance"] for pair in pairs])),
        start=float(np.median([pair.a["start_distance"] for pair in pairs])),
        only_a_episodes=[_key(pair) for pair, won in zip(pairs, a & ~b, strict=True) if won],
        only_b_episodes=[_key(pair) for pair, won in zip(pairs, ~a & b, strict=True) if won],
    )


def _key(pair: Pair) -> tuple[int, int]:
    return pair.a["instance"], pair.a["seed"]
