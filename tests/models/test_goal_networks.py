"""Networks over a frame and a goal frame, each on a small law that it has to find, and what they do with odd input."""

from collections.abc import Callable

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from colaworld.models.goal_policy import GoalPolicy
from colaworld.models.goal_progress import GoalProgress
from colaworld.models.success_classifier import SuccessClassifier

SIZE = {"latent_channels": 2, "latent_height": 4, "latent_width": 4, "width": 8, "hidden": 32, "dropout": 0.0}


def picture(places: Tensor) -> Tensor:
    """Places ``(N, 2)`` in [0, 3] -> latents ``(N, 2, 4, 4)``: a soft spot in the first channel, nothing beside."""
    axis = torch.arange(4.0)
    spot = torch.exp(-((axis - places[:, :1]) ** 2))[:, :, None] * torch.exp(-((axis - places[:, 1:]) ** 2))[:, None]
    return torch.stack([spot, torch.zeros_like(spot)], dim=1)


def train(model: nn.Module, draw: Callable[[torch.Generator], tuple[Tensor, ...]], steps: int = 200) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        loss, _ = model.loss(*draw(generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def places(count: int, generator: torch.Generator) -> Tensor:
    return 3 * torch.rand(count, 2, generator=generator)


def walk(generator: torch.Generator, count: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Frames of walks of up to 8 steps of 0.3 in any direction."""
    steps = torch.randint(9, (count,), generator=generator)
    angle = 6.28 * torch.rand(count, generator=generator)
    goal = places(count, generator)
    now = goal + 0.3 * steps[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return picture(now), picture(goal), steps


def test_progress_learns_how_far_it_is_and_in_which_order() -> None:
    torch.manual_seed(0)
    model = GoalProgress(max_steps=8, **SIZE)
    train(model, walk, steps=300)
    now, goal, steps = walk(torch.Generator().manual_seed(9), 256)
    expected = model(now, goal)
    assert spearmanr(expected.detach(), steps).statistic > 0.85
    assert (expected - steps).abs().mean() < 1.2
    assert expected.min() >= 0 and expected.max() <= 8


def test_more_steps_than_can_be_told_apart_are_as_far() -> None:
    model = GoalProgress(max_steps=4, **SIZE).eval()
    now, goal, _ = walk(torch.Generator().manual_seed(0), 3)
    far, farther = (model.loss(now, goal, torch.full((3,), steps))[0] for steps in (4, 2**62))
    assert far == farther
    with pytest.raises(ValueError, match="max_steps.*0"):
        GoalProgress(max_steps=0)


def near(generator: torch.Generator, count: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Success of the first kind within 0.5 on the first axis, of the second on the second."""
    now = places(count, generator)
    goal = now + 1.2 * (2 * torch.rand(count, 2, generator=generator) - 1)
    return picture(now), picture(goal), ((goal - now).abs() < 0.5).float()


def test_the_classifier_separates_and_keeps_its_kinds_apart() -> None:
    torch.manual_seed(0)
    model = SuccessClassifier(**SIZE)
    train(model, near, steps=400)
    now, goal, labels = near(torch.Generator().manual_seed(9), 400)
    for number, kind in enumerate(("reach", "push")):
        cost = model.cost(now, goal, kind)
        assert ((cost < 0) == (labels[:, number] > 0.5)).float().mean() > 0.85
        other = labels[:, 1 - number] > 0.5
        assert ((cost < 0) == other).float().mean() < 0.7


def test_both_is_the_logit_of_the_product() -> None:
    model = SuccessClassifier(**SIZE).eval()
    now, goal, _ = near(torch.Generator().manual_seed(1), 8)
    chance = model(now, goal).double().sigmoid().prod(dim=1)
    torch.testing.assert_close(model.cost(now, goal, "both").double(), -chance.logit(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        model.read.weight.zero_()
        model.read.bias.copy_(torch.tensor([80.0, 70.0]))
    assert model.cost(now, goal, "both").tolist() == pytest.approx([-70.0] * 8), "certain twice, and no infinity"
    with pytest.raises(ValueError, match="one of reach, push, both, got 'pull'"):
        model.cost(now, goal, "pull")


def law(generator: torch.Generator, count: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Straight towards the goal, at most 1 a step; the second action of the chunk is unknown."""
    now, goal = places(count, generator), places(count, generator)
    first = (goal - now).clamp(-1, 1)
    return picture(now), picture(goal), torch.stack([first, torch.full_like(first, torch.nan)], dim=1)


def test_the_policy_imitates_a_law_and_steps_that_are_unknown_teach_nothing() -> None:
    torch.manual_seed(0)
    model = GoalPolicy(steps=2, action_dim=2, **SIZE)
    untouched = model.read.weight[2:].clone()
    train(model, law, steps=300)
    now, goal, truth = law(torch.Generator().manual_seed(9), 256)
    assert F.mse_loss(model(now, goal)[:, 0], truth[:, 0]) < 0.15 * truth[:, 0].var()
    assert model(now, goal).abs().max() <= 1
    torch.testing.assert_close(model.read.weight[2:], untouched)
    with pytest.raises(ValueError, match="1 or more, got 0"):
        GoalPolicy(steps=0)


@pytest.mark.parametrize("kind", [GoalProgress, SuccessClassifier, GoalPolicy])
def test_one_goal_stands_for_all_and_strange_latents_are_named(kind) -> None:
    model = kind(**SIZE).eval()
    now = picture(places(3, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(model(now, now[:1]), model(now, now[:1].repeat(3, 1, 1, 1)))
    with pytest.raises(ValueError, match=r"goals have shape \(1, 2, 4, 5\).*\(N, \*\(2, 4, 4\)\)"):
        model(now, torch.zeros(1, 2, 4, 5))


def test_odd_latents_and_the_default_size_work() -> None:
    assert GoalProgress(latent_channels=1, latent_height=3, latent_width=5)(
        torch.zeros(2, 1, 3, 5), torch.zeros(2, 1, 3, 5)
    ).shape == (2,)
    assert GoalPolicy()(torch.zeros(2, 8, 8, 8), torch.zeros(1, 8, 8, 8)).shape == (2, 4, 7)
