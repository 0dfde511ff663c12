"""How close imagined video is to the real one: PSNR, SSIM, LPIPS and a Frechet distance at horizons 1, 5 and 10.

The CoLA-World paper's measures of its world model. PSNR, SSIM and LPIPS at horizon h compare the h-th frame after the
context, clip by clip. The Frechet distance at horizon h compares the sets of clips of the first h frames after the
context. It is FVD when the I3D file is given, and else the same distance on the extractor named in the result.

Not stated in the paper: the frames that enter its FVD, and n. Here the context stays outside (it is no prediction).
At horizon 1 a network of video is shown a still, so that the distance judges appearance alone. I3D needs ten frames:
below horizon 10 both sides are continued by their last frame, and the result is not called plain "fvd".
Shapes: clips ``(n, context + 10, 3, height, width)``, floats in [0, 1].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from colaworld.experiments.feature_networks import (
    I3D_FRAMES,
    RANDOM_NAME,
    I3DFeatures,
    Lpips,
    RandomVideoFeatures,
    alexnet_bytes,
    i3d_bytes,
)
from colaworld.experiments.frechet import frechet_estimate

PSNR_CAP = 100.0
"""Decibels of identical frames, whose ratio is infinite: means stay finite. Others hardly reach it: one 8-bit step in
one colour of one pixel of 64x64 is 89 dB.
"""


@dataclass(frozen=True, kw_only=True)
class VideoMetricsConfig:
    """Feature networks that are files, and how the Frechet distance is taken."""

    fvd_weights: Path | None = None
    """The I3D of FVD, StyleGAN-V's i3d_torchscript.pt; without it the Frechet distance is on random features."""
    lpips_weights: Path | None = None
    """The AlexNet of LPIPS, torchvision's alexnet-owt-7be5be79.pth; without it there is no LPIPS."""
    seed: int = 0
    """Which subsets of clips extrapolate the Frechet distance."""
    batch: int = 16
    """Clips that pass a feature network at once."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.seed < 0:
            raise ValueError(f"video batch must be 1 or more and seed 0 or more, got {self.batch}, {self.seed}")
        if self.fvd_weights is not None:
            i3d_bytes(self.fvd_weights)
        if self.lpips_weights is not None:
            alexnet_bytes(self.lpips_weights)


@torch.no_grad()
def video_metrics(
    truth: Tensor,
    imagined: Tensor,
    config: VideoMetricsConfig = VideoMetricsConfig(),
    *,
    horizons: Sequence[int] = (1, 5, 10),
    context: int = 2,
) -> dict[str, dict[str, Any]]:
    """Metrics of ``imagined`` against ``truth``, both ``(n, T, 3, height, width)`` in [0, 1], T >= context + horizon.

    Returns, for each horizon, ``{"psnr": [n floats, dB], "ssim": [n], "lpips": [n] or None, "frechet": {...}}``;
    ``frechet`` holds the extractor's ``name``, ``value`` (extrapolated to infinitely many clips; None for fewer than
    8), ``plain`` (from the n clips), ``n`` and the number of ``features``. Networks given as files run on ``truth``'s
    device. Raises ValueError for shapes or pixels that are not as above, and for a weight file that is not the one
    expected.
    """
    _check(truth, imagined, horizons, context)
    name_at, features = _extractor(config, truth.device)
    lpips = None if config.lpips_weights is None else Lpips(config.lpips_weights).to(truth.device)
    report: dict[str, dict[str, Any]] = {}
    for horizon in horizons:
        frame, clip = context - 1 + horizon, slice(context, context + horizon)
        real, guess = truth[:, frame].float(), imagined[:, frame].float().to(truth.device)
        distance = frechet_estimate(
            *(
                torch.cat([features(part) for part in videos[:, clip].split(config.batch)])
                for videos in (truth, imagined)
            ),
            torch.Generator().manual_seed(config.seed),
        )
        pairs = zip(guess.split(config.batch), real.split(config.batch), strict=True)
        report[str(horizon)] = {
            "psnr": _psnr(guess, real).tolist(),
            "ssim": structural_similarity_index_measure(guess, real, data_range=1.0, reduction="none").tolist(),
            "lpips": None if lpips is None else torch.cat([lpips(one, other) for one, other in pairs]).tolist(),
            "frechet": {"name": name_at(horizon), **distance.as_dict()},
        }
    return report


def metrics_table(reports: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Several variants' ``video_metrics`` as text: means over clips, Frechet distances with their n and extractor.

    Raises ValueError when the Frechet distances of one horizon are not from equal n and the same extractor: such
    numbers do not compare.
    """
    heads = ("PSNR", "SSIM", "LPIPS", "Frechet", "at n", "n")
    lines = [f"{'variant':<27}{'step':>5}" + "".join(f"{head:>10}" for head in heads) + "  extractor"]
    first = next(iter(reports.values()), {})
    for variant, report in reports.items():
        for horizon, metrics in report.items():
            distance, pattern = metrics["frechet"], first[horizon]["frechet"]
            if (distance["n"], distance["name"]) != (pattern["n"], pattern["name"]):
                raise ValueError(
                    f"Frechet distances compare at equal n and extractor only; step {horizon} of {variant!r} has "
                    f"n = {distance['n']} on {distance['name']}, others n = {pattern['n']} on {pattern['name']}"
                )
            clipwise = (metrics["psnr"], metrics["ssim"], metrics["lpips"])
            means = [None if values is None else float(np.mean(values)) for values in clipwise]
            cells = [*means, distance["value"], distance["plain"]]
            numbers = "".join(f"{'-':>10}" if cell is None else f"{cell:>10.4g}" for cell in cells)
            lines.append(f"{variant:<27}{horizon:>5}{numbers}{distance['n']:>10}  {distance['name']}")
    return "\n".join([*lines, *few_clips([metrics["frechet"] for metrics in first.values()])])


