"""Flags of ``benchmark_planning.py``, each with its meaning, and what every part of it says of the machine."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from colaworld.adapters import SHIPPED_PRESET
from colaworld.experiments.benchmark_planning_timing import ClockName, Stopwatch
from colaworld.experiments.presets import PresetName
from colaworld.models.engine import EngineConfig
from colaworld.models.flow import SamplerConfig

PLANS: dict[str, tuple[int, int, int]] = {
    "tiny": (64, 2, 6),
    "tiny_conv": (64, 2, 6),
    "small": (256, 3, 8),
    "nano": (8, 2, 3),
}
"""Samples, iterations and horizon of a preset's plan, where the flags do not say."""
TRIVIAL_PLAN = (256, 5, 8)
"""The same, of plans in the trivial world."""
Part = Literal["engine", "breakdown", "overhead", "budgets"]
PARTS: tuple[Part, ...] = ("engine", "breakdown", "overhead", "budgets")


class Budget(NamedTuple):
    """What a plan may spend: candidates of an iteration (None: the flag's), iterations or seconds."""

    name: str
    samples: int | None
    iterations: int | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is measured, and how often. Raises ValueError naming a flag that cannot be."""

    parts: tuple[Part, ...] = PARTS
    """What to measure: the engine with and without each of its parts; where the seconds of a plan go; the planners'
    own cost beside other people's; success against seconds per plan."""
    json: Path | None = None
    """Write all numbers here too, after each part."""
    preset: PresetName = SHIPPED_PRESET
    """Sizes of the networks, and of the one that ships its weights; random ones where there are none."""
    run: Path | None = None
    """Folder of a training run or of a trained system instead."""
    data: tuple[Path, ...] = ()
    """Recordings whose held-out clips tell the error of fewer sampling steps; the starter data when not given."""
    clips: int = 32
    """Held-out clips of that."""
    device: str = "cpu"
    """Where the models run, as PyTorch names it: cpu, cuda."""
    threads: int | None = None
    """Threads of PyTorch, for both sides of every comparison; as many as PyTorch takes when not given."""
    clock: ClockName = "wall"
    """Seconds on the wall, or of the processor (all threads together), for a machine that is not idle."""
    repetitions: int = 5
    """How often each side is measured, in turns."""
    samples: int | None = None
    """Candidates per iteration; when not given, as the next two, what the target of the preset says (tiny 64 x 2 x 6,
    small 256 x 3 x 8), and 256 x 5 x 8 for overhead."""
    iterations: int | None = None
    """Iterations of a plan."""
    horizon: int | None = None
    """Imagined steps of a plan; budgets: 4 when not given, as vp2_eval.py."""
    flow_steps: int = 4
    """engine: sampling steps of a frame, on both sides."""
    flow_std: float = 0.0
    """engine: noise where they start."""
    guidance: float = 2.0
    """engine: guidance, on both sides (1 is off)."""
    compile: bool | None = None
    """engine: whether compiled code is among the rungs (it is when not given). breakdown and budgets: whether the
    imagination is compiled; when not given, breakdown has both and budgets has it on a GPU."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """breakdown and budgets: of the imagination; bfloat16 on a GPU when not given."""
    rivals: Path | None = None
    """overhead: the Python interpreter of an environment with torch, stable-worldmodel and pytorch-mppi; ours alone
    are measured when not given."""
    plans: int = 40
    """overhead: plans of each turn, whose median counts."""
    budgets: tuple[str, ...] = ("8x1", "16x1", "32x1", "64x1", "64x2", "128x2", "200x3")
    """budgets: samples x iterations, or seconds per plan as 0.5s."""
    episodes: int | None = None
    """budgets: at most this many goal instances; the whole manifest when not given."""
    manifest: str | None = None
    """budgets: goal instances; the default manifest when not given."""
    workers: int = 1
    """budgets: processes that play episodes; seconds per plan are honest while each has cores of its own."""
    out: Path = Path("runs/benchmark_planning")
    """budgets: folder of the episodes (the same one goes on where it stopped), and of the plot."""

    def __post_init__(self) -> None:
        if not self.parts or len(set(self.parts)) != len(self.parts):
            raise ValueError(f"--parts needs at least one part and none twice, got {list(self.parts)}")
        for name in ("samples", "iterations", "horizon", "threads", "episodes", "plans", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be 1 or more, got {value}")
        for name in ("repetitions", "clips"):
            if getattr(self, name) < 2:
                raise ValueError(f"--{name} must be 2 or more, got {getattr(self, name)}")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"--device {self.device}: this machine has no CUDA device that PyTorch can use")
        if self.rivals is not None and not self.rivals.is_file():
            raise FileNotFoundError(f"--rivals: there is no interpreter {self.rivals}")
        if self.json is not None and self.json.is_dir():
            raise ValueError(f"--json {self.json} is a folder, not a file")
        self.sampler()
        self.budget_list()

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    def plan(self, usual: tuple[int, int, int] | None = None) -> tuple[int, int, int]:
        """Samples, iterations and horizon; ``usual`` (None: the preset's) where the flags do not say."""
        usual = usual or PLANS[self.preset]
        asked = (self.samples, self.iterations, self.horizon)
        samples, iterations, horizon = (
            default if value is None else value for value, default in zip(asked, usual, strict=True)
        )
        return samples, iterations, horizon

    def sampler(self) -> SamplerConfig:
        """How frames are sampled in the engine's comparison."""
        return SamplerConfig(steps=self.flow_steps, std=self.flow_std, guidance=self.guidance)

    def engine(self) -> EngineConfig:
        """How frames are computed in the breakdown and under budgets."""
        dtype = self.dtype or ("bfloat16" if self.on_gpu else "float32")
        return EngineConfig(dtype=dtype, compile=self.on_gpu if self.compile is None else self.compile)

    def budget_list(self) -> list[Budget]:
        """``--budgets`` read; ValueError for what is not one, or is there twice."""
        if not self.budgets or len(set(self.budgets)) != len(self.budgets):
            raise ValueError(f"--budgets needs at least one budget and none twice, got {list(self.budgets)}")
        return [budget(text) for text in self.budgets]

    def stopwatch(self) -> Stopwatch:
        """Of everything that is measured here."""
        return Stopwatch(device=self.device, clock=self.clock)


def budget(text: str) -> Budget:
    """``64x2`` or ``0.5s``; ValueError for anything else."""
    if counts := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text):
        return Budget(text, int(counts[1]), int(counts[2]), None)
    if (seconds := re.fullmatch(r"(\d+\.?\d*|\.\d+)s", text)) and float(seconds[1]) > 0:
        return Budget(text, None, None, float(seconds[1]))
    raise ValueError(f"--budgets: {text!r} is neither samples x iterations (64x2) nor seconds per plan (0.5s)")


def machine(config: BenchmarkConfig) -> dict[str, Any]:
    """What was measured on, and how busy it was in the minute before (``load``: running processes)."""
    return {
        "device": torch.cuda.get_device_name(config.device) if config.on_gpu else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": config.clock,
        "load": os.getloadavg()[0],
    }


def processor() -> str:
    """The CPU's name, as far as the system tells."""
    told = Path("/proc/cpuinfo")
    if told.is_file():
        for line in told.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
