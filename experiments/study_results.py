"""What a study has come to, in numbers: ``summary.json``.

A *row* is a recipe, a policy that plans nothing, or the simulator. Rates have Wilson intervals, for each seed of the
training by itself. Two recipes are compared on the same episodes, seed by seed (exact McNemar) and over all seeds,
where an instance's seeds are averaged first (sign flips). *Reachable* is what the simulator reached as world model
with the state's own distance as cost, the *ceiling* what it reached with the planners' own; the share that a recipe
reaches of either is a ratio of rates over the same instances, with a bootstrap over instances. What the adapter costs
a recipe is compared on the same clips.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap

from colaworld.experiments.compare_runs import Pair, Side, pair_up, read_side
from colaworld.experiments.compare_table import Comparison, comparisons
from colaworld.experiments.intervals import Interval, wilson
from colaworld.experiments.provenance import distinct, git_revision, versions
from colaworld.experiments.report import by_category, success_table
from colaworld.experiments.study_measures import drops_of, models_of, more_lost

SNAPPED = "cem-snapped"
PLANNERS = ("cem", "mppi", SNAPPED)
"""Of learned models; the last is CEM with the adapter's answers snapped to codes."""
BASE, CODEC, ENCODED, ROLLOUTS = "base", "codec", "encoded", "rollouts"
FLOORS, SIMULATOR, CEILING = "floors", "simulator", "ceiling"
CORRELATIONS, CORRELATION = "correlations", "correlation.json"
EVALUATION, METRICS = "evaluation.json", "metrics.jsonl"
BAR = 0.977
"""Of what is reachable: the paper's figure for goal reaching on LIBERO (43 of 44)."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What lies in a study's folder of runs. ``plays`` by (row, planner, seed); planner and seed None for the rows that
    have none; ``evaluations`` by (recipe, seed); ``correlations``, tables of ``cost_correlation.py``, by run."""

    runs: Path
    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    plays: Mapping[tuple[str, str | None, int | None], Side]
    evaluations: Mapping[tuple[str, int], Mapping[str, Any]]
    correlations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rolled: bool = False
    kept: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        runs: Path,
        recipes: Sequence[str],
        seeds: Sequence[int],
        *,
        rolled: bool = False,
        kept: Mapping[str, Path] | None = None,
    ) -> "Study":
        """All that is there so far; ``rolled``: of systems that went on on their rollouts; ``kept``: by name, the logs
        that results have of trainings whose folders are gone.

        ValueError when nothing has been played.
        """
        plays, evaluations = {}, {}
        systems = runs / ROLLOUTS if rolled else runs
        for recipe in recipes:
            for seed in seeds:
                if report := _evaluation(systems / f"{recipe}-s{seed}", runs / f"{recipe}-s{seed}"):
                    evaluations[recipe, seed] = report
                for planner in PLANNERS:
                    if side := _side(runs / "plays" / f"{recipe}-s{seed}-{planner}", "planner"):
                        plays[recipe, planner, seed] = side
        for row in ("inverse", "random", "expert"):
            if side := _side(runs / "plays" / FLOORS, row):
                plays[row, None, None] = side
        for row in (SIMULATOR, CEILING):
            if side := _side(runs / "plays" / row, "planner"):
                plays[row, "cem", None] = side
        if not plays:
            raise ValueError(f"{runs / 'plays'}: nothing has been played yet")
        names = [f"{recipe}-s{seed}" for seed in seeds for recipe in recipes]
        paths = {name: runs / CORRELATIONS / name / CORRELATION for name in names}
        correlations = {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}
        return cls(
            runs=runs,
            recipes=tuple(recipes),
            seeds=tuple(seeds),
            plays=plays,
            evaluations=evaluations,
            correlations=correlations,
            rolled=rolled,
            kept=kept or {},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the trained systems."""
        return tuple(f"{recipe}-s{seed}" for recipe in self.recipes for seed in self.seeds)

    @property
    def logs(self) -> dict[str, Path]:
        """By name what was logged of each training: in its folder, or, where that is gone, what results kept of it."""
        folders = {name: self.runs / name for name in (CODEC, BASE, *self.names)}
        if self.rolled:
            folders |= {rollouts_of(name): self.runs / ROLLOUTS / name for name in self.names}
        found = {name: folder / METRICS for name, folder in folders.items()}
        found = {name: path if path.is_file() else self.kept.get(name, path) for name, path in found.items()}
        return {name: path for name, path in found.items() if path.is_file()}

    def play(self, row: str, planner: str, seed: int) -> Side | None:
        """A row's episodes: a recipe's with this planner and seed of the training; others have one set of them."""
        if row in self.recipes:
            return self.plays.get((row, planner, seed))
        return self.plays.get((row, "cem" if row in (SIMULATOR, CEILING) else None, None))


def rollouts_of(name: str) -> str:
    """What a system's training on its rollouts is called."""
    return f"{ROLLOUTS}-{name}"


def _evaluation(system: Path, run: Path) -> dict[str, Any] | None:
    """Of the system that plays; its seed, what its training spent, and what was before its adapter are of the ``run``
    that it comes from. None where there is none yet."""
    if not (system / EVALUATION).is_file():
        return None
    report = json.loads((system / EVALUATION).read_text())
    trained = json.loads((run / EVALUATION).read_text()) if (run / EVALUATION).is_file() else {}
    return report | {name: trained[name] for name in ("seed", "budget", "before_adapter") if name in trained}


def _side(folder: Path, row: str) -> Side | None:
    """A row's episodes; None where it has none yet."""
    if not (folder / "run.json").is_file() or not (folder / "episodes.jsonl").is_file():
        return None
    try:
        return read_side(folder, row)
    except ValueError as error:
        if "has no episodes of row" in str(error):
            return None
        raise


def rows_of(study: Study) -> list[dict[str, Any]]:
    """A line for each row, planner, seed and category (then ``all``)."""
    return [
        {
            "row": row,
            "planner": planner,
            "category": entry["category"],
            "seed": seed,
            "successes": entry["successes"],
            "episodes": entry["episodes"],
            "rate": entry["rate"],
            "interval": [entry["wilson_low"], entry["wilson_high"]],
            "seconds_per_plan": entry["seconds_per_plan"],
            "median_best_distance": entry["median_best_distance"],
        }
        for (row, planner, seed), side in study.plays.items()
        for entry in success_table(list(side.episodes.values()))
    ]


def pairs_of(
    study: Study, first: str, second: str, planner: str, seeds: Sequence[int], *, against: str | None = None
) -> list[Pair]:
    """The episodes that both recipes have played, of all ``seeds`` that both were trained with, the second with planner
    ``against`` (None: the same); ``seed`` of a record is the training's. Another row than a recipe has one set of
    episodes, which stands beside each of the seeds."""
    found = []
    for seed in seeds:
        sides = [study.play(first, planner, seed), study.play(second, against or planner, seed)]
        if None not in sides and sides[0].episodes.keys() & sides[1].episodes.keys():
            pairs = pair_up(*sides, shared=True)
            found += [Pair({**a, "seed": seed}, {**b, "seed": seed}) for a, b in pairs]
    return found


def comparisons_of(study: Study) -> list[dict[str, Any]]:
    """The recipes with each other, the first with what plans nothing, and answers snapped to codes with those that are
    not, by planner: each seed, then (``seed`` None) all of them where there are several, on what all have played.
    ``trainings``: how many seeds both have."""
    first, lines = study.recipes[0], []
    for planner in PLANNERS:
        asked = [(one, other, planner) for one, other in combinations(study.recipes, 2)]
        asked += [(first, other, planner) for other in ("inverse", "random")]
        asked += [(recipe, recipe, "cem") for recipe in study.recipes if planner == SNAPPED]
        for one, other, against in asked:
            by_seed = {seed: pairs_of(study, one, other, planner, (seed,), against=against) for seed in study.seeds}
            by_seed = {seed: pairs for seed, pairs in by_seed.items() if pairs}
            groups: list[tuple[int | None, list[Pair]]] = list(by_seed.items())
            if len(by_seed) > 1:
                everywhere = set.intersection(*({each.a["instance"] for each in pairs} for pairs in by_seed.values()))
                together = [pair for pairs in by_seed.values() for pair in pairs if pair.a["instance"] in everywhere]
                groups += [(None, together)] if together else []
            for seed, pairs in groups:
                trainings = 1 if seed is not None else len(by_seed)
                name = other if against == planner else f"{other}, {against}"
                told = {"first": one, "second": name, "planner": planner, "seed": seed, "trainings": trainings}
                lines += [told | _said(each) for each in comparisons(pairs)]
    return lines


def _said(each: Comparison) -> dict[str, Any]:
    kept = ("category", "instances", "episodes", "both", "only_a", "only_b", "neither", "p_value", "test", "needed")
    whole = each.as_dict()
    said = {name.replace("only_a", "only_first").replace("only_b", "only_second"): whole[name] for name in kept}
    return said | {"difference": whole["difference"], "shown": each.significant}


def reachable(study: Study, row: str, *, of: str = SIMULATOR, seed: int = 0) -> list[dict[str, Any]]:
    """How much of what the simulator (or the row ``of``) reached the row reached with CEM, by category: a ratio of
    rates over the instances that both played (its seeds averaged), with a percentile bootstrap over instances; None
    where the other reached nothing or there are fewer than two instances. A recipe's share of what is reachable is
    held against the bar, which no luck meets: where the row missed nothing that is reachable, which no resample would
    do either, the share is at least what Wilson's interval says of so many successes in as many goals."""
    pairs = pairs_of(study, row, of, "cem", study.seeds)
    lines = []
    for category, chosen in by_category([{**pair.a, "true": pair.b["success"]} for pair in pairs]).items():
        instances = sorted({each["instance"] for each in chosen})
        mine, true = (
            np.array([np.mean([each[name] for each in chosen if each["instance"] == number]) for number in instances])
            for name in ("success", "true")
        )
        share = _share(mine, true, seed)
        line = {
            "category": category,
            "instances": len(instances),
            "trainings": len({each["seed"] for each in chosen}) if row in study.recipes else 1,
            "reached": float(mine.mean()),
            "reachable": float(true.mean()),
            "share": None if share is None else asdict(share),
        }
        if of == SIMULATOR and row in study.recipes:
            line["bar"] = None if share is None else _against_bar(share)
        lines.append(line)
    return lines


def _share(mine: np.ndarray, true: np.ndarray, seed: int) -> Interval | None:
    if len(mine) < 2 or not true.any():
        return None

    def ratio(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        below = b.mean(axis=axis)
        return np.where(below > 0, a.mean(axis=axis) / np.maximum(below, 1e-12), np.nan)

    estimate = float(ratio(mine, true, 0))
    if np.ptp(mine - estimate * true) < 1e-9:  # the same of every goal that is reachable: resampling would see no other
        rate = wilson(float(mine[true > 0].sum()), int((true > 0).sum()))
        return Interval(estimate=estimate, low=rate.low, high=rate.high)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # of resamples in which nothing is reachable
        drawn = bootstrap(
            (mine, true),
            ratio,
            paired=True,
            vectorized=True,
            n_resamples=9999,
            method="percentile",
            rng=np.random.default_rng(seed),
            batch=1000,
        ).bootstrap_distribution
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    if not (mine < true).any():
        low = min(low, wilson(count := int((true > 0).sum()), count).low)
    return Interval(estimate=estimate, low=float(low), high=float(high))


def _against_bar(share: Interval) -> str:
    return "met" if share.low >= BAR else "missed" if share.high < BAR else "not shown"


def planning_drops_of(study: Study, *, seed: int = 0) -> list[dict[str, Any]]:
    """What snapping the adapter's answers to codes costs each other recipe in goals beyond what it costs the first, as
    a share of goals (above 0: the first loses less): trainings averaged, over goals that all have played.
    """
    lost: dict[str, dict[int, list[float]]] = {}
    for recipe in study.recipes:
        for pair in pairs_of(study, recipe, recipe, "cem", study.seeds, against=SNAPPED):
            lost.setdefault(recipe, {}).setdefault(pair.a["instance"], []).append(
                float(pair.a["success"]) - float(pair.b["success"])
            )
    first, lines = study.recipes[0], []
    for second in study.recipes[1:]:
        goals = sorted(lost.get(first, {}).keys() & lost.get(second, {}).keys())
        if len(goals) > 1:
            mine, other = (np.array([np.mean(lost[recipe][goal]) for goal in goals]) for recipe in (first, second))
            said = {"lost_first": float(mine.mean()), "lost_second": float(other.mean())}
            said |= more_lost(other - mine, seed=seed)
            lines.append({"first": first, "second": second, "goals": len(goals), **said})
    return lines


def summary_of(study: Study, commands: Sequence[str]) -> dict[str, Any]:
    """Everything for ``summary.json``."""
    sides = list(study.plays.values())
    records = [record for side in sides for record in side.episodes.values()]
    manifests = sorted({(side.settings["manifest"], side.settings["manifest_sha256"]) for side in sides})
    if len(manifests) > 1:
        raise ValueError(f"{study.runs / 'plays'}: episodes of different manifests, {manifests}")
    return {
        "manifest": manifests[0][0],
        "manifest_sha256": manifests[0][1],
        "rows": rows_of(study),
        "comparisons": comparisons_of(study),
        "bar": BAR,
        "reachable": {row: reachable(study, row) for row in (*study.recipes, CEILING)},
        "of_ceiling": {row: reachable(study, row, of=CEILING) for row in study.recipes},
        "models": models_of(study),
        "drops": drops_of(study),
        "planning_drops": planning_drops_of(study),
        "correlations": dict(study.correlations),
        "settings": {f"{side.path.name}/{side.row}": dict(side.settings) for side in sides},
        "simulators": distinct(record.get("simulator") for record in records),
        "versions": versions(),
        "git_revision": git_revision(),
        "commands": list(commands),
    }
