"""Descent of the actions: what it finds, what it leaves alone, and what it refuses."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from colaworld.planning.codes import CodePrior
from colaworld.planning.costing import NoGradientError
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.gradient import GradientPlanner
from colaworld.planning.mpc import MPC, MPCConfig
from colaworld.planning.objectives import LatentGoal
from colaworld.planning.search import Plan, search
from colaworld.planning.signs import SignedPrior

PRIOR = ActionPrior(mean=(0.0, 0.25), std=(0.5, 0.0), low=(-1.0, -1.0), high=(1.0, 1.0))
PLANNER = GradientPlanner(samples=6, iterations=60)


def run(cost, planner: GradientPlanner = PLANNER, prior=PRIOR, seed: int = 0, **options) -> Plan:
    generator = torch.Generator().manual_seed(seed)
    return search(cost, prior.distribution(3), planner, generator=generator, **options)


def bowl(actions: Tensor) -> Tensor:
    return (actions[..., 0] - torch.tensor([0.3, -0.6, 2.0])).square().sum(dim=1) + actions[..., 1].sum(dim=1)


@pytest.mark.parametrize("planner", [PLANNER, replace(PLANNER, optimiser="sgd", learning_rate=0.05)])
def test_finds_the_optimum_at_the_bound_too_and_leaves_fixed_dimensions(planner) -> None:
    plan = run(bowl, planner)
    assert torch.allclose(plan.actions[:, 0], torch.tensor([0.3, -0.6, 1.0]), atol=0.02)
    assert (plan.actions[:, 1] == 0.25).all()
    assert plan.evaluations == 6 * 60


def test_restarts_escape_where_one_is_caught() -> None:
    """Two valleys, the deeper one away from the middle."""

    def cost(actions: Tensor) -> Tensor:
        x = actions[:, 0, 0]
        return -torch.exp(-((x + 0.1) / 0.1) ** 2) - 2 * torch.exp(-((x - 0.7) / 0.15) ** 2)

    assert run(cost, replace(PLANNER, samples=1)).actions[0, 0].item() == pytest.approx(-0.1, abs=0.05)
    assert run(cost, replace(PLANNER, samples=16)).actions[0, 0].item() == pytest.approx(0.7, abs=0.05)


def test_straight_through_codes_are_descended() -> None:
    def cost(actions: Tensor) -> Tensor:
        snapped = (actions * 4).round() / 4
        return bowl(snapped.detach() + actions - actions.detach())

    assert run(cost).actions[:2, 0].tolist() == pytest.approx([0.3, -0.6], abs=0.15)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (torch.no_grad()(bowl), "bowl gives no gradient.*no_grad"),
        (lambda actions: torch.ones(len(actions), requires_grad=True), "gives no gradient"),
        (lambda actions: bowl((actions * 4).round() / 4), "every derivative is 0"),
    ],
)
def test_a_cost_without_a_gradient_is_refused_by_name(cost, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(cost)


def test_codes_are_refused() -> None:
    prior = CodePrior(sizes=(4, 4), rest_codes=(0, 0))
    with pytest.raises(NoGradientError, match="codes.*int64"):
        run(lambda codes: codes.float().sum(dim=(1, 2)), prior=prior)


def test_no_weights_gather_gradients_and_chunks_change_nothing() -> None:
    layer = nn.Linear(6, 1)

    def cost(actions: Tensor) -> Tensor:
        return bowl(actions) + layer(actions.flatten(1))[:, 0]

    whole = run(cost)
    assert layer.weight.grad is None
    assert torch.allclose(whole.actions, run(cost, max_batch=4).actions, atol=1e-5)
    assert torch.equal(whole.actions, run(cost).actions)
    assert not whole.actions.requires_grad


def test_the_rule_leaves_its_input_alone() -> None:
    actions = torch.full((2, 3, 2), 0.5)
    actions.grad = torch.ones(2, 3, 2)
    costs = torch.tensor([1.0, math.inf])
    first = PLANNER.update(PRIOR.gaussian(3), actions, costs)
    assert torch.equal(actions, torch.full((2, 3, 2), 0.5))
    points = first.points.clone()
    points.grad = torch.full((2, 3, 2), 0.25)
    second, again = (PLANNER.update(first, points, costs) for _ in range(2))
    assert torch.equal(second.points, again.points) and torch.equal(first.points, points)
    mean, square = 0.9 * 0.1 + 0.1 * 0.25, 0.999 * 0.001 + 0.001 * 0.25**2
    step = 0.1 * (mean / (1 - 0.9**2)) / math.sqrt(square / (1 - 0.999**2))
    assert torch.allclose(first.points[0, :, 0], torch.tensor(0.4), atol=1e-5), "Adam's first step is its rate"
    assert torch.allclose(second.points[0, :, 0], torch.tensor(0.4 - step), atol=1e-5)
    assert (second.points[1] == 0.5).all(), "rejected candidates stay"
    assert (second.points[..., 1] == 0.5).all(), "fixed dimensions stay"


def test_a_step_into_nan_is_taken_back_by_halves() -> None:
    """The optimum lies where the cost is not a number: the descent comes near its border, and never ends there."""

    def cost(actions: Tensor) -> Tensor:
        return torch.where((actions[..., 0] > 0.33).any(dim=1), math.nan, 1.0) * bowl(actions)

    plan = run(cost, replace(PLANNER, samples=1))
    finite = [math.isfinite(record.best_cost) for record in plan.history]
    assert plan.rejected == finite.count(False) > 0
    assert any(finite[finite.index(False) :]), "halves come back to where there are numbers"
    assert 0.2 < plan.actions[2, 0] <= 0.33
    with pytest.raises(FloatingPointError, match="iteration 0"):
        run(lambda actions: bowl(actions) * math.nan)


def test_rejected_candidates_go_back_by_halves_and_broken_slopes_are_not_followed() -> None:
    def at(*values: float) -> Tensor:
        actions = torch.tensor(values).reshape(-1, 1, 1)
        actions.grad = torch.full_like(actions, math.nan)
        return actions

    prior = ActionPrior(mean=(0.0,), std=(0.5,), low=(-1.0,), high=(1.0,)).gaussian(1)
    first = PLANNER.update(prior, at(0.5, 0.0), torch.tensor([1.0, 1.0]))
    assert first.points.flatten().tolist() == [0.5, 0.0], "a slope that is no number is none"
    second = PLANNER.update(first, at(1.0, 0.0), torch.tensor([math.inf, 1.0]))
    third = PLANNER.update(second, at(0.75, 0.0), torch.tensor([math.inf, 1.0]))
    assert [step.points[0].item() for step in (second, third)] == [0.75, 0.625]
    fourth = PLANNER.update(third, at(0.625, 0.0), torch.tensor([1.0, 1.0]))
    assert fourth.safe.flatten().tolist() == [0.625, 0.0] and fourth.points.isfinite().all()


def test_signs_differ_between_restarts_and_stay() -> None:
    prior = SignedPrior(**vars(PRIOR), signed=(1,))

    def cost(actions: Tensor) -> Tensor:
        return (actions[..., 0] - 0.4 * actions[..., 1]).square().sum(dim=1) + (actions[..., 1] - 1).abs().sum(dim=1)

    plan = run(cost, replace(PLANNER, samples=40), prior=prior)
    assert plan.actions[:, 1].tolist() == [1.0] * 3
    assert plan.actions[:, 0].tolist() == pytest.approx([0.4] * 3, abs=0.02)


def test_plans_in_a_world_and_names_the_world_that_passes_none(brightness_world) -> None:
    prior = replace(PRIOR, std=(0.5, 0.5), mean=(0.0, 0.0))
    world = brightness_world(context_frames=1)
    mpc = MPC(world, replace(PLANNER, iterations=30), LatentGoal(), prior=prior, config=MPCConfig(horizon=3))
    mpc.reset(world.frame(0.6, 0.3), 0)
    assert mpc.act(world.frame(0.5, 0.4)).tolist() == pytest.approx([0.4, -0.4], abs=0.05)
    world.imagine = torch.no_grad()(world.imagine)
    mpc.reset(world.frame(0.6, 0.3), 0)
    with pytest.raises(NoGradientError, match="BrightnessWorld and LatentGoal.*no gradient"):
        mpc.act(world.frame(0.5, 0.4))


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match="learning_rate.*0"):
        GradientPlanner(learning_rate=0.0)
    with pytest.raises(ValueError, match="momentum.*1"):
        GradientPlanner(momentum=1.0)
    with pytest.raises(ValueError, match="optimiser.*'lion'"):
        GradientPlanner(optimiser="lion")
    with pytest.raises(ValueError, match="samples.*0"):
        GradientPlanner(samples=0)
