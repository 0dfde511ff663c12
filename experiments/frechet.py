"""The Frechet distance between two sets of video features, and its value for infinitely many videos.

Each set is summarised by a Gaussian; the distance is ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` (Heusel et al.
2017; on I3D features it is FVD, Unterthiner et al. 2018, the CoLA-World paper's measure of video). The mathematics is
torchmetrics'. From n videos the distance is too large by a term in 1/n (Chong and Forsyth 2020), so that sets of
unequal size cannot be compared; a line in 1/n through subsets of several sizes meets 1/n = 0 near the true value.
The line is good where even the smallest subset, n / 2, holds more videos than there are features.
Shapes: features ``(n, d)``, row i of both sets belonging to the same clip.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.stats import linregress
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

FRACTIONS = (0.5, 0.625, 0.75, 0.875)
"""Sizes of the subsets, as shares of n; n itself is the last point of the line."""
DRAWS = 8
"""Subsets of each size, over which the distance is averaged."""
FEWEST = 8
"""Fewest videos through whose subsets a line is drawn."""


@dataclass(frozen=True, kw_only=True)
class FrechetEstimate:
    """A Frechet distance from n videos on either side."""

    value: float | None
    """Extrapolated to infinitely many videos; an estimate of a small distance may be negative. None below ``FEWEST``
    videos.
    """
    plain: float
    """From all n videos, as others report it: biased upwards, to be compared at equal n only."""
    n: int
    features: int
    """The features' dimension d; with n / 2 below it neither number means much."""

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        return asdict(self)


class _Given(nn.Module):
    """Features that are there already, where torchmetrics expects the network that makes them."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(truth: Tensor, imagined: Tensor) -> float:
    """Distance between the Gaussians of two sets of features ``(n, d)`` and ``(m, d)``, in double precision; its unit
    is the features' squared. Raises ValueError for unlike shapes, fewer than two rows, or numbers that are not finite.
    """
    for name, features in (("truth", truth), ("imagined", imagined)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(
                f"a Frechet distance needs features (n, d) with n of 2 or more, {name} has {tuple(features.shape)}"
            )
        if not features.isfinite().all():
            raise ValueError(f"{name}: {int((~features.isfinite()).sum())} features are not finite")
    if truth.shape[1] != imagined.shape[1]:
        raise ValueError(f"both sets need the same features, truth has {truth.shape[1]}, imagined {imagined.shape[1]}")
    truth, imagined = truth.detach().cpu().double(), imagined.detach().cpu().double()
    centre = truth.mean(dim=0)  # changes no distance, and spares the library's sums of squares their cancellation
    # Of several processes one evaluates alone: the library would wait for the others' sums.
    metric = FrechetInceptionDistance(feature=_Given(truth.shape[1]), sync_on_compute=False)
    metric.update(truth - centre, real=True)
    metric.update(imagined - centre, real=False)
    return float(metric.compute())


def frechet_estimate(truth: Tensor, imagined: Tensor, generator: torch.Generator) -> FrechetEstimate:
    """Distance at n and extrapolated to 1/n = 0, from features ``(n, d)`` of both sets.

    Subsets are drawn without replacement by ``generator`` (CPU) and hold the same clips of both sets, as the whole
    does: a bias that pairing makes smaller is smaller in all of them alike. Raises ValueError for unlike shapes.
    """
    if truth.shape != imagined.shape:
        raise ValueError(f"equal n on either side, got {tuple(truth.shape)} and {tuple(imagined.shape)}")
    plain, n = frechet_distance(truth, imagined), len(truth)
    value = None
    if n >= FEWEST:
        sizes = sorted({round(fraction * n) for fraction in FRACTIONS})
        means = [
            float(np.mean([frechet_distance(truth[rows], imagined[rows]) for rows in _subsets(n, size, generator)]))
            for size in sizes
        ]
        value = float(linregress(1.0 / np.array([*sizes, n]), [*means, plain]).intercept)
    return FrechetEstimate(value=value, plain=plain, n=n, features=truth.shape[1])


def _subsets(n: int, size: int, generator: torch.Generator) -> list[Tensor]:
    return [torch.randperm(n, generator=generator)[:size] for _ in range(DRAWS)]
