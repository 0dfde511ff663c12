"""The paper's claims, each with the one comparison that decides it here.

A comparison is paired by seed, on the same clips. Its *gain* is by how much the first variant is better than the
second: "holds here" when the interval over seeds lies above zero, and so does the clustered one where the measure has a
number for each clip; "does not hold here" when both lie below; "cannot tell at this n" otherwise; "has not run" while a
cell that it needs has not finished; "nothing to compare" where the two lack what the claim is about. Recipes are
compared as their latent-action stages leave them, before the adapter stage; what the adapter costs, and how one plans
over real actions, is compared after it. Other measures of the same comparison are shown and decide nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from colaworld.experiments.intervals import Interval
from colaworld.experiments.reproduce_cells import Cell
from colaworld.experiments.reproduce_intervals import clustered_interval, t_interval
from colaworld.experiments.reproduce_measures import (
    CLOSEST,
    COSINE,
    COSINE_GAIN,
    NEXT_FRAME,
    PROBE,
    PROBE_GAIN,
    SAID,
    SUCCESS,
    USE,
    USE_AFTER,
    Measure,
    Source,
    collapsed,
    drop,
    health,
    video,
)
from colaworld.experiments.reproduce_store import StoredCell
from colaworld.experiments.reproduce_variants import VARIANTS

HOLDS, FAILS, OPEN, NOT_RUN = "holds here", "does not hold here", "cannot tell at this n", "has not run"
EMPTY = "nothing to compare"
Outcome = Literal["holds here", "does not hold here", "cannot tell at this n", "has not run", "nothing to compare"]
Cells = Mapping[str, StoredCell]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """``first`` is better than ``second`` by ``measure``."""

    text: str
    first: str
    second: str
    measure: Measure
    margin: float = 0.0
    """For "no worse than": how much worse than the second's mean still counts as no worse, as a share of it."""
    needs: Measure | None = None
    """What must be above ``least`` in both, by their means over seeds, else there is nothing to compare."""
    least: float = 0.0
    empty: str = ""
    """What it means when it is not."""
    beside: tuple[Measure, ...] = ()
    """Measures of the same comparison that are shown and decide nothing."""


@dataclass(frozen=True, kw_only=True)
class CollapseClaim:
    """With every seed the codebook of ``first`` has collapsed and that of ``second`` has not."""

    text: str
    first: str
    second: str
    source: Source = "learned"
    """What gives the codes."""


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


_FAR, _ADAPTED = video("learned", "psnr", 10), video("adapter", "psnr", 10)
_ALSO = (video("learned", "psnr", 1), video("learned", "ssim", 10), video("learned", "frechet", 10), USE)
_ALSO_ADAPTED = (video("adapter", "psnr", 1), video("adapter", "ssim", 10), video("adapter", "frechet", 10))


CLOSER = (USE, NEXT_FRAME, video("learned", "frechet", 10))
"""Measures of ``looked_again``."""


def _predicts_better(text: str, second: str, *also: Measure) -> Claim:
    return Claim(text=text, first="cola", second=second, measure=_FAR, beside=(*_ALSO, *also))


def _plans_better(text: str, first: str, second: str) -> Claim:
    return Claim(text=text, first=first, second=second, measure=SUCCESS, beside=(CLOSEST, COSINE, COSINE_GAIN))


def _cost(metric: str, horizon: int) -> Measure:
    return drop(metric, horizon, "snapped_adapter")


def _costs_less(text: str, first: str, second: str) -> Claim:
    return Claim(
        text=text,
        first=first,
        second=second,
        measure=_cost("psnr", 10),
        needs=USE_AFTER,
        least=0.01,
        empty="a model that makes no use of its codes has nothing to lose",
        beside=(_cost("psnr", 1), _cost("ssim", 10), _cost("frechet", 10), health("adapter", "entropy")),
    )


