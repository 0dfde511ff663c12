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
            compare(truth, {"copy": truth[:, 1:2].expand_as(truth)}, "abcd")


def test_windows_that_stand_still_do_not_count() -> None:
    truth = torch.full((4, 12, 3, 4, 4), 0.3)
    truth[:2, 2:] = 0.8
    report = compare(truth, {"right": truth}, "abcd")
    assert {row["windows"] for row in report["rows"]} == {2}
    assert {row["reduction"] for row in report["rows"]} == {1.0}


def test_a_share_of_the_copys_error_does_not_scatter_with_the_copy_and_trajectories_count_once() -> None:
    """Every window is a quarter as wrong as copying, however much moves in it."""
    moved = torch.linspace(0.2, 0.7, 4)[:, None, None, None, None]
    truth = torch.full((4, 12, 3, 4, 4), 0.1)
    truth[:, 2:] += moved
    half = truth - moved / 2
    half[:, :2] = truth[:, :2]
    for row in compare(truth, {"half": half}, "abcd")["rows"]:
        assert row["below_copy"] == pytest.approx([0.75] * 3)
    half[1::2, 2:] = truth[1::2, 2:]  # exact in two of them
    apart, together = (compare(truth, {"half": half}, names)["rows"][0]["below_copy"] for names in ("abcd", "aabb"))
    assert apart[0] == pytest.approx(together[0]) and apart[2] - apart[1] > 1.5 * (together[2] - together[1])
    with pytest.raises(ValueError, match="4 move at step 1 .* of 1 trajectories"):
        compare(truth, {"half": half}, "aaaa")
