"""Codebook health: known answers, and idle transitions that neither hide a collapse nor feign one."""

from math import log

import pytest
import torch
from torch import Tensor

from colaworld.models.health import codebook_health, health_numbers, health_report, moving_transitions


def walk(steps: Tensor, seed: int = 0) -> Tensor:
    """Latents ``(B, T, 4, 6, 6)`` of a fixed picture on which a patch changes by ``steps (B, T - 1)``."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randn(1, 1, 4, 6, 6, generator=generator)
    patch = torch.zeros(4, 6, 6)
    patch[:, :3] = 1.0
    sign = (-1.0) ** torch.arange(steps.shape[1])  # to and fro, so that the spread stays the picture's
    path = torch.cat([torch.zeros(len(steps), 1), (sign * steps).cumsum(dim=1)], dim=1)
    return picture + path[:, :, None, None, None] * patch


def test_known_answers_with_sizes_by_token():
    codes = torch.stack([torch.arange(20) % 5, torch.arange(20) % 2], dim=1)
    five, two = codebook_health(codes, (10, 2))
    assert (five.utilisation, five.max_usage, five.n) == (0.5, 0.2, 20)
    assert five.entropy == pytest.approx(log(5))
    assert (two.utilisation, two.max_usage) == (1.0, 0.5)
    assert not five.collapsed and two.collapsed  # two entries cannot have a whole nat
    assert codebook_health(codes, 10)[1].utilisation == 0.2


def test_each_threshold_alone_is_a_collapse():
    def collapsed(*counts: int, entries: int = 32) -> bool:
        codes = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        return codebook_health(codes[:, None], entries)[0].collapsed

    assert not collapsed(*[10] * 7)
    assert collapsed(*[10] * 6)  # 19 % of the entries
    assert collapsed(*[101] + [10] * 10) and not collapsed(*[100] + [10] * 10)
    assert collapsed(49, 49, 1, 1, 1, entries=5)  # 0.82 nat, and none over half


def test_one_code_has_no_entropy():
    (health,) = codebook_health(torch.zeros(30, 1, dtype=torch.long), 8)
    assert (health.utilisation, health.max_usage, health.entropy) == (0.125, 1.0, 0.0)
    assert str(health.entropy) == "0.0"


def test_only_kept_steps_count():
    codes = torch.tensor([[0, 0, 0, 1], [0, 2, 0, 3]])[..., None]
    keep = torch.tensor([[False, False, False, True], [False, True, False, True]])
    (health,) = codebook_health(codes, 4, keep=keep)
    assert (health.n, health.utilisation, health.max_usage) == (3, 0.75, pytest.approx(1 / 3))
    assert codebook_health(codes, 4, keep=torch.zeros_like(keep)) == []


@pytest.mark.parametrize(
    ("codes", "entries", "keep", "message"),
    [
        (torch.zeros(0, 2, dtype=torch.long), 8, None, "no codes"),
        (torch.full((4, 1), 8), 8, None, "from 8 to 8 of a codebook of 8"),
        (torch.zeros(4, 2, dtype=torch.long), (8,), None, r"sizes \[8\] for 2 tokens"),
        (torch.zeros(4, 2, dtype=torch.long), 8, torch.ones(3, dtype=torch.bool), r"mask of shape \(3,\)"),
    ],
)
def test_bad_codes_are_named(codes, entries, keep, message):
    with pytest.raises(ValueError, match=message):
        codebook_health(codes, entries, keep=keep)


@pytest.mark.parametrize(("idle_share", "jitter"), [(0.1, 0.08), (0.5, 0.08), (0.9, 0.08), (0.98, 0.01)])
def test_what_moves_is_found_however_much_stands_still(idle_share, jitter):
    generator = torch.Generator().manual_seed(1)
    moves = torch.rand(20, 30, generator=generator) >= idle_share
    steps = torch.where(moves, 0.5 + torch.rand(20, 30, generator=generator), jitter)
    found = moving_transitions(walk(steps))
    assert found.shape == (20, 30) and found.dtype == torch.bool
    assert (found == moves).all()


def test_scale_and_one_great_leap_change_nothing():
    moves = torch.arange(40).reshape(4, 10) % 4 == 0
    latents = walk(torch.where(moves, 0.8, 0.01))
    assert (moving_transitions(100.0 * latents) == moves).all()
    steps = torch.where(moves, 0.8, 0.01)
    steps[0, 0] = 4.0
    assert (moving_transitions(walk(steps)) == moves).all()


def test_nothing_moves_in_a_still_window_even_under_grain():
    still = walk(torch.zeros(6, 9))
    assert not moving_transitions(still).any()
    assert not moving_transitions(torch.zeros_like(still)).any()
    grain = 0.02 * torch.randn(still.shape, generator=torch.Generator().manual_seed(0))
    assert not moving_transitions(still + grain).any()


def test_a_window_of_steady_motion_moves_throughout():
    assert moving_transitions(walk(torch.ones(3, 8))).all()


def idle_window() -> tuple[Tensor, Tensor]:
    """Codes ``(B, N, 2)`` and latents: 1 of 10 transitions moves; token 0 names the motion, token 1 never changes."""
    moves = torch.arange(1000).reshape(50, 20) % 10 == 0
    names = torch.where(moves, torch.arange(1000).reshape(50, 20) // 10 % 8, 0)
    return torch.stack([names, torch.zeros_like(names)], dim=-1), walk(torch.where(moves, 0.7, 0.0))


def test_idle_frames_feign_a_collapse_that_the_moving_ones_refute():
    codes, latents = idle_window()
    assert all(health.collapsed for health in codebook_health(codes, 8))
    named, constant = codebook_health(codes, 8, keep=moving_transitions(latents))
    assert not named.collapsed and named.n == 100 and named.utilisation == 1.0
    assert constant.collapsed


def test_reports_and_numbers_say_the_same():
    codes, latents = idle_window()
    moving = moving_transitions(latents)
    report, numbers = health_report(codes, 8, moving), health_numbers(codes, 8, moving)
    assert report[0]["n"] == numbers["transitions"] == 1000.0
    assert report[0]["n_moving"] == numbers["transitions_moving"] == 100.0
    for token, name in ((0, "utilisation"), (0, "max_usage"), (1, "entropy")):
        assert numbers[f"{name}_{token}"] == report[token][name]
        assert numbers[f"{name}_{token}_moving"] == report[token][f"{name}_moving"]
    assert report[0]["max_usage"] > 0.9 > report[0]["max_usage_moving"]


def test_where_nothing_moves_nothing_is_said_of_moving():
    codes, latents = idle_window()
    moving = torch.zeros_like(moving_transitions(latents))
    report, numbers = health_report(codes, 8, moving), health_numbers(codes, 8, moving)
    assert report[1]["entropy_moving"] is None and report[1]["n_moving"] == 0
    assert numbers["transitions_moving"] == 0.0
    assert not [key for key in numbers if key.endswith("_moving") and key != "transitions_moving"]
