"""Set two trainings' held-out evaluations against each other, clip by clip::

    python experiments/compare_imagination.py runs/one runs/other              # run folders, or their evaluation.json
    python experiments/compare_imagination.py runs/one runs/other --json difference.json

Error one step ahead in units of copying the last frame, and PSNR some steps ahead, as the inverse dynamics model's
codes, real actions through the adapter, and these snapped to codes drive each world model. Both must have been
evaluated on the same clips of the same data; that copying does as well in both is checked.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from colaworld.experiments import cli
from colaworld.experiments.episode_log import write_json
from colaworld.experiments.intervals import Interval, bootstrap_mean, bootstrap_ratio
from colaworld.experiments.report import aligned

SOURCES = {"idm": "inverse dynamics' codes", "adapter": "real actions, adapter", "adapter_codes": "the same, snapped"}
HEADER = ("driven by", "measure", "A", "B", "A - B [95 %]", "")


def compare_imagination(
    a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")],
    b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")],
    json: Path | None = None,
) -> None:
    """Print means and paired differences, with BCa bootstrap intervals over the clips; shares of the copy's error have
    that of a ratio.

    Args:
        a: run folder, or evaluation.json.
        b: the other.
        json: write the numbers here too.
    """
    rows = compared(read_evaluation(a), read_evaluation(b), f"{a} and {b}")
    lines = [HEADER, *(_line(row) for row in rows)]
    print(f"A: {a}\nB: {b}", *aligned(lines), sep="\n")
    if json is not None:
        write_json(json, {"a": str(a), "b": str(b), "unit": "clip", "method": "BCa bootstrap", "rows": rows})


def read_evaluation(path: Path) -> dict[str, Any]:
    """A run's evaluation. ValueError where there is none, or it is damaged."""
    path = path / "evaluation.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"there is no {path}; train_world_model.py ends with it, evaluate.py writes it anew")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def compared(a: Mapping[str, Any], b: Mapping[str, Any], whose: str) -> list[dict[str, Any]]:
    """Each measure of each source that both have. ValueError, naming ``whose``, when the clips are not the same."""
    if "copy" not in a or "copy" not in b:
        raise ValueError(f"{whose}: one of them does not say how well copying the last frame does; evaluate.py does")
    copies = [side["copy"]["video"] for side in (a, b)]
    if copies[0].keys() != copies[1].keys():
        raise ValueError(f"{whose} look {', '.join(copies[0])} and {', '.join(copies[1])} steps ahead")
    for horizon in copies[0]:
        of_a, of_b = (np.array(copy[horizon]["psnr"]) for copy in copies)
        if of_a.shape != of_b.shape or not np.allclose(of_a, of_b, atol=1e-3):
            raise ValueError(f"{whose} were evaluated on other clips: copying the last frame has another PSNR")
    rows = []
    for source in SOURCES:
        if a.get(source) is None or b.get(source) is None:
            continue
        errors = [np.array(side[source]["next_frame_error"]) for side in (a, b)]
        copy = np.array(a["copy"]["next_frame_error"])
        difference = bootstrap_ratio(errors[0] - errors[1], copy)
        shares = [each / copy.mean() for each in errors]
        rows.append(_row(source, "error one step ahead, of the copy's", *shares, difference))
        for horizon in a[source]["video"]:
            psnr = [np.array(side[source]["video"][horizon]["psnr"]) for side in (a, b)]
            rows.append(_row(source, f"PSNR {horizon} ahead, dB", *psnr, bootstrap_mean(psnr[0] - psnr[1])))
    return rows


def _row(source: str, measure: str, a: np.ndarray, b: np.ndarray, difference: Interval) -> dict[str, Any]:
    means = {"a": float(a.mean()), "b": float(b.mean())}
    return {"source": source, "measure": measure, **means, "difference": asdict(difference)}


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    difference = Interval(**row["difference"])
    shown = "shown" if difference.excludes_zero else "not shown"
    told = f"{difference.estimate:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    return SOURCES[row["source"]], row["measure"], f"{row['a']:.3f}", f"{row['b']:.3f}", told, shown


if __name__ == "__main__":
    cli.main(compare_imagination)
