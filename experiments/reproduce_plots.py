"""The plots of the grid's report: codebook curves, metrics by horizon, the adapter's cost.

Each is a PNG inside of a data address, and None when no cell has what it would show.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib
import numpy as np
from PIL import Image

from colaworld.experiments.reproduce_cells import Cell
from colaworld.experiments.reproduce_measures import COLLAPSE, HORIZONS, video
from colaworld.experiments.reproduce_store import StoredCell
from colaworld.experiments.reproduce_variants import VARIANTS
from colaworld.experiments.reproduce_verdicts import Cells

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

Curves = Mapping[str, Sequence[float | None]]
"""Of ``read_curves``."""
LEGEND_WIDTH = 30
"""Characters that a line of a legend has room for."""
_TITLES = {
    "utilisation": "utilisation",
    "max_usage": "max-usage",
    "entropy": "entropy (nat)",
}


def data_address(figure: plt.Figure) -> str:
    """The figure as the ``src`` of a picture; closes it."""
    drawn, written = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=90)
    plt.close(figure)
    # A palette is a quarter of the bytes. One that covers all colours, however few pixels a thin line has: the median
    # cut draws orange lines red.
    few = Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(written, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii")


def finished_runs(cells: Cells, variant: str, seeds: Sequence[int]) -> list[StoredCell]:
    """The finished cells of a variant."""
    named = (cells.get(Cell(variant=VARIANTS[variant], seed=seed).name) for seed in seeds)
    return [cell for cell in named if cell is not None and cell.finished]


def worst_curve(curves: Curves, quantity: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(steps, worse token's value) of a watched health quantity, without idle transitions where that was told; None
    where the run did not watch it."""
    worst = np.fmax if quantity == "max_usage" else np.fmin
    tokens = []
    while (raw := curves.get(f"{quantity}_{len(tokens)}")) is not None:
        plain = np.array(raw, float)
        moving = np.array(curves.get(f"{quantity}_{len(tokens)}_moving", np.full(len(plain), np.nan)), float)
        tokens.append(np.where(np.isnan(moving), plain, moving))
    if not tokens:
        return None
    return np.array(curves["total_step"], float), worst.reduce(tokens)


def codebook_curves(cells: Cells, variants: Sequence[str], seeds: Sequence[int]) -> str | None:
    """Utilisation, max-usage and entropy against steps: a colour for each variant, a thin line for each seed."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
    for panel, quantity in zip(axes, COLLAPSE, strict=True):
        for variant in variants:
            curves = [worst_curve(cell.curves, quantity) for cell in finished_runs(cells, variant, seeds)]
            for number, (steps, values) in enumerate(curve for curve in curves if curve is not None):
                label = VARIANTS[variant].title if number == 0 else None
                panel.plot(steps, values, color=_colour(variant, variants), linewidth=0.9, label=label)
        panel.axhline(COLLAPSE[quantity], color="grey", linestyle="--", linewidth=0.8)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("step")
        panel.set_title(f"{_TITLES[quantity]}, worse token", fontsize=10)
    return _finished_figure(figure)


def by_horizon(cells: Cells, variants: Sequence[str], seeds: Sequence[int]) -> str | None:
    """PSNR and SSIM against horizon before the adapter stage, a thin line for each seed; copying the last frame
    beside."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.4))
    for panel, metric in zip(axes, ("psnr", "ssim"), strict=True):
        copied = None
        for variant in variants:
            drawn = 0
            for cell in finished_runs(cells, variant, seeds):
                values = [video("learned", metric, horizon).mean(cell) for horizon in HORIZONS]
                copied = copied or [video("copy", metric, horizon).mean(cell) for horizon in HORIZONS]
                if None not in values:
                    label = None if drawn else VARIANTS[variant].title
                    panel.plot(HORIZONS, values, ".-", color=_colour(variant, variants), linewidth=0.9, label=label)
                    drawn += 1
        if copied is not None and None not in copied and panel.lines:
            panel.plot(HORIZONS, copied, "--", color="grey", linewidth=0.9, label="last frame copied")
        panel.set_xticks(HORIZONS)
        panel.set_xlabel("horizon (frames)")
        panel.set_title(f"{metric.upper()}, before the adapter stage", fontsize=10)
    return _finished_figure(figure)


def adapter_cost(cells: Cells, variants: Sequence[str], seeds: Sequence[int]) -> str | None:
    """PSNR at horizons 1 and 10 under the IDM's codes and through the adapter (snapped to codes where there are codes),
    joined by a line for each seed."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.4))
    for panel, horizon in zip(axes, (1, 10), strict=True):
        for place, variant in enumerate(variants):
            drawn = 0
            for cell in finished_runs(cells, variant, seeds):
                pair = [video(source, "psnr", horizon).mean(cell) for source in ("idm", "snapped_adapter")]
                if None not in pair:
                    label = None if drawn else VARIANTS[variant].title
                    places = place + np.array([-0.3, 0.3])
                    panel.plot(places, pair, ".-", color=_colour(variant, variants), linewidth=0.9, label=label)
                    drawn += 1
        panel.set_xticks([])
        panel.set_xlabel("left: IDM's codes, right: adapter")
        panel.set_title(f"PSNR (dB) at horizon {horizon}", fontsize=10)
    return _finished_figure(figure)


def _colour(variant: str, variants: Sequence[str]) -> str:
    """Black for the plain recipe, which stands in every plot."""
    return "black" if variant == "cola" else f"C{list(variants).index(variant)}"


def _finished_figure(figure: plt.Figure) -> str | None:
    """With one legend to the right; None (and closed) when nothing has a label."""
    labelled = {
        label: line for panel in figure.axes for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if not labelled:
        plt.close(figure)
        return None
    # By hand: matplotlib's own layout takes longer than the drawing.
    figure.subplots_adjust(left=0.05, right=0.79, bottom=0.15, top=0.9, wspace=0.2)
    titles = [fill(label, LEGEND_WIDTH) for label in labelled]
    figure.legend(labelled.values(), titles, loc="center left", bbox_to_anchor=(0.8, 0.5), fontsize=8)
    return data_address(figure)
