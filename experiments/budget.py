"""What a run has spent: steps, clips, seconds and floating-point operations of every stage, in ``budget.json``.

Operations are counted by PyTorch over one real step, forward and backward, on a copy of the model; a stage whose last
steps train on imagined frames has a second kind of step, counted by itself. Without them equal steps could be taken for
equal compute (the paper: joint training costs about a third more a step).
"""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from colaworld.envs.whole_file import whole_file

BUDGET = "budget.json"


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What one stage has spent."""

    steps: int
    samples: int
    """Clips, over all processes; one counts as often as it was drawn."""
    seconds: float
    """Wall-clock inside the loop, over all restarts, with what is watched."""
    flops: float
    """Of the training steps: multiplications and additions, forward and backward, over all processes."""
    parameters: int
    """That the stage trained."""
    waited: float = 0.0
    """Seconds in which the main process waited for clips, since its last start."""
    training_seconds: float | None = None
    """Of its training steps, without what is watched and saved, since its last start; so are the next two."""
    clips_per_second: float | None = None
    flops_utilisation: float | None = None
    """Share of the devices' peak; None where that is not known."""
    why: str = "as planned"
    """Why it ended after so many steps."""


def step_flops(model: torch.nn.Module, loss: Callable[[torch.nn.Module], Tensor]) -> int:
    """Operations of ``loss(model)`` and its gradient; a copy of the model is used, no weight or statistic changes.

    Attention is counted as the matrix products that it is made of.
    """
    copy = deepcopy(model)
    with _Counter() as counter, sdpa_kernel(SDPBackend.MATH):
        loss(copy).backward()
    return counter.total


class _Counter(TorchDispatchMode):
    """Adds up PyTorch's own formulas. Its ``FlopCounterMode`` also tracks modules, which fails on those without a
    gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def record_cost(folder: Path, stage: str, cost: StageCost) -> None:
    """Put a stage's cost into the run's ``budget.json``."""
    costs = {**read_costs(folder), stage: cost}
    with whole_file(folder / BUDGET) as partial:
        partial.write_text(json.dumps({name: asdict(each) for name, each in costs.items()}, indent=2) + "\n")


def read_costs(folder: Path) -> dict[str, StageCost]:
    """The costs of the stages that have ended, in order. ValueError naming the file when it cannot be read."""
    path = folder / BUDGET
    if not path.is_file():
        return {}
    try:
        return {name: StageCost(**values) for name, values in json.loads(path.read_text()).items()}
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
