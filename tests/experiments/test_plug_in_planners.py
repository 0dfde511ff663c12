"""The laws of planners and objectives: ours keep them, and whoever breaks one is told which."""

import math
import re
from collections.abc import Callable

import pytest
import torch

from colaworld.experiments.conformance import Finding
from colaworld.experiments.conformance_planner import check_objective, check_planner
from colaworld.experiments.examples.predictive_sampling import PredictiveSampling
from colaworld.planning.budget import SearchBudget
from colaworld.planning.cem import CEM
from colaworld.planning.gradient import GradientPlanner
from colaworld.planning.icem import ICEM
from colaworld.planning.mppi import MPPI
from colaworld.planning.objectives import LatentGoal, PixelGoal, WeightedSum
from colaworld.planning.random_shooting import RandomShooting
from colaworld.planning.search import search


def broken(findings: tuple[Finding, ...]) -> list[Finding]:
    return [finding for finding in findings if finding.status == "fail"]


@pytest.mark.parametrize(
    "planner",
    [CEM(), ICEM(), MPPI(), GradientPlanner(samples=4, iterations=8), RandomShooting(), PredictiveSampling()],
    ids=lambda planner: type(planner).__name__,
)
def test_planners_that_ship_keep_every_law(planner) -> None:
    findings = check_planner(planner)
    assert {finding.status for finding in findings} == {"pass"} and len(findings) == 6


class Mine(SearchBudget):
    """Broken by what is put in the place of its rule."""

    returns = "best"
    rule: Callable

    def update(self, distribution, actions, costs):
        return type(self).rule(self, distribution, actions, costs)


def remembers(self, distribution, actions, costs):
    object.__setattr__(self, "moved", getattr(self, "moved", 0) + 1)
    return distribution.recentred(torch.full_like(actions[0], 0.1 * self.moved))


def overwrites(distribution, **fields):
    for name, value in fields.items():
        object.__setattr__(distribution, name, value)
    return distribution


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (lambda self, distribution, actions, costs: actions[0], "expected the next distribution, got Tensor"),
        (lambda self, distribution, actions, costs: None, "expected the next distribution, got NoneType"),
        (
            lambda self, distribution, actions, costs: distribution.recentred(actions[0] * math.nan),
            "middle .* of finite numbers",
        ),
        (lambda self, distribution, actions, costs: distribution.recentred(actions.mul_(0)[0]), "actions left as"),
        (
            lambda self, distribution, actions, costs: (costs.sub_(costs.min()), distribution)[1],
            "costs left as given",
        ),
        (
            lambda self, distribution, actions, costs: overwrites(distribution, mean=distribution.mean + 0.1),
            "distribution's middle left as given",
        ),
        (
            lambda self, distribution, actions, costs: overwrites(distribution, std=distribution.std / 2),
            "distribution's spread left at 0.5, got 0.25",
        ),
        (remembers, "equal plans from equal seeds"),
        (
            lambda self, distribution, actions, costs: distribution.recentred((actions * costs[:, None, None]).mean(0)),
            "middle .* of finite numbers",
        ),
        (lambda self, distribution, actions, costs: 1 / 0, "it raised ZeroDivisionError"),
    ],
)
def test_a_broken_rule_is_named(rule, says) -> None:
    class Bad(Mine):
        pass

    Bad.rule = staticmethod(rule)
    Bad.returns = "mean" if rule is remembers else "best"
    findings = broken(check_planner(Bad(samples=8, iterations=3)))
    assert findings and findings[0].method == "update" and re.search(says, findings[0].message), findings


def test_what_is_missing_or_out_of_range_is_named() -> None:
    class Nothing(SearchBudget):
        pass

    class Indecisive(Mine):
        returns = "median"

    class Empty(Mine):
        def population(self, iteration: int) -> int:
            return 4 - 2 * iteration

    for planner, says in (
        (Nothing(), "expected an attribute update, got a Nothing without one"),
        (Indecisive(), "expected returns to be 'best' or 'mean', got 'median'"),
        (Empty(iterations=3), r"expected population\(2\) to be 1 or more, got 0"),
        (object(), "expected an attribute samples"),
    ):
        (finding,) = check_planner(planner)
        assert finding.status == "fail" and re.search(says, finding.message), finding


def test_a_single_candidate_may_find_nothing() -> None:
    (note,) = [finding for finding in check_planner(RandomShooting(samples=1)) if finding.status == "note"]
    assert "1 candidates found nothing better" in note.message


def test_predictive_sampling_goes_to_the_cheapest_and_beats_one_round_of_as_many() -> None:
    from colaworld.experiments.conformance_planner import REST, squared

    distribution, actions = REST.distribution(4), torch.rand(5, 4, 3)
    moved = PredictiveSampling().update(distribution, actions, torch.tensor([3.0, math.inf, 1.0, 2.0, 5.0]))
    assert torch.equal(moved.mode(), actions[2]) and moved.spread() == distribution.spread()
    costs = {
        planner: sum(
            search(squared, distribution, planner, generator=torch.Generator().manual_seed(seed)).cost
            for seed in range(5)
        )
        for planner in (PredictiveSampling(samples=32, iterations=8), RandomShooting(samples=256, iterations=1))
    }
    assert min(costs, key=costs.get) == PredictiveSampling(samples=32, iterations=8)


@pytest.mark.parametrize(
    "objective",
    [PixelGoal(blur=2), LatentGoal(last=1), WeightedSum(terms=(PixelGoal(), LatentGoal()), weights=(1, 2))],
    ids=lambda objective: type(objective).__name__,
)
def test_objectives_that_ship_keep_every_law(objective) -> None:
    findings = check_objective(objective, height=8, width=12)
    assert {finding.status for finding in findings} == {"pass"} and len(findings) == 6


def costing(function: Callable) -> object:
    class Cost:
        def target(self, world, goal):
            return world.encode(goal[None])[0]

        def __call__(self, world, imagined, target):
            return function(imagined, target)

    return Cost()


@pytest.mark.parametrize(
    ("cost", "says"),
    [
        (lambda imagined, target: (imagined - target).square().mean(), r"costs \(S,\) of shape \(3,\), got \(\)"),
        (lambda imagined, target: imagined.zero_().flatten(1).sum(dim=1), "imagined left as given"),
        (lambda imagined, target: imagined.flatten(1).sum(dim=1) / 0, "costs .* of finite numbers"),
        (lambda imagined, target: (imagined - imagined.mean(0)).square().flatten(1).sum(dim=1), "candidate 0 alone"),
        (
            lambda imagined, target: imagined.flatten(1).sum(dim=1) / imagined.isfinite().all(),
            "costs of the others as before|NaN",
        ),
        (lambda imagined, target: imagined.nope, "it raised AttributeError"),
    ],
)
def test_a_broken_objective_is_named(cost, says) -> None:
    findings = broken(check_objective(costing(cost), height=8, width=8))
    assert findings and findings[0].method == "__call__" and re.search(says, findings[0].message), findings


def test_an_objective_turned_round_is_noted() -> None:
    turned = costing(lambda imagined, target: -(imagined - target).square().flatten(1).sum(dim=1))
    (note,) = [finding for finding in check_objective(turned, height=8, width=8) if finding.status == "note"]
    assert "the goal itself costs" in note.message


def test_an_objective_is_tried_in_the_latents_of_the_world_that_it_is_for(spot_world) -> None:
    places = costing(lambda imagined, target: (imagined[:, -1] - target).norm(dim=1))
    assert not broken(check_objective(places, spot_world(), height=16, width=16))
