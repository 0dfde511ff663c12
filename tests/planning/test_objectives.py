"""Objective values worked out by hand in the brightness world, and the way from a world to a cost."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from colaworld.planning.imagined_cost import imagined_cost
from colaworld.planning.objectives import LatentGoal, PixelGoal, WeightedSum, blurred

HALF_PIXELS = 3 * 8 * 4
"""Values in one half of a frame."""


def futures() -> torch.Tensor:
    """Two candidates of two frames, latents ``(2, 2, 2)``."""
    return torch.tensor([[[0.5, 0.0], [1.0, 0.0]], [[0.0, 0.25], [0.0, 0.0]]])


def test_pixel_goal_sums_squares_over_all_frames(brightness_world) -> None:
    world = brightness_world()
    goal = world.frame(1.0, 0.0)
    costs = PixelGoal()(world, futures(), PixelGoal().target(world, goal))
    expected = [0.25 * HALF_PIXELS, (1.0 + 0.0625 + 1.0) * HALF_PIXELS]
    assert costs.tolist() == pytest.approx(expected, rel=1e-5)


def test_latent_goal_sums_squares_over_all_frames(brightness_world) -> None:
    world = brightness_world()
    costs = LatentGoal()(world, futures(), LatentGoal().target(world, world.frame(1.0, 0.0)))
    assert costs.tolist() == pytest.approx([0.25, 2.0625])


def test_only_the_last_frames_may_count(brightness_world) -> None:
    world = brightness_world()
    goal = world.frame(1.0, 0.0)
    for objective, unit in ((PixelGoal(last=1), HALF_PIXELS), (LatentGoal(last=1), 1)):
        costs = objective(world, futures(), objective.target(world, goal))
        assert costs.tolist() == pytest.approx([0.0, 1.0 * unit])
    with pytest.raises(ValueError, match="last.*0"):
        PixelGoal(last=0)


def test_weighted_sum_by_hand(brightness_world) -> None:
    world = brightness_world()
    both = WeightedSum(terms=(PixelGoal(), LatentGoal(last=1)), weights=(0.5, 10.0))
    costs = both(world, futures(), both.target(world, world.frame(1.0, 0.0)))
    assert costs.tolist() == pytest.approx([0.125 * HALF_PIXELS, 2.0625 / 2 * HALF_PIXELS + 10.0], rel=1e-5)
    with pytest.raises(ValueError, match="1 terms, 2 weights"):
        WeightedSum(terms=(PixelGoal(),), weights=(1.0, 1.0))


def test_blurring_is_scipys_gaussian_filter() -> None:
    frames = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter(frames.numpy(), (0, 0, 1.5, 1.5), mode="nearest", radius=(0, 0, 5, 5))
    assert blurred(frames, 1.5).numpy() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(blurred(frames, 0.0), frames)


def test_a_blurred_goal_is_felt_from_afar() -> None:
    """Two spots that do not overlap: sharp pixels cannot tell which is nearer to the goal, blurred ones can."""

    class Pictures:
        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return latents

    def spot(column: int) -> torch.Tensor:
        frame = torch.zeros(3, 8, 24)
        frame[:, 3:5, column : column + 2] = 1
        return frame

    imagined = torch.stack([spot(8), spot(14)])[:, None]
    goal = (spot(2) * 255).to(torch.uint8)
    sharp, smooth = (
        objective(Pictures(), imagined, objective.target(Pictures(), goal))
        for objective in (PixelGoal(), PixelGoal(blur=3.0))
    )
    assert sharp[0] == sharp[1]
    assert smooth[0] < 0.8 * smooth[1]
    with pytest.raises(ValueError, match="blur.*-1"):
        PixelGoal(blur=-1.0)


@pytest.mark.parametrize("objective", [PixelGoal(), LatentGoal()])
def test_a_goal_must_be_a_uint8_frame(brightness_world, objective) -> None:
    with pytest.raises(ValueError, match="uint8"):
        objective.target(brightness_world(), torch.zeros(3, 8, 8))


def test_imagined_cost_joins_world_and_objective(brightness_world) -> None:
    world = brightness_world()
    state = world.start(world.frame(0.0, 0.0)[None], torch.zeros(0, 2))
    target = LatentGoal().target(world, world.frame(1.0, 0.0))
    cost = imagined_cost(world, LatentGoal(), state, target)
    actions = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert cost(actions).tolist() == pytest.approx([0.75**2 + 0.5**2])


def test_imagined_cost_refuses_what_the_world_cannot_imagine(brightness_world) -> None:
    world = brightness_world()
    cost = imagined_cost(world, LatentGoal(), torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match="13 steps.*12"):
        cost(torch.zeros(1, 13, 2))
    with pytest.raises(ValueError, match=r"\(S, H, 2\), got \(1, 3, 7\)"):
        cost(torch.zeros(1, 3, 7))
