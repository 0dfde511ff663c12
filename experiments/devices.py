"""How fast devices compute: makers' figures for GPUs, a quick look for the CPU at hand."""

import time
from dataclasses import dataclass
from typing import Literal, get_args

import torch

DeviceName = Literal["cpu", "l40s", "rtx4090", "a100", "h100", "h200", "b200"]
MATRIX, LOOKS = 768, 5


@dataclass(frozen=True, kw_only=True)
class Device:
    """Peaks in operations a second (a multiplication and an addition are two), dense; memory in GiB (None: not said).
    """

    name: DeviceName
    bf16: float
    float32: float
    memory: float | None = None
    utilisation: float = 0.4
    """Which share of the peak training is taken to reach. Assumed, not measured."""
    measured: bool = False
    """Whether the peaks are those of large matrix products here, just now, instead of the maker's."""

    def peak(self, precision: str) -> float:
        """Operations a second at most in ``precision``, accelerate's ``mixed_precision``."""
        return self.float32 if precision == "no" else self.bf16

    def rate(self, precision: str) -> float:
        """Operations a second that are counted on in ``precision``."""
        return self.utilisation * self.peak(precision)


_SHEETS = (
    Device(name="l40s", bf16=362e12, float32=91.6e12, memory=48),
    Device(name="rtx4090", bf16=165e12, float32=82.6e12, memory=24),
    Device(name="a100", bf16=312e12, float32=19.5e12, memory=80),
    Device(name="h100", bf16=989e12, float32=67e12, memory=80),
    Device(name="h200", bf16=989e12, float32=67e12, memory=141),
    Device(name="b200", bf16=2250e12, float32=75e12, memory=180),
)
"""Makers' data sheets: dense tensor cores in bf16, float32 without them (as PyTorch multiplies by default)."""


def device_named(name: DeviceName) -> Device:
    """Of the table; ``cpu`` is measured by products of ``MATRIX`` x ``MATRIX`` matrices, in less than a second.

    ValueError for other names.
    """
    if name == "cpu":
        rates = {dtype: _measured(dtype) for dtype in (torch.bfloat16, torch.float32)}
        return Device(name="cpu", bf16=rates[torch.bfloat16], float32=rates[torch.float32], measured=True)
    for device in _SHEETS:
        if device.name == name:
            return device
    raise ValueError(f"--device-name must be one of {', '.join(get_args(DeviceName))}, got {name!r}")


def device_at_hand() -> Device | None:
    """The one that PyTorch computes on here; None for a GPU that is not in the table."""
    if not torch.cuda.is_available():
        return device_named("cpu")
    said = torch.cuda.get_device_name().lower().replace(" ", "")
    return next((device for device in _SHEETS if device.name in said), None)


def _measured(dtype: torch.dtype) -> float:
    """The best of ``LOOKS`` products, in operations a second."""
    a, b = torch.randn(2, MATRIX, MATRIX).to(dtype)
    seconds = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return 2.0 * MATRIX**3 / min(seconds)
