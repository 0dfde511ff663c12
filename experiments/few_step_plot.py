"""The plot of ``few_step_curve.py``: every measure against function evaluations a frame, a row of panels a horizon."""

from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image

from colaworld.envs.whole_file import whole_file

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

PANELS = {
    "latent_error": "latent error (lower)",
    "psnr": "PSNR, dB (higher)",
    "energy": "energy score (lower)",
    "sharpness": "sharpness (1)",
    "from_teacher": "from teacher (lower)",
    "frechet": "Frechet distance at equal n (lower)",
}
"""Measure to title, with where the best is."""


def draw_curves(report: dict[str, Any], path: Path) -> None:
    """Write the plot of a report of ``few_step_curve`` as PNG; bars are 95 % intervals over windows."""
    horizons = [str(horizon) for horizon in report["config"]["horizons"]]
    figure, axes = plt.subplots(
        len(horizons), len(PANELS), figsize=(3.2 * len(PANELS), 2.9 * len(horizons)), squeeze=False
    )
    for row, horizon in zip(axes, horizons, strict=True):
        for panel, (measure, title) in zip(row, PANELS.items(), strict=True):
            for number, (name, run) in enumerate(report["runs"].items()):
                steps = sorted(map(int, run["curve"]))
                found = [run["curve"][str(step)][horizon][measure] for step in steps]
                shift = 1.0 + 0.04 * number  # else bars hide each other
                places = [step * shift for step in steps]
                if measure == "frechet":
                    panel.plot(places, [each["plain"] for each in found], ".-", color=f"C{number}", label=name)
                    continue
                middle = [each["estimate"] for each in found]
                bars = [
                    [each["estimate"] - each["low"] for each in found],
                    [each["high"] - each["estimate"] for each in found],
                ]
                panel.errorbar(places, middle, bars, fmt=".-", capsize=2, linewidth=1, color=f"C{number}", label=name)
            panel.set_xscale("log", base=2)
            panel.set_xticks(steps, [str(step) for step in steps])
            panel.set_xlabel("evaluations a frame", fontsize=8)
            panel.set_title(f"horizon {horizon}: {title}", fontsize=8)
            panel.tick_params(labelsize=7)
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=80, format="png")
        # A palette is a third of the bytes, and lines need no more colours.
        Image.open(partial).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(
            partial, "png", optimize=True
        )
    plt.close(figure)
