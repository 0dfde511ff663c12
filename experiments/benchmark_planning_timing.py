"""Seconds of several ways to the same end, taken in turns, and their ratios with intervals.

The sides of a comparison run one after the other in every repetition, backwards in every second one, so that whatever
else the machine does falls on all of them. A ratio is the geometric mean over repetitions of what each of them gave.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
import torch
from scipy.stats import ttest_1samp

from colaworld.experiments.intervals import Interval

ClockName = Literal["wall", "cpu"]


@dataclass(frozen=True, kw_only=True)
class Stopwatch:
    """Seconds on the ``wall``, or of this process on the ``cpu`` (all its threads together): for a machine that has
    other work to do. A GPU finishes before its time is taken.
    """

    device: str = "cpu"
    clock: ClockName = "wall"

    def now(self) -> float:
        """Seconds since some beginning."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        return time.perf_counter() if self.clock == "wall" else time.process_time()

    def seconds(self, work: Callable[[], object]) -> float:
        """How long ``work`` takes."""
        begun = self.now()
        work()
        return self.now() - begun


def in_turns(
    sides: Mapping[str, Callable[[], float]],
    repetitions: int,
    *,
    on_turn: Callable[[str], None] = lambda name: None,
) -> dict[str, list[float]]:
    """What each side returns (seconds, a cost) in each of ``repetitions``; ``on_turn`` hears of progress.

    ValueError for fewer than two repetitions, of which there is no interval.
    """
    if repetitions < 2:
        raise ValueError(f"repetitions must be 2 or more, got {repetitions}")
    found: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions):
        for name in list(sides) if repetition % 2 == 0 else reversed(sides):
            found[name].append(sides[name]())
            on_turn(name)
    return found


def ratio(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """``first`` over ``second``, repetition by repetition: geometric mean, and Student's interval of the logarithms.

    ValueError for unequal lengths, fewer than two, or what is not positive and finite.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"a ratio needs as many values of both, at least 2, got {len(first)} and {len(second)}")
    values = np.array([first, second], float)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"a ratio needs positive, finite values, got {values.min()} to {values.max()}")
    logarithms = np.log(values[0] / values[1])
    middle = float(logarithms.mean())
    if np.ptp(logarithms) < 1e-12:
        low = high = middle
    else:
        low, high = ttest_1samp(logarithms, 0.0).confidence_interval(confidence)
    return Interval(estimate=math.exp(middle), low=math.exp(low), high=math.exp(high))


def mean_of(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Arithmetic mean with Student's interval; ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, got {len(values)}")
    mean = float(np.mean(values))
    if np.ptp(values) < 1e-12:
        return Interval(estimate=mean, low=mean, high=mean)
    low, high = ttest_1samp(values, 0.0).confidence_interval(confidence)
    return Interval(estimate=mean, low=float(low), high=float(high))


def middle(seconds: Sequence[float]) -> float:
    """The median, which a hiccup of the machine does not move."""
    return float(median(seconds))
