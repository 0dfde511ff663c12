"""A learned cost in its place: summed over frames, combined with pixels, followed by planners and by gradients."""

import pytest
import torch

from colaworld.planning.imagined_cost import imagined_cost
from colaworld.planning.learned_goal import LearnedGoal
from colaworld.planning.objectives import PixelGoal, WeightedSum


def steps_away(latents: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    return (latents - goal).abs().sum(dim=1) / 0.25


def futures() -> torch.Tensor:
    """Two candidates of two frames, latents ``(2, 2, 2)``."""
    return torch.tensor([[[0.5, 0.0], [1.0, 0.0]], [[0.0, 0.25], [0.0, 0.0]]])


def test_it_sums_over_the_frames_that_count(brightness_world) -> None:
    world = brightness_world()
    for last, expected in ((None, [2.0, 9.0]), (1, [0.0, 4.0])):
        goal = LearnedGoal(cost=steps_away, last=last)
        assert goal(world, futures(), goal.target(world, world.frame(1.0, 0.0))).tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="last.*0"):
        LearnedGoal(cost=steps_away, last=0)


def test_vp2s_sum_of_pixels_and_a_logit(brightness_world) -> None:
    world, goal = brightness_world(), brightness_world().frame(1.0, 0.0)
    pixels = PixelGoal()(world, futures(), PixelGoal().target(world, goal))
    both = WeightedSum(terms=(PixelGoal(), LearnedGoal(cost=steps_away)), weights=(0.5, 10.0))
    costs = both(world, futures(), both.target(world, goal))
    torch.testing.assert_close(costs, 0.5 * pixels + 10 * torch.tensor([2.0, 9.0]))


def test_gradients_pass_to_the_actions(brightness_world) -> None:
    world = brightness_world()
    objective = LearnedGoal(cost=steps_away)
    cost = imagined_cost(world, objective, torch.zeros(2), objective.target(world, world.frame(1.0, 0.0)))
    actions = torch.full((1, 2, 2), 0.1, requires_grad=True)
    cost(actions).sum().backward()
    assert actions.grad[0].tolist() == [[-2.0, 2.0], [-1.0, 1.0]]


def test_latents_of_low_precision_are_judged_in_full(brightness_world) -> None:
    world, seen = brightness_world(), []

    def cost(latents: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        seen.extend([latents.dtype, goal.dtype])
        return steps_away(latents, goal)

    goal = LearnedGoal(cost=cost)
    goal(world, futures().bfloat16(), goal.target(world, world.frame(1.0, 0.0)))
    assert seen == [torch.float32, torch.float32]


def test_bad_goals_and_answers_are_named(brightness_world) -> None:
    world = brightness_world()
    with pytest.raises(ValueError, match="uint8"):
        LearnedGoal(cost=steps_away).target(world, torch.zeros(3, 8, 8))
    wrong = LearnedGoal(cost=lambda latents, goal: latents)
    with pytest.raises(ValueError, match=r"4 frames must have shape \(4,\), got \(4, 2\)"):
        wrong(world, futures(), torch.zeros(2))
