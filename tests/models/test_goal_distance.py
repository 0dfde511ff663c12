"""The expected distance to a goal frame, on pictures with a known answer: one spot is the gripper, one an object."""

import pytest
import torch
from torch import Tensor

from colaworld.models.goal_distance import GoalDistance

CELL = 0.02
"""Metres of a cell of the latent."""


def picture(gripper: Tensor, thing: Tensor, brightness: Tensor | float = 1.0) -> Tensor:
    """``(N, 2, 8, 8)``: Gaussian spots at ``gripper (N, 2)`` in the first channel and at ``thing`` in the second."""
    grid = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"), dim=-1)

    def spot(place: Tensor) -> Tensor:
        return torch.exp(-(grid - place[:, None, None]).square().sum(dim=-1) / 2)

    first = spot(gripper) * (brightness if isinstance(brightness, float) else brightness[:, None, None])
    return torch.stack([first, spot(thing)], dim=1)


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, goals and truths; in a third of the frames no gripper is to be seen."""
    generator = torch.Generator().manual_seed(seed)
    places = 1 + 5 * torch.rand(4, count, 2, generator=generator)
    dark = (torch.rand(count, generator=generator) < 1 / 3).float()
    now, goal = picture(places[0], places[1], 1 - dark), picture(places[2], places[3])
    truth = [CELL * torch.cat([place, place.mean(dim=1, keepdim=True)], dim=1) for place in (places[0], places[2])]
    return now, goal, torch.cat([*truth, CELL * (places[1] - places[3]).norm(dim=1, keepdim=True)], dim=1)


@pytest.fixture(scope="module")
def network() -> GoalDistance:
    torch.manual_seed(0)
    made = GoalDistance(latent_channels=2, width=8, hidden=64, dropout=0.0, centre=(0.07, 0.07, 0.07), spread=0.03)
    optimiser = torch.optim.Adam(made.parameters(), 3e-3)
    for step in range(400):
        loss, _ = made.loss(*drawn(64, step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return made.eval()


@torch.no_grad()
def test_it_reads_metres_and_doubts_where_nothing_is_to_be_seen(network: GoalDistance) -> None:
    now, goal, truth = drawn(200, 9999)
    seen = now[:, 0].amax(dim=(1, 2)) > 0.1
    place, variance = network.gripper(now)
    assert (place - truth[:, :3]).norm(dim=1)[seen].median() < 0.006
    assert variance.sum(dim=1)[~seen].min() > variance.sum(dim=1)[seen].median() * 4
    distance, _ = network.objects(now, goal)
    assert (distance - truth[:, 6]).abs().median() < 0.012
    _, metrics = network.loss(now, goal, truth)
    assert set(metrics) == {"gripper", "objects", "gripper_off_cm"} and metrics["gripper_off_cm"] > 0


@torch.no_grad()
def test_a_vanished_arm_is_no_way_to_be_near(network: GoalDistance) -> None:
    """The flaw of comparing pictures: nothing at all is nearer to the goal than something in the wrong place."""
    goal_place, thing = torch.tensor([[3.5, 3.5]]), torch.tensor([[2.0, 5.0]])
    goal, gone = picture(goal_place, thing), picture(goal_place, thing, 0.0)
    wrong = picture(torch.tensor([[3.5, 5.5]]), thing)
    assert (gone - goal).square().sum() < (wrong - goal).square().sum()
    near = picture(torch.tensor([[3.5, 4.0]]), thing)
    costs = {name: float(network.cost(each, goal, "reach")) for name, each in (("gone", gone), ("near", near))}
    assert costs["gone"] > 2 * costs["near"]


@torch.no_grad()
def test_kinds_of_distance(network: GoalDistance) -> None:
    thing = torch.tensor([[2.0, 5.0]])
    goal = picture(torch.tensor([[3.0, 3.0]]), thing)
    frames = picture(torch.tensor([[3.0, 3.0], [3.0, 5.0]]), thing.expand(2, -1))
    reach, push, both = (network.cost(frames, goal, kind) for kind in ("reach", "push", "both"))
    assert reach.shape == (2,) and reach[1] > reach[0] and 0.03 < reach[1] < 0.07
    torch.testing.assert_close(both, reach + push)
    moved = picture(torch.tensor([[3.0, 3.0]]), torch.tensor([[5.0, 2.0]]))
    assert network.cost(moved, goal, "push") > 2 * push[0]


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match=r"spread \(metres\) must be positive, got 0"):
        GoalDistance(spread=0.0)
    made = GoalDistance(width=2, hidden=4)
    with pytest.raises(ValueError, match="distance kind must be one of reach, push, both, got 'lift'"):
        made.cost(torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 8, 8), "lift")
    with pytest.raises(ValueError, match=r"latents have shape \(1, 4, 8, 8\), the network was made for"):
        made.gripper(torch.zeros(1, 4, 8, 8))
