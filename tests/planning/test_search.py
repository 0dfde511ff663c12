"""Laws of the one search loop with every planner: known optimum, bounds, seeds, chunks, rejected candidates."""

import math

import pytest
import torch
from torch import Tensor

from colaworld.planning.cem import CEM
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.mppi import MPPI
from colaworld.planning.protocols import Planner
from colaworld.planning.random_shooting import RandomShooting
from colaworld.planning.search import Plan, search

PRIOR = ActionPrior(mean=(0.0, 0.0), std=(0.5, 0.5), low=(-1.0, -1.0), high=(1.0, 1.0))
OPTIMUM = torch.tensor([[0.5, -0.25], [-0.75, 0.1], [0.0, 0.9]])
PLANNERS = {
    "cem": CEM(samples=200, iterations=8, elite_fraction=0.1),
    "mppi": MPPI(samples=400, iterations=8, gamma=10.0),
    "random_shooting": RandomShooting(samples=4000),
}
TOLERANCE = {"cem": 0.05, "mppi": 0.15, "random_shooting": 0.6}


def quadratic(actions: Tensor) -> Tensor:
    return ((actions - OPTIMUM) ** 2).sum(dim=(1, 2))


def run(planner: Planner, cost=quadratic, seed: int = 0, max_batch: int | None = None) -> Plan:
    return search(cost, PRIOR.gaussian(3), planner, generator=torch.Generator().manual_seed(seed), max_batch=max_batch)


@pytest.mark.parametrize("name", PLANNERS)
def test_finds_the_optimum_of_a_quadratic(name: str) -> None:
    plan = run(PLANNERS[name])
    assert (plan.actions - OPTIMUM).abs().max() < TOLERANCE[name]
    assert plan.cost == pytest.approx(quadratic(plan.actions[None]).item(), rel=1e-5)
    assert plan.history[-1].best_cost <= quadratic(torch.zeros(1, 3, 2)).item()
    assert plan.seconds > 0 and plan.rejected == 0


@pytest.mark.parametrize("name", PLANNERS)
def test_an_optimum_outside_the_bounds_is_approached_at_the_bound(name: str) -> None:
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions)
        return ((actions - 3.0) ** 2).sum(dim=(1, 2))

    plan = run(PLANNERS[name], cost)
    assert torch.cat(seen).abs().max() <= 1
    assert plan.actions.mean() > 0.5


@pytest.mark.parametrize("name", PLANNERS)
def test_a_seed_decides_everything_and_chunks_change_nothing(name: str) -> None:
    planner = PLANNERS[name]
    whole = run(planner, seed=5)
    assert torch.equal(whole.actions, run(planner, seed=5).actions)
    assert torch.equal(whole.actions, run(planner, seed=5, max_batch=7).actions)
    assert not torch.equal(whole.actions, run(planner, seed=6).actions)


def test_chunks_respect_the_limit_and_evaluations_are_counted() -> None:
    sizes: list[int] = []

    def cost(actions: Tensor) -> Tensor:
        sizes.append(len(actions))
        return quadratic(actions)

    plan = run(MPPI(samples=20, iterations=2), cost, max_batch=8)
    assert sizes == [8, 8, 4, 8, 8, 4, 1]
    assert plan.evaluations == sum(sizes)
    assert run(CEM(samples=20, iterations=2), max_batch=8).evaluations == 40
    with pytest.raises(ValueError, match="max_batch.*0"):
        run(CEM(samples=4), max_batch=0)


@pytest.mark.parametrize("name", PLANNERS)
def test_the_middle_is_always_a_candidate(name: str) -> None:
    """With the optimum in the middle, no planner may return anything worse (MPPI returns its mean: nearly the
    middle).
    """
    plan = search(
        quadratic,
        PRIOR.gaussian(3).recentred(OPTIMUM),
        PLANNERS[name],
        generator=torch.Generator().manual_seed(0),
    )
    assert plan.history[0].best_cost == 0
    assert plan.cost < (0.05 if name == "mppi" else 1e-12)


def test_one_candidate_is_the_middle_itself() -> None:
    assert torch.equal(run(RandomShooting(samples=1)).actions, torch.zeros(3, 2))


def test_the_best_candidate_ever_is_kept_over_a_worse_later_round() -> None:
    calls = 0

    def cost(actions: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return quadratic(actions) + 100 * (calls - 1)

    plan = run(CEM(samples=16, iterations=3), cost)
    assert plan.cost == plan.history[0].best_cost < plan.history[1].best_cost


@pytest.mark.parametrize("name", PLANNERS)
def test_candidates_of_nan_cost_are_rejected_and_counted(name: str) -> None:
    def cost(actions: Tensor) -> Tensor:
        return torch.where(actions[:, 0, 0] > 0.2, math.nan, quadratic(actions))

    plan = run(PLANNERS[name], cost)
    assert plan.rejected == sum(record.rejected for record in plan.history) > 0
    assert plan.actions.isfinite().all() and math.isfinite(plan.cost)
    assert plan.actions[0, 0] <= 0.2


@pytest.mark.parametrize("name", PLANNERS)
def test_nothing_but_nan_stops_with_its_name(name: str) -> None:
    with pytest.raises(FloatingPointError, match="iteration 0.*all .* NaN"):
        run(PLANNERS[name], lambda actions: torch.full((len(actions),), math.nan))


def test_a_cost_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(5,\), got \(5, 1\)"):
        run(CEM(samples=5), lambda actions: quadratic(actions)[:, None])


def test_history_narrows_for_cem() -> None:
    history = run(PLANNERS["cem"]).history
    assert len(history) == 8
    assert history[-1].std < 0.2 * history[0].std
    assert history[-1].mean_cost < history[0].mean_cost
    assert all(record.best_cost <= record.elite_cost <= record.mean_cost for record in history)
