"""Measures with planted answers, and the guard that they watch: a network that the arm cannot blind."""

import pytest
import torch

from colaworld.experiments.goal_measures import (
    area_under_curve,
    by_network,
    correlation,
    distances,
    interval,
    lines_of,
    order_of_time,
    policy_measures,
    sight_pairs,
)
from colaworld.experiments.goal_pairs import GoalFrames, progress_pairs
from colaworld.experiments.train_goal_models import GoalFitConfig, draw_of, fit
from colaworld.models.goal_progress import GoalProgress


def scene(trajectories: int, seed: int, frames: int = 25) -> GoalFrames:
    """A big bright arm that walks from place to place and a faint object that is now and then pushed by 10 cm: latents
    ``(9, 2, 2)``, eight channels of the arm's place and one of the object's.
    """
    draw = torch.Generator().manual_seed(seed)
    shape = (trajectories, frames)
    begins = 0.2 * torch.rand(2, trajectories, 1, 2, generator=draw)
    arm = begins[0] + (0.03 * torch.randn(*shape, 2, generator=draw)).cumsum(1)
    turn = 6.28 * torch.rand(*shape, 1, generator=draw)
    pushed = (torch.rand(*shape, 1, generator=draw) < 0.15) * 0.1 * torch.cat([turn.cos(), turn.sin()], dim=-1)
    move = torch.cat([torch.zeros(trajectories, 1, 2), arm.diff(dim=1)], dim=1)
    thing = begins[1] + pushed.cumsum(1)
    places = torch.cat([*8 * [4 * arm], 4 * thing], dim=-1).flatten(0, 1)
    flat = [torch.nn.functional.pad(each, (0, 1)).flatten(0, 1) for each in (arm, thing)]
    latents = places.view(-1, 9, 2, 1).expand(-1, -1, -1, 2).contiguous()
    return GoalFrames(
        latents=latents,
        trajectory=torch.arange(trajectories).repeat_interleave(frames),
        first=torch.arange(trajectories) * frames,
        length=torch.full((trajectories,), frames),
        scene=torch.zeros(trajectories, dtype=torch.int64),
        actions=torch.cat([move[:, 1:], torch.full_like(move[:, :1], torch.nan)], dim=1).flatten(0, 1),
        ee_pos=flat[0],
        object_pos=flat[1][:, None],
    )


def sight(table: GoalFrames, cost) -> float:
    now, goal, displaced = sight_pairs(table, seed=0)
    assert displaced.sum() > 100 < (~displaced).sum()
    assert (table.gripper_gap(now, goal) < 0.03).all()
    return area_under_curve(cost(now, goal), displaced)


def test_costs_that_know_time_and_costs_that_do_not() -> None:
    table = scene(6, 0)
    right = order_of_time(table, lambda now, goal: (goal - now).float(), 10)
    assert right == pytest.approx([1.0] * 6)
    assert order_of_time(table, lambda now, goal: (now - goal).float(), 10) == pytest.approx([-1.0] * 6)
    assert order_of_time(table, lambda now, goal: torch.ones(len(now)), 10) == [0.0] * 6
    still = GoalFrames(**{**vars(table), "object_pos": torch.zeros_like(table.object_pos)})
    assert order_of_time(still, lambda now, goal: (goal - now).float(), 10, moved=True) == []


def test_a_cost_of_the_arm_does_not_see_objects() -> None:
    table = scene(40, 0)
    arm, thing = table.gripper_gap, table.object_gap
    assert sight(table, thing) == 1.0
    assert sight(table, arm) == pytest.approx(0.5, abs=0.12)
    frames = torch.zeros(len(table), 3, 8, 8, dtype=torch.uint8)
    assert sight(table, distances(table, frames)["pixel"]) == 0.5, "nothing to see, all ties"


def test_learned_progress_sees_objects_though_most_of_a_latent_is_arm() -> None:
    train, held_out = scene(150, 1), scene(40, 2)
    config = GoalFitConfig(steps=600, batch_size=128, learning_rate=3e-3, max_steps=10)
    torch.manual_seed(0)
    sizes = {"latent_channels": 9, "latent_height": 2, "latent_width": 2, "width": 8, "hidden": 32, "dropout": 0.0}
    model = GoalProgress(max_steps=10, **sizes)
    fit(model, draw_of("progress", train, config), config, seed=0, name="progress")
    assert sight(held_out, by_network(held_out, model)) > 0.93
    order = order_of_time(held_out, by_network(held_out, model), 10)
    assert interval(order)["low"] > 0.5


def test_areas_and_correlations_by_hand() -> None:
    scores, positive = torch.tensor([3.0, 1.0, 2.0, 1.0]), torch.tensor([True, False, False, True])
    assert area_under_curve(scores, positive) == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert area_under_curve(scores, torch.zeros(4, dtype=torch.bool)) is None
    assert correlation([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)
    assert correlation([1, 1, 1], [10, 20, 15]) == 0.0


def test_a_policy_that_knows_its_law_and_one_that_does_not() -> None:
    table = scene(40, 3)

    class Knows:
        def __call__(self, now, goal):
            return (goal - now)[:, 0, :, 0][:, None] / 4  # right one step ahead

    class Mean(Knows):
        def __call__(self, now, goal):
            return super().__call__(now, goal) * 0

    assert policy_measures(Knows(), table, 1)["relative_error"] < 1e-6
    assert policy_measures(Knows(), table, 1)["gripper_accuracy"] == 1.0
    measures = policy_measures(Mean(), table, 4)
    assert measures["relative_error"] == pytest.approx(1.0, abs=0.02)
    assert set(measures["relative_error_by_steps"]) == {"1", "2", "3", "4"}


def test_progress_pairs_feed_what_is_drawn() -> None:
    table = scene(10, 4)
    now, goal, steps = draw_of("progress", table, GoalFitConfig(batch_size=50))(torch.Generator().manual_seed(0))
    pairs = progress_pairs(table, 50, 20, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(now, table.latents[pairs.now]) and torch.equal(goal, table.latents[pairs.goal])
    assert torch.equal(steps, pairs.steps)


def test_lines_for_a_terminal() -> None:
    measures = {"order": {"pixel": interval([0.5, 0.7]), "latent": interval([0.25])}, "sees": None, "share": 0.125}
    assert lines_of(measures, "p: ") == [
        "p: order, pixel: 0.600 [0.500, 0.700]",
        "p: order, latent, estimate: 0.250",
        "p: order, latent, count: 1.000",
        "p: sees: -",
        "p: share: 0.125",
    ]
