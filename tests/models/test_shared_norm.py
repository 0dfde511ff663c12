"""Batch statistics over processes, against those of one that holds the whole batch."""

import pytest
import torch

from colaworld.models import shared_norm
from colaworld.models.shared_norm import SharedBatchNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_processes_with_the_same_rows_standardise_as_one_with_both(monkeypatch, dtype):
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = SharedBatchNorm(4, affine=False, momentum=0.05)
    expected = whole(torch.cat([rows, rows]))[:6]
    monkeypatch.setattr(shared_norm, "processes", lambda: 2)
    monkeypatch.setattr(shared_norm.distributed, "all_reduce", lambda total: total.mul_(2))
    shared = SharedBatchNorm(4, affine=False, momentum=0.05)
    found = shared(rows)
    assert found.dtype == expected.dtype == dtype and shared.running_mean.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    for name, value in whole.named_buffers():
        torch.testing.assert_close(shared.get_buffer(name), value, rtol=1e-3, atol=1e-5, msg=name)
