"""How fast a stage trains: clips a second, which share of the devices' peak they make, which share of the time was
spent waiting for clips.

Time aside (what is watched, checkpoints) does not count. On a GPU the waiting is the host's: the device may still have
been computing, so the share is an upper bound.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from accelerate import Accelerator

from colaworld.experiments.devices import device_at_hand, device_named
from colaworld.experiments.loader import WaitingTime
from colaworld.experiments.loop_config import LoopConfig

NAMES = ("clips_per_second", "flops_utilisation", "waiting_share")
"""Of the numbers that are logged; they depend on the machine, all others on the run's flags alone."""


@cache
def peak_of(name: str | None, precision: str) -> float | None:
    """Operations a second of one device in ``precision``; a CPU's is measured once. None: not known."""
    device = device_at_hand() if name is None else device_named(name)
    return None if device is None else device.peak(precision)


class Throughput:
    """Of training steps on ``clips`` each, over all processes. ``flops(step)`` of a clip; ``peak`` of all devices
    together (None: not known)."""

    def __init__(
        self, reading: WaitingTime, clips: int, flops: Callable[[int], float], peak: float | None
    ) -> None:
        self.reading, self.clips, self.flops, self.peak = reading, clips, flops, peak
        self.seconds, self.steps, self.spent = 0.0, 0, 0.0
        self._since, self._shown = time.monotonic(), (0.0, 0, 0.0, 0.0)

    def step(self, step: int) -> None:
        """A step was taken."""
        self.steps += 1
        self.spent += self.clips * self.flops(step)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time that does not count."""
        self._count()
        yield
        self._since = time.monotonic()

    def lately(self) -> dict[str, float]:
        """The numbers since they were last asked for."""
        self._count()
        now = (self.seconds, self.steps, self.spent, self.reading.seconds)
        numbers = self._numbers(*(new - old for new, old in zip(now, self._shown, strict=True)))
        self._shown = now
        return numbers

    def overall(self) -> dict[str, float]:
        """The numbers since the start."""
        self._count()
        return self._numbers(self.seconds, self.steps, self.spent, self.reading.seconds)

    def _count(self) -> None:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now

    def _numbers(self, seconds: float, steps: int, spent: float, waited: float) -> dict[str, float]:
        if steps == 0 or seconds <= 0.0:
            return {}
        numbers = {"clips_per_second": steps * self.clips / seconds, "waiting_share": waited / seconds}
        if self.peak is not None:
            numbers["flops_utilisation"] = spent / (seconds * self.peak)
        return numbers


def in_words(numbers: Mapping[str, float]) -> str:
    """What ``Throughput`` says, as people read it."""
    share, waited = numbers.get("flops_utilisation"), numbers["waiting_share"]
    peak = "" if share is None else f", {share:.1%} of the peak"
    return f"{numbers['clips_per_second']:.3g} clips/s{peak}, {waited:.1%} of the time waiting for clips"


def throughput_of(
    accelerator: Accelerator, loop: LoopConfig, reading: WaitingTime, clips: int, flops: Callable[[int], float]
) -> Throughput:
    """Of a stage; the peak is that of all processes' devices, each taken to be like the main process's."""
    peak = peak_of(loop.peak_of, loop.mixed_precision) if accelerator.is_main_process else None
    return Throughput(reading, clips, flops, None if peak is None else peak * accelerator.num_processes)
