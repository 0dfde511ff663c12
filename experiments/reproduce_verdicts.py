"""What the cells of the grid say to a claim.

A comparison is paired by seed, on the same clips. Its *gain* is by how much the first variant is better than the
second: "holds here" when the interval over seeds lies above zero, and so does the clustered one where the measure has a
number for each clip; "does not hold here" when both lie below; "no difference that matters" when neither leaves what
the claim says is too small to matter, nor does one of a measure that follows actions more closely; "cannot tell at this
n" otherwise; "has not run" while a cell that it needs has not finished or not measured it, "a run failed" where one has
ended in an error; "nothing to compare" where the two lack what the claim is about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from colaworld.experiments.intervals import Interval
from colaworld.experiments.recipes import LATENT_ACTION_STAGES
from colaworld.experiments.reproduce_cells import Cell
from colaworld.experiments.reproduce_claims import CLOSER, CLOSER_MATTER, Claim, CollapseClaim
from colaworld.experiments.reproduce_intervals import clustered_interval, t_interval
from colaworld.experiments.reproduce_measures import SAID, Measure, Source, action_use, collapsed
from colaworld.experiments.reproduce_store import StoredCell
from colaworld.experiments.reproduce_variants import VARIANTS

HOLDS, FAILS, OPEN, NOT_RUN = "holds here", "does not hold here", "cannot tell at this n", "has not run"
EMPTY, EQUAL, BROKEN = "nothing to compare", "no difference that matters", "a run failed"
Outcome = Literal[
    "holds here",
    "does not hold here",
    "no difference that matters",
    "cannot tell at this n",
    "has not run",
    "a run failed",
    "nothing to compare",
]
SAME_COMPUTE = 0.03
"""Up to this share, two numbers of FLOPs count as equal."""
Cells = Mapping[str, StoredCell]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the cells say to a claim."""

    claim: Claim | CollapseClaim
    outcome: Outcome
    why: str
    gain: Interval | None = None
    """Over seeds."""
    clustered: Interval | None = None
    """Over seeds and clips, or goals."""


def judge(claim: Claim | CollapseClaim, cells: Cells, seeds: Sequence[int]) -> Verdict:
    """The verdict on ``claim`` over ``seeds``, all of which must have finished."""
    missing = missing_cells(claim, cells, seeds)
    if missing:
        failed = [name for name in missing if name in cells]
        why = "; ".join(
            f"{said}: {', '.join(names)}"
            for said, names in (("Failed", failed), ("Has not run", [name for name in missing if name not in cells]))
            if names
        )
        return Verdict(claim=claim, outcome=BROKEN if failed else NOT_RUN, why=f"{why}.")
    if isinstance(claim, CollapseClaim):
        return _judge_collapse(claim, cells, seeds)
    if any(claim.measure.mean(_cell(cells, name, seed)) is None for name in _pair(claim) for seed in seeds):
        return Verdict(claim=claim, outcome=NOT_RUN, why=f"Not every run has measured this: {claim.measure.title}.")
    bases = claim.measure.bases(_cell(cells, name, seed) for name in _pair(claim) for seed in seeds)
    if len(bases) > 1:
        why = f"Runs measured this in ways that cannot be compared: {claim.measure.title} ({'; '.join(bases)})."
        return Verdict(claim=claim, outcome=NOT_RUN, why=why)
    if claim.needs is not None:
        floors = {name: [claim.needs.mean(_cell(cells, name, seed)) for seed in seeds] for name in _pair(claim)}
        if any(None in row for row in floors.values()):
            return Verdict(claim=claim, outcome=NOT_RUN, why=f"Not every run has measured this: {claim.needs.title}.")
        lowest = min(floors, key=lambda name: np.mean(floors[name]))
        if not (floor := float(np.mean(floors[lowest]))) > claim.least:
            said = f"{claim.needs.text(floor)} with {VARIANTS[lowest].title}, mean over seeds"
            why = f"{claim.needs.title} is {said}: {claim.empty}."
            return Verdict(claim=claim, outcome=EMPTY, why=why)
    gain, clustered = gain_intervals(claim, claim.measure, cells, seeds)
    intervals = [each for each in (gain, clustered) if each is not None]
    outcome = OPEN
    if all(each.low > 0 for each in intervals):
        outcome = HOLDS
    elif all(each.high < 0 for each in intervals):
        outcome = FAILS
    why = _sentence(claim, cells, seeds, gain)
    if outcome == OPEN and claim.smallest and _within(intervals, claim.smallest):
        unsure = _may_matter(claim, cells, seeds)
        outcome = OPEN if unsure else EQUAL
        if unsure:
            why += f" By this no difference that matters, but by others one may: {', '.join(unsure)}."
    return Verdict(claim=claim, outcome=outcome, why=why, gain=gain, clustered=clustered)