def few_clips(distances: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line where n / 2 clips, the smallest subset of the extrapolation, are fewer than the features."""
    few = {(each["name"], each["n"], each["features"]) for each in distances if each["n"] < 2 * each["features"]}
    return [
        f"{name}: {n} clips are few for its {features} features, its distances mean little; give it {2 * features} or more"
        for name, n, features in sorted(few)
    ]


def _psnr(guess: Tensor, real: Tensor) -> Tensor:
    ratio = peak_signal_noise_ratio(guess, real, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return ratio.clamp(max=PSNR_CAP)


def _extractor(
    config: VideoMetricsConfig, device: torch.device
) -> tuple[Callable[[int], str], Callable[[Tensor], Tensor]]:
    """What the Frechet distance is called at each horizon, and the features that it is taken on."""
    if config.fvd_weights is None:
        return (lambda horizon: RANDOM_NAME), RandomVideoFeatures()
    held = f"fvd, last frame held to {I3D_FRAMES} frames"
    return (lambda horizon: "fvd" if horizon >= I3D_FRAMES else held), I3DFeatures(config.fvd_weights, device)


def _check(truth: Tensor, imagined: Tensor, horizons: Sequence[int], context: int) -> None:
    if truth.shape != imagined.shape or truth.ndim != 5 or truth.shape[2] != 3 or len(truth) < 2:
        raise ValueError(
            "video metrics need two equal sets of clips (n >= 2, T, 3, height, width), "
            f"got {tuple(truth.shape)} and {tuple(imagined.shape)}"
        )
    if not horizons or min(horizons) < 1 or context < 1 or truth.shape[1] < context + max(horizons):
        raise ValueError(
            f"clips need context + horizon frames, with both 1 or more; {truth.shape[1]} frames for context {context}, "
            f"horizons {tuple(horizons)}"
        )
    if min(truth.shape[-2:]) < 32:
        raise ValueError(f"video metrics need frames of 32x32 or more, got {tuple(truth.shape[-2:])}")
    for name, videos in (("truth", truth), ("imagined", imagined)):
        if not videos.is_floating_point():
            raise ValueError(f"{name}: pixels must be floats in [0, 1], got {videos.dtype}")
        low, high = float(videos.min()), float(videos.max())
        if not (0.0 <= low and high <= 1.0):  # NaN fails both
            raise ValueError(f"{name}: pixels must lie in [0, 1], found {low:g} to {high:g}")
