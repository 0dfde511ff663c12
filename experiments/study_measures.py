"""What the evaluations of a study's systems say, without episodes: their numbers, and what the adapter costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import bootstrap

from colaworld.experiments.intervals import Interval
from colaworld.experiments.reproduce_measures import (
    COLLAPSE,
    PROBE,
    PROBE_CONSTANT,
    Measure,
    Value,
    drop,
    found,
    health,
    video,
)

if TYPE_CHECKING:
    from colaworld.experiments.study_results import Study


def _snapped(metric: str, horizon: int) -> Measure:
    """Of real actions whose latent actions are codes: none where there are no codes."""
    measure = video("snapped_adapter", metric, horizon)
    return replace(measure, read=lambda evaluation: measure.read(evaluation) if evaluation.get("idm") else None)


def _drop_from_before(metric: str, horizon: int) -> Measure:
    """From the IDM's codes before the adapter stage to the adapter's answers snapped to codes."""
    before, after = video("learned", metric, horizon), _snapped(metric, horizon)

    def read(evaluation: Mapping[str, Any]) -> Value:
        one, other = before.read(evaluation), after.read(evaluation)
        return None if one is None or other is None else one - other

    return Measure(title=f"{metric} lost since before the adapter stage, horizon {horizon}", read=read)


def _copy(metric: str, horizon: int) -> Measure:
    """Of the last frame of the context, copied."""

    def read(evaluation: Mapping[str, Any]) -> Value:
        return found(evaluation, "copy", "video", str(horizon), metric)

    return Measure(title=f"{metric} at horizon {horizon}, copying the last frame", read=read)


MEASURES: Mapping[str, Measure] = {
    **{
        f"{metric}_{horizon}_{source}": video(source, metric, horizon)
        for metric, horizon in (("psnr", 1), ("psnr", 5), ("psnr", 10), ("ssim", 10), ("frechet", 10))
        for source in ("learned", "idm")
    },
    **{
        f"{metric}_{horizon}_snapped_adapter": _snapped(metric, horizon)
        for metric, horizon in (("psnr", 1), ("psnr", 5), ("psnr", 10), ("ssim", 10), ("frechet", 10))
    },
    **{f"{metric}_{steps}_copy": _copy(metric, steps) for metric, steps in (("psnr", 1), ("psnr", 10), ("ssim", 10))},
    "ssim_10_adapter": video("adapter", "ssim", 10),
    "psnr_10_adapter": video("adapter", "psnr", 10),
    "frechet_10_adapter": video("adapter", "frechet", 10),
    "psnr_10_drop_from_before": _drop_from_before("psnr", 10),
    "psnr_10_drop": drop("psnr", 10, "snapped_adapter"),
    "frechet_10_drop": drop("frechet", 10, "snapped_adapter"),
    "psnr_10_drop_unsnapped": drop("psnr", 10, "adapter"),
    **{f"{name}_{source}": health(source, name) for name in COLLAPSE for source in ("idm", "adapter")},
    "probe_l1": PROBE,
    "probe_l1_constant": PROBE_CONSTANT,
}  # fmt: skip
"""Of each system, by their names in ``summary.json``."""


def drops_of(study: Study, *, seed: int = 0) -> list[dict[str, Any]]:
    """By how much more PSNR ten steps on each other recipe loses from the IDM's codes to the adapter's answers than the
    first does (above 0: the first loses less), over clips, trainings that both have averaged.
    For answers that are snapped to codes, as the paper's, for those that plans are made with, and for the first from
    the codes as they were before the adapter stage, which moves the world model too.
    """
    first, lines = study.recipes[0], []
    for second in study.recipes[1:]:
        for name in ("psnr_10_drop", "psnr_10_drop_unsnapped", "psnr_10_drop_from_before"):
            sides = [
                [MEASURES[name].read(study.evaluations.get((recipe, each), {})) for each in study.seeds]
                for recipe in (first, second)
            ]
            pairs = [b - a for a, b in zip(*sides, strict=True) if a is not None and b is not None]
            if pairs:
                more = np.mean(pairs, axis=0)
                told = {"first": first, "second": second, "measure": name, "trainings": len(pairs), "clips": len(more)}
                lines.append(told | more_lost(more, seed=seed))
    return lines


def more_lost(more: np.ndarray, *, seed: int) -> dict[str, Any]:
    """How much more another recipe loses than the first ``(n,)``, on average with a percentile bootstrap, and the
    verdict on that the first loses less."""
    drawn = bootstrap(
        (more,), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(seed), batch=1000
    ).confidence_interval
    interval = Interval(estimate=float(more.mean()), low=float(drawn.low), high=float(drawn.high))
    verdict = "shown" if interval.low > 0 else "the opposite" if interval.high < 0 else "not shown"
    return {"more": asdict(interval), "verdict": verdict}


def models_of(study: Study) -> list[dict[str, Any]]:
    """What each system's evaluation says, without episodes; None where a recipe has no such thing."""
    lines = []
    for (recipe, seed), evaluation in study.evaluations.items():
        values = {name: measure.read(evaluation) for name, measure in MEASURES.items()}
        said = {name: None if value is None else float(np.mean(value)) for name, value in values.items()}
        lines.append(
            {"recipe": recipe, "seed": seed, "clips": evaluation["clips"], **said, "budget": evaluation["budget"]}
        )
    return lines