def _within(intervals: Sequence[Interval], size: float) -> bool:
    return all(max(-each.low, each.high) < size for each in intervals)


def _may_matter(claim: Claim, cells: Cells, seeds: Sequence[int]) -> list[str]:
    """The closer measures by which the two may differ by as much as matters; those that nobody measured cannot say."""
    unsure = []
    for measure in CLOSER.get(claim.measure.title, {}).values():
        intervals = [each for each in gain_intervals(claim, measure, cells, seeds) if each is not None]
        size = CLOSER_MATTER.get(measure.title)
        if size is not None and intervals and not _within(intervals, size):
            unsure.append(measure.title)
    return unsure


def missing_cells(claim: Claim | CollapseClaim, cells: Cells, seeds: Sequence[int]) -> list[str]:
    """Names of the cells that the claim needs and that have not finished; those among ``cells`` have failed."""
    names = [Cell(variant=VARIANTS[variant], seed=seed).name for variant in _pair(claim) for seed in seeds]
    return [name for name in names if name not in cells or not cells[name].finished]


def gain_intervals(
    claim: Claim, measure: Measure, cells: Cells, seeds: Sequence[int]
) -> tuple[Interval, Interval | None] | tuple[None, None]:
    """By how much the first is better by ``measure``, over seeds, and over seeds and clips where there are clips; a
    margin is included for the claim's own measure. (None, None) where a run did not measure it, or runs measured what
    cannot be compared.
    """
    values = [[measure.values(_cell(cells, name, seed)) for seed in seeds] for name in _pair(claim)]
    bases = measure.bases(_cell(cells, name, seed) for name in _pair(claim) for seed in seeds)
    if any(each is None for row in values for each in row) or len(bases) > 1:
        return None, None
    _check_clips(claim, cells, seeds)
    first, second = (np.stack(row) for row in values)
    sign = 1.0 if measure.better == "higher" else -1.0
    margin = claim.margin * abs(float(second.mean())) if measure is claim.measure else 0.0
    gains = sign * (first - second) + margin
    if gains.ndim == 1:
        return t_interval(gains), None
    return t_interval(gains.mean(axis=1)), clustered_interval(gains)


def _judge_collapse(claim: CollapseClaim, cells: Cells, seeds: Sequence[int]) -> Verdict:
    states = {name: [collapsed(_cell(cells, name, seed), claim.source) for seed in seeds] for name in _pair(claim)}
    if any(None in row for row in states.values()):
        return Verdict(claim=claim, outcome=NOT_RUN, why="Not every run has measured its codebook's health.")
    as_claimed = [first and not second for first, second in zip(*states.values(), strict=True)]
    outcome = HOLDS if all(as_claimed) else OPEN if any(as_claimed) else FAILS
    counts = "; ".join(_collapses(claim.source, name, row, cells, seeds) for name, row in states.items())
    when = "When the latent-action stages end" if claim.source == "learned" else f"Under {SAID[claim.source]}"
    return Verdict(claim=claim, outcome=outcome, why=f"{when}, {counts}.")


