"""How often a run logs, watches and saves, and how it computes its steps."""

from dataclasses import dataclass
from typing import Literal

from colaworld.experiments.devices import DeviceName


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How often a run logs, watches and saves."""

    seed: int = 0
    """Of weights, batches and noise."""
    log_every: int = 10
    """Steps between lines of training losses."""
    watch_every: int = 100
    """Steps between looks at held-out clips."""
    checkpoint_seconds: float = 120.0
    """How old a checkpoint may get."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.998
    """Of the averaged weights that are watched and saved."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """accelerate's."""
    accumulate: int = 1
    """Parts that a process works a batch off in, one after another, to save memory. Batch statistics are then each
    part's own."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What several processes hold: each all weights, gradients, averages and moments (ddp), or each its share of them,
    gathered block by block when they are needed (fsdp)."""
    gradient_checkpointing: bool = False
    """Whether the blocks of video model, inverse and forward dynamics are computed again in the backward pass, to save
    memory."""
    loader_workers: int = 0
    """Processes that read clips ahead; 0 reads them between steps."""
    peak_of: DeviceName | None = None
    """The device whose peak the utilisation is a share of; default: the one at hand, if its peak is known (a CPU's is
    measured)."""
    compile: bool = False
    """torch.compile the video model's training pass: a minute at the start, a quarter less time a step after it; needs
    a C++ compiler."""

    def __post_init__(self) -> None:
        if min(self.log_every, self.watch_every) < 1:
            raise ValueError(
                f"log_every and watch_every must be 1 or more, got {self.log_every} and {self.watch_every}"
            )
        if self.accumulate < 1 or self.loader_workers < 0:
            raise ValueError(
                f"accumulate must be 1 or more and loader_workers 0 or more, got {self.accumulate} and "
                f"{self.loader_workers}"
            )
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
