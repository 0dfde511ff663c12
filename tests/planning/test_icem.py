"""iCEM against numbers worked out by hand, and against CEM at equal evaluations."""

import math

import pytest
import torch
from torch import Tensor

from colaworld.planning.cem import CEM
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.icem import ICEM
from colaworld.planning.protocols import Planner
from colaworld.planning.search import search

HORIZON = 12
LIMITS = {"mean": (0.0,) * 3, "std": (0.5,) * 3, "low": (-1.0,) * 3, "high": (1.0,) * 3}


def test_the_population_shrinks_to_twice_the_elites() -> None:
    planner = ICEM(samples=100, elite_fraction=0.1, shrink_population=0.5)
    assert [planner.population(iteration) for iteration in range(5)] == [100, 50, 25, 20, 20]
    assert [ICEM(samples=3, shrink_population=0.5).population(iteration) for iteration in range(3)] == [3, 3, 3]


def test_the_cheapest_elites_are_kept_and_rejected_ones_never() -> None:
    planner = ICEM(samples=10, elite_fraction=0.4, keep_elites=0.5)
    actions = torch.arange(10.0).reshape(10, 1, 1)
    costs = torch.tensor([9.0, 3.0, 1.0, 2.0, 8.0, 7.0, 6.0, 5.0, 4.0, 10.0])
    assert planner.kept(actions, costs).flatten().tolist() == [2.0, 3.0]
    assert planner.kept(actions, torch.where(actions.flatten() == 4, 0.0, math.inf)).flatten().tolist() == [4.0]
    assert len(ICEM(samples=10, keep_elites=0.0).kept(actions, costs)) == 0
    assert len(CEM(samples=10).kept(actions, costs)) == 0


def test_kept_elites_are_candidates_again_and_the_middle_is_among_the_first_and_the_last() -> None:
    seen: list[Tensor] = []
    middles: list[Tensor] = []

    class Watched(ICEM):
        def update(self, distribution, actions, costs):
            middles.append(distribution.mode())
            return super().update(distribution, actions, costs)

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions)
        return (actions - 0.3).square().sum(dim=(1, 2))

    planner = Watched(samples=40, iterations=3, elite_fraction=0.1, keep_elites=0.5)
    plan = search(cost, ActionPrior(**LIMITS).gaussian(2), planner, generator=torch.Generator().manual_seed(0))
    assert [len(actions) for actions in seen] == [40, 32, 26] and plan.evaluations == 98

    def among(candidate: Tensor, actions: Tensor) -> bool:
        return bool((actions == candidate).all(dim=(1, 2)).any())

    for before, after in zip(seen[:-1], seen[1:], strict=True):
        best = before[(before - 0.3).square().sum(dim=(1, 2)).argsort(stable=True)[:2]]
        assert all(among(kept, after) for kept in best)
    assert [among(middle, actions) for middle, actions in zip(middles, seen, strict=True)] == [True, False, True]
    assert plan.kept.shape == (2, 2, 3) and torch.equal(plan.kept[0], plan.actions)


def smooth_task(seed: int) -> Tensor:
    """A slow wave ``(H, 3)`` inside the bounds: neighbouring actions are alike."""
    generator = torch.Generator().manual_seed(1000 + seed)
    amplitude, phase = torch.rand(3, generator=generator) * 0.4 + 0.4, torch.rand(3, generator=generator) * 6
    return amplitude * torch.sin(torch.linspace(0, 3, HORIZON)[:, None] + phase)


def costs_of(planner: Planner, prior: ActionPrior) -> Tensor:
    """What is reached on 12 tasks (distance to the wave), one seed each."""
    found = []
    for seed in range(12):
        optimum, generator = smooth_task(seed), torch.Generator().manual_seed(seed)

        def cost(actions: Tensor) -> Tensor:
            return (actions - optimum).square().sum(dim=(1, 2))

        found.append(search(cost, prior.gaussian(HORIZON), planner, generator=generator).cost)
    return torch.tensor(found)


def test_beats_cem_at_equal_evaluations_on_a_temporally_correlated_optimum() -> None:
    icem = ICEM(samples=60, iterations=6, elite_fraction=0.1)
    evaluations = sum(icem.population(iteration) for iteration in range(6))
    cem = CEM(samples=math.ceil(evaluations / 6), iterations=6, elite_fraction=0.1)
    white, coloured = ActionPrior(**LIMITS), ActionPrior(**LIMITS, exponent=2.0)
    ours, plain, noisy = costs_of(icem, coloured), costs_of(cem, white), costs_of(cem, coloured)
    assert (ours < plain).all() and ours.mean() < 0.6 * plain.mean()
    assert (ours < noisy).sum() >= 9 and ours.mean() < 0.95 * noisy.mean(), "not by the noise alone"


def test_shares_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="keep_elites.*1.5"):
        ICEM(keep_elites=1.5)
    with pytest.raises(ValueError, match="shrink_population.*0"):
        ICEM(shrink_population=0.0)
    with pytest.raises(ValueError, match="elite_fraction.*0"):
        ICEM(elite_fraction=0.0)
