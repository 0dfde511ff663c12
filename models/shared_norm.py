"""Batch statistics over all processes' parts of a batch, as if one process held it whole.

``torch.nn.SyncBatchNorm`` does so on GPUs alone; this one works wherever ``torch.distributed`` does. Parts are taken to
be equal in size, as the training loop makes them.
"""

import torch
import torch.distributed as distributed
from torch import Tensor, nn


def processes() -> int:
    """How many train together; 1 where nothing is distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


@torch.no_grad()
def gathered(rows: Tensor) -> Tensor:
    """All processes' ``rows (B, ...)``, in their order: ``(processes * B, ...)``; without gradients."""
    if processes() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(processes())]
    distributed.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


@torch.no_grad()
def as_in_first(module: nn.Module) -> None:
    """Every process takes the first one's weights and buffers: after a change that each drew for itself."""
    if processes() > 1:
        for held in (*module.parameters(), *module.buffers()):
            distributed.broadcast(held.data, 0)


class _Sum(torch.autograd.Function):
    """Over all processes; so is the gradient, since each has a loss of its own that depends on the sum."""

    @staticmethod
    def forward(context, value: Tensor) -> Tensor:
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class SharedBatchNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` of ``(N, width)``, in training over the batch of all processes; as there, statistics are
    float32 whatever the rows are."""

    def forward(self, rows: Tensor) -> Tensor:
        count = processes()
        if count == 1 or not self.training:
            return super().forward(rows)
        given, rows = rows.dtype, rows.float()
        mean = _Sum.apply(rows.mean(dim=0)) / count
        variance = _Sum.apply((rows - mean).square().mean(dim=0)) / count
        with torch.no_grad():
            number = count * len(rows)
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * number / (number - 1), self.momentum)
        return ((rows - mean) * (variance + self.eps).rsqrt()).to(given)
