"""The averaged weights (an EMA) of what a stage trains, and the whole system under them.

Weights that are whole are swapped for a look and back. Of sharded ones (``sharding``) every process gathers a whole
copy, the averages where a weight is trained: a system that can be watched, saved and trained on as if nothing had been
sharded.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from colaworld.adapters.system import ColaSystem


class Averages:
    """Of ``parameters``, the trained ones of ``system``. ``copy``: parts of the same make to gather into, where the
    system's are sharded; it lies on the CPU between looks.
    """

    def __init__(
        self, system: ColaSystem, parameters: Sequence[nn.Parameter], decay: float, copy: ColaSystem | None = None
    ) -> None:
        self.trained, self.parameters, self.copy = system, list(parameters), copy
        self.ema = EMAModel(self.parameters, decay=decay, use_ema_warmup=True, power=0.75)
        if copy is not None:
            _move(copy, "cpu")

    def step(self) -> None:
        """Take in the weights after a step."""
        self.ema.step(self.parameters)

    @contextmanager
    def looked_at(self) -> Iterator[ColaSystem]:
        """The whole system under the averages, for a while; afterwards training goes on as if nothing had been."""
        if self.copy is not None:
            yield self._gathered()
            _move(self.copy, "cpu")
            return
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        buffers = {name: value.clone() for name, value in self._standardisation()}
        yield self.trained
        self.ema.restore(self.parameters)
        for name, value in self._standardisation():
            value.copy_(buffers[name])

    def taken(self) -> ColaSystem:
        """The whole system under the averages, for good."""
        if self.copy is not None:
            return self._gathered()
        self.ema.copy_to(self.parameters)
        return self.trained

    def _standardisation(self) -> list[tuple[str, Tensor]]:
        """What a look may change besides weights."""
        bottleneck = self.trained.bottleneck
        if bottleneck is None:
            return []
        return [(name, value) for name, value in bottleneck.named_buffers() if name.startswith("norm.")]

    @torch.no_grad()
    def _gathered(self) -> ColaSystem:
        averages = dict(zip(map(id, self.parameters), self.ema.shadow_params, strict=True))
        _move(self.copy, self.parameters[0].device)
        for name, part in self.trained.parts().items():
            targets = self.copy.parts()[name]
            for key, value in part.named_parameters():
                targets.get_parameter(key).copy_(_whole(averages.get(id(value), value)))
            for key, value in part.named_buffers():
                targets.get_buffer(key).copy_(value)
        return self.copy


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _move(system: ColaSystem, device: str | torch.device) -> None:
    for part in system.parts().values():
        part.to(device)
