"""The table of errors on moving pixels, where hardly anything moves."""

import warnings

import pytest
import torch

from colaworld.experiments.held_out import compare


@pytest.mark.parametrize(
    ("moving", "begin", "told"), [(0, 2, "0 move at step 1"), (1, 2, "1 move at step 1"), (4, 5, "0 move at step 1")]
)
def test_still_windows_are_named_and_not_averaged(moving: int, begin: int, told: str) -> None:
    truth = torch.full((4, 12, 3, 4, 4), 0.3)
    truth[:moving, begin:] = 0.8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=f"held-out video stands still: of 4 windows {told} .* needs 2; take more"):
            compare(truth, {"copy": truth[:, 1:2].expand_as(truth)})


def test_windows_that_stand_still_do_not_count() -> None:
    truth = torch.full((4, 12, 3, 4, 4), 0.3)
    truth[:2, 2:] = 0.8
    report = compare(truth, {"right": truth})
    assert {row["windows"] for row in report["rows"]} == {2}
    assert {row["reduction"] for row in report["rows"]} == {1.0}