CLAIMS: tuple[Claim | CollapseClaim, ...] = (
    CollapseClaim(
        text="Without a warm-up the codebook collapses, with one it does not.", first="no_warmup", second="cola"
    ),
    CollapseClaim(
        text="The same, against a run without warm-up whose commitment loss has its full weight from the first step.",
        first="no_warmup_no_ramp",
        second="cola",
    ),
    _predicts_better("Warm-up, then joint training beats no warm-up at equal steps.", "no_warmup"),
    _predicts_better(
        "The same, against a run without warm-up whose commitment loss has its full weight from the first step.",
        "no_warmup_no_ramp",
    ),
    _predicts_better("Both parts free beats a LAM frozen after the warm-up.", "frozen_lam"),
    _predicts_better("Both parts free beats a world model frozen after the warm-up.", "frozen_world"),
    _predicts_better("The world model's gradient to the LAM matters.", "no_grad_to_lam"),
    _predicts_better("The gradient to the world model matters.", "no_grad_to_world"),
    Claim(
        text="CoLA's codes are as linearly readable as two-stage's (L1 no more than 5 % above).",
        first="cola",
        second="two_stage",
        measure=PROBE,
        margin=0.05,
        needs=PROBE_GAIN,
        empty="codes that tell a linear layer no more than a constant does are equally unreadable",
    ),
    _costs_less(
        "Going from the IDM's codes to the adapter's costs CoLA less than two-stage.",
        "cola",
        "two_stage",
    ),
    _costs_less(
        "The same, with the paper's adapter: two layers over the action, which regress and are snapped to codes.",
        "regressing_adapter",
        "two_stage_regressing_adapter",
    ),
    CollapseClaim(
        text="Driven by the paper's adapter, two-stage loses its codes and CoLA does not.",
        first="two_stage_regressing_adapter",
        second="regressing_adapter",
        source="adapter",
    ),
    _predicts_better("CoLA predicts better than two-stage at equal steps.", "two_stage"),
    _predicts_better("CoLA predicts better than two-stage at equal compute.", "two_stage_compute"),
    Claim(
        text="With 1 % of the action labels, an adapter on latent actions beats real actions as conditioning.",
        first="cola_labels_1",
        second="real_actions_labels_1",
        measure=_ADAPTED,
        beside=_ALSO_ADAPTED,
    ),
    Claim(
        text="With 10 % of the action labels, an adapter on latent actions beats real actions as conditioning.",
        first="cola_labels_10",
        second="real_actions_labels_10",
        measure=_ADAPTED,
        beside=_ALSO_ADAPTED,
    ),
    *(
        _predicts_better(f"VQ codes predict better than {title}.", second, _ADAPTED, *_ALSO_ADAPTED)
        for second, title in (
            ("continuous", "continuous latent actions"),
            ("fsq", "FSQ"),
            ("simvq", "SimVQ"),
            ("residual_vq", "residual VQ"),
        )
    ),
    _plans_better("CoLA plans better than two-stage at equal steps.", "cola", "two_stage"),
    _plans_better(
        "With 1 % of the action labels, latent actions plan better than real actions.",
        "cola_labels_1",
        "real_actions_labels_1",
    ),
    _plans_better(
        "An adapter that sees frames plans better than two layers over the action alone.", "cola", "plain_adapter"
    ),
)


def judge(claim: Claim | CollapseClaim, cells: Cells, seeds: Sequence[int]) -> Verdict:
    """The verdict on ``claim`` over ``seeds``, all of which must have finished."""
    missing = missing_cells(claim, cells, seeds)
    if missing:
        return Verdict(claim=claim, outcome=NOT_RUN, why=f"Has not run: {', '.join(missing)}.")
    if isinstance(claim, CollapseClaim):
        return _judge_collapse(claim, cells, seeds)
    if any(claim.measure.mean(_cell(cells, name, seed)) is None for name in _pair(claim) for seed in seeds):
        return Verdict(claim=claim, outcome=NOT_RUN, why=f"Not every run has measured this: {claim.measure.title}.")
    bases = claim.measure.bases(_cell(cells, name, seed) for name in _pair(claim) for seed in seeds)
    if len(bases) > 1:
        why = f"Runs measured this in ways that cannot be compared: {claim.measure.title} ({'; '.join(bases)})."
        return Verdict(claim=claim, outcome=NOT_RUN, why=why)
    if claim.needs is not None:
        floors = {name: _mean(claim.needs, cells, name, seeds) for name in _pair(claim)}
        lowest = min(floors, key=lambda name: (not np.isnan(floors[name]), floors[name]))
        if not floors[lowest] > claim.least:
            said = "not measured" if np.isnan(floors[lowest]) else claim.needs.text(floors[lowest])
            why = f"{claim.needs.title} is {said} with {VARIANTS[lowest].title}, mean over seeds: {claim.empty}."
            return Verdict(claim=claim, outcome=EMPTY, why=why)
    gain, clustered = gain_intervals(claim, claim.measure, cells, seeds)
    intervals = [each for each in (gain, clustered) if each is not None]
    outcome = OPEN
    if all(each.low > 0 for each in intervals):
        outcome = HOLDS
    elif all(each.high < 0 for each in intervals):
        outcome = FAILS
    return Verdict(
        claim=claim, outcome=outcome, why=_sentence(claim, cells, seeds, gain), gain=gain, clustered=clustered
    )


