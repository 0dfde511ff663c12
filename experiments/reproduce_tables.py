"""The tables of the grid's report, as HTML: the claims, measures of variants with intervals, what runs cost."""

from collections.abc import Callable, Iterable, Sequence
from html import escape

import numpy as np

from colaworld.experiments.reproduce_cells import Cell
from colaworld.experiments.reproduce_claims import CLAIMS, CLOSER_TITLES, Claim
from colaworld.experiments.reproduce_intervals import t_interval
from colaworld.experiments.reproduce_measures import Measure
from colaworld.experiments.reproduce_plots import finished_runs
from colaworld.experiments.reproduce_store import StoredCell
from colaworld.experiments.reproduce_variants import VARIANTS
from colaworld.experiments.reproduce_verdicts import (
    BROKEN,
    EMPTY,
    EQUAL,
    FAILS,
    HOLDS,
    NOT_RUN,
    OPEN,
    Cells,
    Verdict,
    gain_intervals,
    looked_again,
    missing_cells,
    total_flops,
)

_CLASSES = {
    HOLDS: "holds",
    FAILS: "fails",
    OPEN: "open",
    EQUAL: "open",
    EMPTY: "open",
    NOT_RUN: "none",
    BROKEN: "failed",
}

_DELTA = "Δ"


def html_table(header: Iterable[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already, under a header that is text; ``kind`` is a class of the page's style."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="{f"wide {kind}".strip()}"><table><tr>{head}</tr>{body}</table></div>'


def claims_table(verdicts: Sequence[Verdict], cells: Cells, seeds: Sequence[int]) -> str:
    """Claim, verdict, why."""
    rows = []
    for verdict in verdicts:
        why = escape(verdict.why[:1].upper() + verdict.why[1:])
        if verdict.clustered is not None and isinstance(verdict.claim, Claim):
            text, each = verdict.claim.measure.text, verdict.claim.measure.each
            why += f" Over seeds and {each}: [{text(verdict.clustered.low)}, {text(verdict.clustered.high)}]."
        if isinstance(verdict.claim, Claim) and not missing_cells(verdict.claim, cells, seeds):
            why += _beside(verdict.claim, cells, seeds)
        outcome = f'<span class="{_CLASSES[verdict.outcome]}"><b>{escape(verdict.outcome)}</b></span>'
        rows.append([escape(verdict.claim.text), outcome, why])
    return html_table(("claim", "verdict", "why"), rows)


def closer_table(cells: Cells, seeds: Sequence[int]) -> str:
    """Of every claim that is decided by PSNR ten steps on, what other measures say."""
    rows = []
    for claim in CLAIMS:
        if again := looked_again(claim, cells, seeds):
            rows.append([escape(claim.text), *(_again(again.get(title), cells, seeds) for title in CLOSER_TITLES)])
    return html_table(("claim", *CLOSER_TITLES), rows)


def _again(verdict: Verdict | None, cells: Cells, seeds: Sequence[int]) -> str:
    if verdict is None:
        return ""
    said = f'<span class="{_CLASSES[verdict.outcome]}">{escape(verdict.outcome)}</span>'
    if verdict.gain is None:  # the table of claims says which runs are missing
        missing = missing_cells(verdict.claim, cells, seeds)
        return said if missing else f"{said}<small>{escape(verdict.why)}</small>"
    text, gain = verdict.claim.measure.text, verdict.gain
    return f"{said}<small>gain {text(gain.estimate)} [{text(gain.low)}, {text(gain.high)}]</small>"


def _beside(claim: Claim, cells: Cells, seeds: Sequence[int]) -> str:
    said = []
    for measure in claim.beside:
        gain, _ = gain_intervals(claim, measure, cells, seeds)
        if gain is not None:
            text = measure.text
            said.append(f"{measure.title}: {text(gain.estimate)} [{text(gain.low)}, {text(gain.high)}]")
    return f"<small>Gain by other measures, not deciding: {escape('; '.join(said))}</small>" if said else ""


def measure_table(cells: Cells, variants: Sequence[str], seeds: Sequence[int], measures: Sequence[Measure]) -> str:
    """A row for each measure and a column for each variant: mean, interval over seeds, the difference to cola (else the
    first variant) on the seeds that both have, and each seed's own value. A measure that runs took in ways that cannot
    be compared has a row for each way; what no run has measured is named below the table.
    """
    columns = {name: [cells.get(Cell(variant=VARIANTS[name], seed=seed).name) for seed in seeds] for name in variants}
    if not any(cell is not None and cell.finished for column in columns.values() for cell in column):
        return "<p>None of these cells has run.</p>"
    reference = "cola" if "cola" in variants else variants[0]
    rows, unmeasured = [], []
    for measure in measures:
        if all(measure.mean(cell) is None for column in columns.values() for cell in column):
            unmeasured.append(measure.title)
            continue
        bases = measure.bases(cell for column in columns.values() for cell in column)
        for basis in bases if len(bases) > 1 else [None]:
            better = f"<small>{measure.better} is better</small>" if measure.better else ""
            better += f"<small>{escape(basis)}; not comparable with other rows</small>" if basis else ""
            of_basis = {
                name: [None if _other(measure, cell, basis) else measure.mean(cell) for cell in column]
                for name, column in columns.items()
            }
            entries = [
                _entry(
                    measure,
                    of_basis[name],
                    columns[name],
                    seeds,
                    against=None if name == reference else of_basis[reference],
                )
                for name in variants
            ]
            rows.append([escape(measure.title) + better, *entries])
    below = ""
    if unmeasured:
        below = f"<p><small>Measured by none of these runs: {escape('; '.join(unmeasured))}.</small></p>"
    if any(_DELTA in entry for row in rows for entry in row):
        said = f"{_DELTA}: difference to {VARIANTS[reference].title}, paired by the seeds that both have"
        below = f"<p><small>{escape(said)}, with its 95 % interval where these are two or more.</small></p>{below}"
    return (html_table(("", *(VARIANTS[name].title for name in variants)), rows, "measures") if rows else "") + below


def _other(measure: Measure, cell: StoredCell | None, basis: str | None) -> bool:
    return basis is not None and measure.bases([cell]) != [basis]


def _entry(
    measure: Measure,
    values: Sequence[float | None],
    column: Sequence[StoredCell | None],
    seeds: Sequence[int],
    *,
    against: Sequence[float | None] | None,
) -> str:
    known = [value for value in values if value is not None]
    each = []
    for value, cell, seed in zip(values, column, seeds, strict=True):
        state = "has not run" if cell is None else "not measured" if cell.finished else "failed"
        state = "in another row" if value is None and measure.mean(cell) is not None else state
        each.append(f"seed {seed}: {state if value is None else measure.text(value)}")
    small = f"<small>{'<br>'.join(each)}</small>"
    if not any(column):
        return "<small>has not run</small>"
    if not known and all(cell is not None and cell.finished and measure.mean(cell) is None for cell in column):
        return "<small>not measured</small>"
    if not known:
        return small
    short = f" ({len(known)} seeds)" if 1 < len(known) < len(seeds) else ""
    return f"{mean_text(known, measure.text)}{short}{_difference(measure, values, against)}{small}"


def _difference(measure: Measure, values: Sequence[float | None], against: Sequence[float | None] | None) -> str:
    """What is above ``against``, over the seeds that both have, as HTML; empty where there are none."""
    pairs = zip(values, against or [None] * len(values), strict=True)
    differences = [mine - other for mine, other in pairs if mine is not None and other is not None]
    if not differences:
        return ""
    text = f"{np.mean(differences):+z.{measure.digits}f}"
    if len(differences) > 1:
        interval = t_interval(differences)
        text += f" [{interval.low:+z.{measure.digits}f}, {interval.high:+z.{measure.digits}f}]"
    return f"<small>{_DELTA} {text}</small>"


def mean_text(values: Sequence[float], text: Callable[[float], str]) -> str:
    """The mean over seeds with its interval, as HTML."""
    if len(values) == 1:
        return f"{text(values[0])} (one seed)"
    interval = t_interval(values)
    return f"<b>{text(interval.estimate)}</b> [{text(interval.low)}, {text(interval.high)}]"


def budget_table(cells: Cells, seeds: Sequence[int]) -> str:
    """Steps, samples, seconds and FLOPs of each variant that has run; means over its seeds."""
    plain = [total_flops(cell) for cell in finished_runs(cells, "cola", seeds)]
    rows = []
    for name, variant in VARIANTS.items():
        runs = finished_runs(cells, name, seeds)
        if runs:
            budgets = [run.evaluation.get("budget") or {} for run in runs]
            flops = np.mean([total_flops(run) for run in runs])
            against = flops / np.mean(plain) if plain else np.nan
            switches = [budget["switch"] for budget in budgets if budget.get("switch")]
            ends = dict.fromkeys(f"at step {each.get('warmup_ended_at')}: {each.get('why')}" for each in switches)
            rows.append(
                [
                    escape(variant.title),
                    *(_by_stage([budget.get(key) for budget in budgets]) for key in ("steps", "samples", "seconds")),
                    f"{flops:.3g}" if np.isfinite(flops) else "not measured",
                    f"{against:.2f}" if np.isfinite(against) else "not measured",
                    escape("; ".join(ends)),
                ]
            )
    if not rows:
        return "<p>No cell has run.</p>"
    note = (
        "<p>Comparisons above are at equal steps of warm-up and joint training together, unless they say “at equal "
        "compute”. Seconds are of machines that ran other things at the same time.</p>"
    )
    header = ("", "steps", "samples", "seconds", "FLOPs", "FLOPs against cola's", "end of the warm-up")
    return html_table(header, rows) + note


def _by_stage(budgets: Sequence[dict[str, float] | None]) -> str:
    """The sum over stages, and each stage's share; means over seeds."""
    known = [budget for budget in budgets if budget and None not in budget.values()]
    if not known:
        return "not measured"
    stages = dict.fromkeys(stage for budget in known for stage in budget)
    means = {stage: float(np.mean([budget.get(stage, 0.0) for budget in known])) for stage in stages}
    each = "<br>".join(f"{escape(stage)} {value:.0f}" for stage, value in means.items())
    return f"{sum(means.values()):.0f}<small>{each}</small>"