def _collapses(source: Source, name: str, states: Sequence[tuple[str, ...]], cells: Cells, seeds: Sequence[int]) -> str:
    """How often, by which thresholds; and whether the world model uses the codes, which no threshold says."""
    said = f"{VARIANTS[name].title}: collapsed with {sum(map(bool, states))} of {len(states)} seeds"
    reasons = dict.fromkeys(reason.replace("_", "-") for row in states for reason in row)
    measure = action_use(source)
    use = [measure.mean(_cell(cells, name, seed)) for seed in seeds]
    why = f" (by {', '.join(reasons)})" if reasons else ""
    return said + why + ("" if None in use else f", U {' / '.join(map(measure.text, use))}")


def looked_again(claim: Claim | CollapseClaim, cells: Cells, seeds: Sequence[int]) -> dict[str, Verdict]:
    """The same comparison by what follows actions more closely than PSNR ten steps on does: a world model that ignores
    its codes loses a tenth of a dB there. Chosen when the first 23 cells had run, so that for those it confirms
    nothing. Empty for claims that are decided by something else.
    """
    if not isinstance(claim, Claim):
        return {}
    return {
        title: judge(replace(claim, measure=measure, beside=(), smallest=0.0), cells, seeds)
        for title, measure in CLOSER.get(claim.measure.title, {}).items()
    }


def _sentence(claim: Claim, cells: Cells, seeds: Sequence[int], gain: Interval) -> str:
    means = [np.mean([claim.measure.mean(_cell(cells, name, seed)) for seed in seeds]) for name in _pair(claim)]
    text, titles = claim.measure.text, [VARIANTS[name].title for name in _pair(claim)]
    counted = "gain" if not claim.margin else "gain, the margin included,"
    said = (
        f"{claim.measure.title} ({claim.measure.better} is better): {titles[0]} {text(means[0])}, {titles[1]} "
        f"{text(means[1])}; {counted} {text(gain.estimate)} [{text(gain.low)}, {text(gain.high)}] over "
        f"{len(seeds)} seeds."
    )
    ratio = _compute_ratio(claim, cells, seeds)
    if np.isfinite(ratio) and abs(ratio - 1) > SAME_COMPUTE:
        said += f" Not at equal compute: {titles[0]} spent {ratio:.2f} times the FLOPs of {titles[1]}"
        said += " before the adapter."
    return said


def _compute_ratio(claim: Claim, cells: Cells, seeds: Sequence[int]) -> float:
    first, second = (np.mean([latent_flops(_cell(cells, name, seed)) for seed in seeds]) for name in _pair(claim))
    return float(first / second) if second else float("nan")


def latent_flops(stored: StoredCell) -> float:
    """Of all latent-action stages of a finished run; NaN where it did not count them."""
    flops = (stored.evaluation.get("budget") or {}).get("flops") or {}
    spent = [np.nan if value is None else value for stage, value in flops.items() if stage in LATENT_ACTION_STAGES]
    return float(np.sum(spent)) if spent else float("nan")


def total_flops(stored: StoredCell) -> float:
    """Of all stages of a finished run; NaN where it did not count them."""
    spent = stored.evaluation.get("budget", {}).get("flops") or {}
    return float(sum(spent.values())) if spent and None not in spent.values() else float("nan")


def _check_clips(claim: Claim, cells: Cells, seeds: Sequence[int]) -> None:
    runs = [_cell(cells, name, seed) for name in _pair(claim) for seed in seeds]
    for run in runs[1:]:
        for key in ("clips", "clip_seed"):
            mine, other = run.evaluation.get(key), runs[0].evaluation.get(key)
            if mine != other:
                raise ValueError(f"{run.cell} was evaluated with {key} = {mine!r}, {runs[0].cell} with {other!r}")


def _pair(claim: Claim | CollapseClaim) -> tuple[str, str]:
    return claim.first, claim.second


def _cell(cells: Cells, variant: str, seed: int) -> StoredCell:
    return cells[Cell(variant=VARIANTS[variant], seed=seed).name]
