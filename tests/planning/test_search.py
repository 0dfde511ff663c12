"""Laws of the one search loop with every planner: known optimum, bounds, seeds, chunks, rejected candidates."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from colaworld.planning.cem import CEM
from colaworld.planning.costing import evaluate
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.gradient import GradientPlanner
from colaworld.planning.icem import ICEM
from colaworld.planning.mppi import MPPI
from colaworld.planning.protocols import Planner
from colaworld.planning.random_shooting import RandomShooting
from colaworld.planning.search import Plan, scatter, search, summarise

PRIOR = ActionPrior(mean=(0.0, 0.0), std=(0.5, 0.5), low=(-1.0, -1.0), high=(1.0, 1.0))
OPTIMUM = torch.tensor([[0.5, -0.25], [-0.75, 0.1], [0.0, 0.9]])
PLANNERS = {
    "cem": CEM(samples=200, iterations=8, elite_fraction=0.1),
    "icem": ICEM(samples=200, iterations=8, elite_fraction=0.1),
    "mppi": MPPI(samples=400, iterations=8, gamma=10.0),
    "gradient": GradientPlanner(samples=8, iterations=60, learning_rate=0.1),
    "random_shooting": RandomShooting(samples=4000),
}
TOLERANCE = {"cem": 0.05, "icem": 0.05, "mppi": 0.15, "gradient": 0.02, "random_shooting": 0.6}


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
        run(PLANNERS[name], lambda actions: quadratic(actions) * math.nan)


@pytest.mark.parametrize("name", PLANNERS)
def test_finds_the_optimum_of_a_linear_task(name: str) -> None:
    """A point moves by 0.5 a step towards 1, and effort costs: the best action is ``gain / (effort + H gain^2)`` at
    every step.
    """
    gain, effort, horizon = 0.5, 0.2, 3
    best = gain / (effort + horizon * gain**2)

    def cost(actions: Tensor) -> Tensor:
        place = (gain * actions[..., 0]).cumsum(dim=1)
        return (place[:, -1] - 1) ** 2 + effort * (actions**2).sum(dim=(1, 2))

    plan = run(PLANNERS[name], cost)
    optimum = torch.tensor([best, 0.0]).expand(horizon, 2)
    assert (plan.actions - optimum).abs().max() < TOLERANCE[name]
    assert plan.cost == pytest.approx((gain * best * horizon - 1) ** 2 + effort * horizon * best**2, abs=0.2)


@pytest.mark.parametrize("name", PLANNERS)
def test_a_planted_proposal_wins_in_one_iteration(name: str) -> None:
    planner = replace(PLANNERS[name], iterations=1)
    proposals = torch.stack([torch.full((3, 2), 0.9), OPTIMUM])
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions)
        return 1e4 * quadratic(actions)

    plan = search(cost, PRIOR.gaussian(3), planner, generator=torch.Generator().manual_seed(0), proposals=proposals)
    assert torch.equal(seen[0][1:3].detach(), proposals), "after the middle, before what is drawn"
    assert len(seen[0]) == planner.samples, "proposals take places, the budget stays"
    assert plan.cost < 1e-3 and torch.allclose(plan.actions, OPTIMUM, atol=1e-3)


def test_proposals_are_moved_inside_the_bounds_and_only_seen_once() -> None:
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions)
        return quadratic(actions)

    generator = torch.Generator().manual_seed(0)
    proposals = torch.full((1, 3, 2), 7.0)
    search(cost, PRIOR.gaussian(3), RandomShooting(samples=5, iterations=2), generator=generator, proposals=proposals)
    assert torch.equal(seen[0][1], torch.ones(3, 2))
    assert not (seen[1] == 1).all(dim=2).all(dim=1).any()


@pytest.mark.parametrize(
    ("proposals", "message"),
    [
        (torch.zeros(2, 4, 2), r"\(P, 3, 2\), got \(2, 4, 2\)"),
        (torch.zeros(5, 3, 2), "5 proposed.*5 candidates"),
        (torch.full((1, 3, 2), math.nan), "finite"),
        (torch.zeros(1, 3, 2, dtype=torch.int64), "float32.*int64"),
    ],
)
def test_proposals_that_cannot_be_are_named(proposals: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(
            quadratic, PRIOR.gaussian(3), CEM(samples=5), generator=torch.Generator(), proposals=proposals
        )


def test_a_dearer_cost_decides_between_the_finalists() -> None:
    """The cheap cost is off by a shift; among its cheapest candidates the exact one picks."""
    sizes: list[int] = []

    def exact(actions: Tensor) -> Tensor:
        sizes.append(len(actions))
        return quadratic(actions)

    def cheap(actions: Tensor) -> Tensor:
        return quadratic(actions - 0.2)

    def plan(**options) -> Plan:
        generator = torch.Generator().manual_seed(0)
        return search(cheap, PRIOR.gaussian(3), CEM(samples=100, iterations=2), generator=generator, **options)

    alone, decided = plan(), plan(final_cost=exact, finalists=20)
    assert sizes == [21] and decided.evaluations == alone.evaluations + 21
    assert decided.cost == quadratic(decided.actions[None]).item() < quadratic(alone.actions[None]).item()
    with pytest.raises(ValueError, match="finalists.*0"):
        plan(final_cost=exact, finalists=0)
    with pytest.raises(FloatingPointError, match="all 9 finalists"):
        plan(final_cost=lambda actions: quadratic(actions) * math.nan)


def test_a_cost_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(5,\), got \(5, 1\)"):
        run(CEM(samples=5), lambda actions: quadratic(actions)[:, None])


def test_history_narrows_for_cem() -> None:
    history = run(PLANNERS["cem"]).history
    assert len(history) == 8
    assert history[-1].std < 0.2 * history[0].std
    assert history[-1].mean_cost < history[0].mean_cost
    assert all(record.best_cost <= record.elite_cost <= record.mean_cost for record in history)


def test_the_spread_of_the_elites_is_written_down_and_shrinks_as_a_search_settles() -> None:
    history = run(CEM(samples=200, iterations=6, elite_fraction=0.1)).history
    assert history[0].elite_spread == pytest.approx(history[1].std, rel=0.1), "what the next round is drawn from"
    assert history[-1].elite_spread < 0.2 * history[0].elite_spread


def test_the_spread_is_that_of_the_elites_and_not_of_the_rejected_or_the_rest() -> None:
    costs = torch.tensor([3.0, math.inf, 1.0, *range(10, 27)])
    actions = torch.randn(20, 3, 2, generator=torch.Generator().manual_seed(0))
    assert summarise(costs, actions, 1.0).elite_spread == pytest.approx((actions[0] - actions[2]).abs().mean() / 2)
    nothing = summarise(torch.full((4,), math.inf), actions[:4], 1.0)
    assert (nothing.elite_spread, nothing.rejected) == (0.0, 4)


def test_codes_scatter_by_how_many_are_not_the_commonest() -> None:
    codes = torch.tensor([[[1, 7]], [[1, 7]], [[1, 3]], [[2, 7]]])
    assert scatter(codes) == pytest.approx(0.25)
    assert scatter(codes[:2]) == scatter(torch.ones(3, 2, 2)) == 0


def test_when_memory_runs_out_candidates_are_costed_in_halves() -> None:
    batches = []

    def cost(actions: torch.Tensor) -> torch.Tensor:
        batches.append(len(actions))
        if len(actions) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return quadratic(actions)

    actions = torch.randn(10, 3, 2)
    assert torch.equal(evaluate(cost, actions, None), quadratic(actions))
    assert batches == [10, 5, 3, 2, 5, 3, 2]

    def hopeless(actions: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        evaluate(hopeless, actions, None)
