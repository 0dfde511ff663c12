"""Batch statistics over processes, against those of one that holds the whole batch."""

import pytest
import torch

from colaworld.models import shared_norm
from colaworld.models.shared_norm import SharedBatchNorm, as_in_first


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


def test_what_each_process_drew_for_itself_becomes_the_first_one_s(monkeypatch):
    first, second = torch.nn.BatchNorm1d(4), torch.nn.BatchNorm1d(4)
    torch.nn.init.normal_(second.weight)
    second.running_mean.fill_(3.0)
    held = [*first.parameters(), *first.buffers()]
    monkeypatch.setattr(shared_norm, "processes", lambda: 2)
    monkeypatch.setattr(shared_norm.distributed, "broadcast", lambda value, source: value.copy_(held[sent.pop(0)]))
    sent = list(range(len(held)))
    as_in_first(second)
    assert sent == []
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
