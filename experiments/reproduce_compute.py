"""Recipes at equal compute beside equal steps: the watched curves of the grid's runs against what they had spent.

The paper's readers ask for both: a joint step costs about a third more than one of two-stage training. Only the stages
between action-free pre-training and the adapter count, in FLOPs; within a stage every step counts as much as another.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from colaworld.experiments.recipes import LATENT_ACTION_STAGES
from colaworld.experiments.reproduce_plots import finished_runs
from colaworld.experiments.reproduce_store import StoredCell
from colaworld.experiments.reproduce_tables import html_table, mean_text
from colaworld.experiments.reproduce_variants import VARIANTS
from colaworld.experiments.reproduce_verdicts import Cells, latent_flops

QUANTITIES: Mapping[str, str] = {
    "predicted": "error of the next frame as a plan imagines it",
    "flow": "flow loss under the run's own latent actions",
}
"""Watched numbers that are compared, lower is better: the first that all compared runs have."""

Curve = tuple[np.ndarray, np.ndarray]
"""FLOPs that had been spent and the watched number then, both ``(looks,)``."""


def compute_curve(run: StoredCell, quantity: str) -> Curve | None:
    """A watched number of a finished run against the FLOPs of its latent-action stages up to then; None where the run
    did not watch it, or did not count them.
    """
    budget = run.evaluation.get("budget") or {}
    steps, flops = budget.get("steps") or {}, budget.get("flops") or {}
    looks = np.array(run.curves.get("total_step", []), float)
    values = np.array(run.curves.get(quantity, []), float)
    if not looks.size or looks.shape != values.shape or any(flops.get(stage) is None for stage in steps):
        return None
    spent, inside, before = np.zeros_like(looks), np.zeros(looks.shape, bool), 0
    for stage, count in steps.items():
        if stage in LATENT_ACTION_STAGES and count:
            inside |= (looks > before) & (looks <= before + count)
            spent += np.clip((looks - before) / count, 0.0, 1.0) * flops[stage]
        before += count
    known = inside & np.isfinite(values)
    return (spent[known], values[known]) if known.any() else None


def value_at(curve: Curve, flops: float) -> float | None:
    """The watched number where ``flops`` had been spent, between two looks on a straight line and after the last look
    the last; None before the first look.
    """
    return float(np.interp(flops, *curve)) if flops >= curve[0][0] else None


def compute_table(cells: Cells, variants: Sequence[str], seeds: Sequence[int]) -> str:
    """Each variant's watched number at the end of its latent-action stages and at the smallest total of FLOPs among
    all the compared runs, with a sentence; as HTML. Fewer than two variants that have run are not compared.
    """
    title = "<h3>At equal compute</h3>"
    present = [name for name in variants if finished_runs(cells, name, seeds)]
    common = [seed for seed in seeds if all(finished_runs(cells, name, [seed]) for name in present)]
    for quantity, said in QUANTITIES.items():
        runs = {name: finished_runs(cells, name, common) for name in present}
        curves = {name: [compute_curve(run, quantity) for run in each] for name, each in runs.items()}
        if common and len(runs) > 1 and not any(curve is None for each in curves.values() for curve in each):
            return title + _compared(runs, curves, said, common, len(variants) - len(runs))
    return f"{title}<p>Fewer than two of these variants have run with the same seeds and watched the same numbers.</p>"


def _compared(
    runs: Mapping[str, Sequence[StoredCell]],
    curves: Mapping[str, Sequence[Curve]],
    quantity: str,
    seeds: Sequence[int],
    absent: int,
) -> str:
    totals = {name: [latent_flops(run) for run in each] for name, each in runs.items()}
    common = min(total for each in totals.values() for total in each)
    at_end = {name: [float(values[-1]) for _, values in each] for name, each in curves.items()}
    at_common = {name: [value_at(curve, common) for curve in each] for name, each in curves.items()}
    rows, best = [], {}
    for name in runs:
        shown = [escape(VARIANTS[name].title), f"{np.mean(totals[name]):.3g}"]
        for kind, values in (("steps", at_end[name]), ("compute", at_common[name])):
            known = [value for value in values if value is not None]
            complete = len(known) == len(values)
            shown.append(mean_text(known, _text) if complete else "<small>predicts nothing yet</small>")
            if complete:
                best.setdefault(kind, {})[name] = float(np.mean(known))
        rows.append(shown)
    header = ("", "FLOPs of the latent-action stages", "at equal steps", f"at {common:.3g} FLOPs")
    lowest = {kind: VARIANTS[min(means, key=means.get)].title for kind, means in best.items()}
    same = lowest["steps"] == lowest["compute"]
    sentence = (
        f"The {quantity}, on the clips that are watched during training (lower is better): at the end of each run's "
        f"latent-action stages, and where it had spent {common:.3g} FLOPs on them, the least that any of these runs "
        f"spent in all. Over the seeds that all of them have ({', '.join(map(str, seeds))}) {lowest['steps']} is "
        "lowest at equal steps"
        + (", and at equal compute too." if same else f", {lowest['compute']} at equal compute.")
        + " A run that is read off before its end is so while its learning rate is still high, which is to its "
        "disadvantage." + (f" {absent} of these variants have not run and are left out." if absent else "")
    )
    return html_table(header, rows) + f"<p>{escape(sentence)}</p>"


def _text(value: float) -> str:
    return f"{value:.4f}"