def missing_cells(claim: Claim | CollapseClaim, cells: Cells, seeds: Sequence[int]) -> list[str]:
    """Names of the cells that the claim needs and that have not finished, with why."""
    names = [Cell(variant=VARIANTS[variant], seed=seed).name for variant in _pair(claim) for seed in seeds]
    unfinished = [name for name in names if name not in cells or not cells[name].finished]
    return [f"{name} (failed)" if name in cells else name for name in unfinished]


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
    states = {
        name: [collapsed(_cell(cells, name, seed), claim.source) for seed in seeds] for name in _pair(claim)
    }
    if any(None in row for row in states.values()):
        return Verdict(claim=claim, outcome=NOT_RUN, why="Not every run has measured its codebook's health.")
    as_claimed = [first and not second for first, second in zip(*states.values(), strict=True)]
    outcome = HOLDS if all(as_claimed) else OPEN if any(as_claimed) else FAILS
    counts = "; ".join(_collapses(name, row, cells, seeds) for name, row in states.items())
    when = "When the latent-action stages end" if claim.source == "learned" else f"Under {SAID[claim.source]}"
    return Verdict(claim=claim, outcome=outcome, why=f"{when}, {counts}.")


def _collapses(name: str, states: Sequence[tuple[str, ...]], cells: Cells, seeds: Sequence[int]) -> str:
    """How often, by which thresholds; and whether the world model uses the codes, which no threshold says."""
    said = f"{VARIANTS[name].title}: collapsed with {sum(map(bool, states))} of {len(states)} seeds"
    reasons = dict.fromkeys(reason.replace("_", "-") for row in states for reason in row)
    use = [USE.mean(_cell(cells, name, seed)) for seed in seeds]
    why = f" (by {', '.join(reasons)})" if reasons else ""
    return said + why + ("" if None in use else f", U {' / '.join(map(USE.text, use))}")


def looked_again(claim: Claim | CollapseClaim, cells: Cells, seeds: Sequence[int]) -> dict[str, Verdict]:
    """The same comparison by what follows actions more closely than PSNR ten steps on does: a world model that ignores
    its codes loses a tenth of a dB there. Chosen when the first 23 cells had run, so that for those it confirms
    nothing. Empty for claims that are decided by something else.
    """
    if not isinstance(claim, Claim) or claim.measure is not _FAR:
        return {}
    return {measure.title: judge(replace(claim, measure=measure, beside=()), cells, seeds) for measure in CLOSER}


def _sentence(claim: Claim, cells: Cells, seeds: Sequence[int], gain: Interval) -> str:
    means = [np.mean([claim.measure.mean(_cell(cells, name, seed)) for seed in seeds]) for name in _pair(claim)]
    text, titles = claim.measure.text, [VARIANTS[name].title for name in _pair(claim)]
    counted = "gain" if not claim.margin else "gain, the margin included,"
    said = (
        f"{claim.measure.title} ({claim.measure.better} is better): {titles[0]} {text(means[0])}, {titles[1]} "
        f"{text(means[1])}; {counted} {text(gain.estimate)} [{text(gain.low)}, {text(gain.high)}] over "
        f"{len(seeds)} seeds."
    )
    compute = [np.mean([total_flops(_cell(cells, name, seed)) for seed in seeds]) for name in _pair(claim)]
    ratio = compute[0] / compute[1] if compute[1] else np.nan
    if np.isfinite(ratio) and abs(ratio - 1) > 0.01:
        said += f" Equal steps, not equal compute: {titles[0]} spent {ratio:.2f} times the FLOPs of {titles[1]}."
    return said


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


def _mean(measure: Measure, cells: Cells, variant: str, seeds: Sequence[int]) -> float:
    """Over seeds; NaN where one did not measure it."""
    means = [measure.mean(_cell(cells, variant, seed)) for seed in seeds]
    return float(np.mean([np.nan if mean is None else mean for mean in means]))


def _pair(claim: Claim | CollapseClaim) -> tuple[str, str]:
    return claim.first, claim.second


def _cell(cells: Cells, variant: str, seed: int) -> StoredCell:
    return cells[Cell(variant=VARIANTS[variant], seed=seed).name]
