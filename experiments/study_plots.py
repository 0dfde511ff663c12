"""A study's pictures, of what was watched on held-out clips and of every training's losses, and the lines of logs that
are kept of these."""

import io
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from colaworld.envs.whole_file import whole_file
from colaworld.experiments.reproduce_measures import COLLAPSE
from colaworld.experiments.reproduce_plots import worst_curve
from colaworld.experiments.reproduce_store import PREFIX, read_curves
from colaworld.experiments.study_results import BASE, CODEC, Study, rollouts_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLUMNS = 5
"""Panels beside each other."""
PALETTE = 128
"""Colours of a picture."""
LOOKS = 200
"""Points of a curve."""


def draw_curves(study: Study, path: Path) -> bool:
    """What every training watched on held-out clips, a colour for each recipe, a line for each seed; False when there
    is nothing to draw."""
    figure, axes = plt.subplots(1, 1 + len(COLLAPSE), figsize=(16, 3.4))
    drawn = False
    for number, recipe in enumerate(study.recipes):
        for seed in study.seeds:
            logged = study.logs.get(f"{recipe}-s{seed}")
            curves = {} if logged is None else read_curves(logged, looks=LOOKS)
            if "predicted" not in curves:
                continue
            label, style = None if seed != study.seeds[0] else recipe, {"color": f"C{number}", "linewidth": 0.9}
            axes[0].plot(curves["total_step"], np.array(curves["predicted"], float), label=label, **style)
            for panel, quantity in zip(axes[1:], COLLAPSE, strict=True):
                if (curve := worst_curve(curves, quantity)) is not None:
                    panel.plot(*curve, **style)
            drawn = True
    axes[0].set_title("squared error one step ahead, latents", fontsize=9)
    for panel, (quantity, border) in zip(axes[1:], COLLAPSE.items(), strict=True):
        side = "above" if quantity == "max_usage" else "below"
        panel.set_title(f"{quantity.replace('_', '-')}, worse token; {side} the line a collapse", fontsize=9)
        panel.axhline(border, color="grey", linestyle="--", linewidth=0.8)
    for panel in axes:
        panel.set_xlabel("step")
        panel.set_ylim(bottom=0)
    if drawn:
        axes[0].legend(fontsize=8)
        _save(figure, path)
    plt.close(figure)
    return drawn


def draw_losses(study: Study, path: Path) -> bool:
    """The training loss of codec and action-free video model, and of every recipe and seed, a colour for each stage;
    False when there is nothing to draw."""
    runs = {CODEC: "codec", BASE: "action-free video model"}
    if CODEC not in study.logs:
        runs = {BASE: "codec and action-free video model"}
    titles = {f"{recipe}-s{seed}": f"{recipe}, seed {seed}" for recipe in study.recipes for seed in study.seeds}
    runs |= titles | {rollouts_of(name): f"{title}, on its rollouts" for name, title in titles.items()}
    logs = study.logs
    found = {title: losses for name, title in runs.items() if name in logs and (losses := _losses(logs[name]))}
    if not found:
        return False
    rows, columns = -(-len(found) // COLUMNS), min(len(found), COLUMNS)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 3.0 * rows), squeeze=False)
    for panel in axes.flat[len(found) :]:
        panel.remove()
    for panel, (title, losses) in zip(axes.flat, found.items(), strict=False):
        for stage, points in losses.items():
            steps, values = np.array(points, float).T
            panel.plot(steps, values, label=stage, linewidth=0.7)
        panel.set_title(title, fontsize=9)
        panel.set_yscale("log")
        panel.set_xlabel("step")
        panel.legend(fontsize=7)
    _save(figure, path)
    plt.close(figure)
    return True


def _save(figure: plt.Figure, path: Path) -> None:
    """As a picture of few colours, half the size: it is kept with the results."""
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80, format="png")
    with whole_file(path) as partial:
        Image.open(drawn).convert("RGB").quantize(PALETTE).save(partial, format="png", optimize=True)


def _losses(path: Path) -> dict[str, list[tuple[float, float]]]:
    """By stage, (step, loss) of the lines that have one, at most ``LOOKS`` a stage."""
    stages: dict[str, list[tuple[float, float]]] = {}
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        if "loss" in line:
            stages.setdefault(line["stage"], []).append((line["total_step"], line["loss"]))
    return {stage: points[:: max(1, len(points) // LOOKS)] for stage, points in stages.items()}


def thinned(path: Path) -> list[dict[str, Any]]:
    """Of a training's log what was watched on held-out clips, and at most ``LOOKS`` losses a stage."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    stages: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if "loss" in line and not any(key.startswith(PREFIX) for key in line):
            stages.setdefault(line["stage"], []).append(line)
    losses = [line for found in stages.values() for line in found[:: max(1, len(found) // LOOKS)]]
    chosen = {id(line) for line in losses}
    told = ("stage", "step", "total_step", "loss")
    return [
        {key: line[key] for key in told if key in line} if id(line) in chosen else line
        for line in lines
        if id(line) in chosen or any(key.startswith(PREFIX) for key in line)
    ]


PICTURES = {"curves.png": draw_curves, "losses.png": draw_losses}
SHOWN = {
    "curves.png": "what was watched on held-out clips while the systems trained",
    "losses.png": "losses of every training, stage by stage",
}
