"""CEM's elites and MPPI's weights against numbers worked out by hand, and the configs' refusals."""

import math

import pytest
import torch

from colaworld.planning.cem import CEM, elite_indices
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.mppi import MPPI, path_weights
from colaworld.planning.random_shooting import RandomShooting

GAUSSIAN = ActionPrior(mean=(0.0, 0.5), std=(1.0, 0.0), low=(-9.0, -9.0), high=(9.0, 9.0)).gaussian(1)


def first_dimension(*values: float) -> torch.Tensor:
    """Candidates ``(S, 1, 2)`` that differ in the first dimension only."""
    return torch.stack([torch.tensor([[value, 0.5]]) for value in values])


def test_cem_refits_to_the_elites() -> None:
    actions = first_dimension(4.0, 1.0, 3.0, 100.0)
    updated = CEM(samples=4, elite_fraction=0.5).update(GAUSSIAN, actions, torch.tensor([9.0, 0.0, 1.0, 50.0]))
    assert updated.mean.tolist() == [[2.0, 0.5]]
    assert updated.std.tolist() == [[1.0, 0.0]]
    assert GAUSSIAN.mean.tolist() == [[0.0, 0.5]], "the rule must leave its input alone"


def test_cem_keeps_a_share_of_the_old_distribution() -> None:
    actions = first_dimension(4.0, 8.0)
    updated = CEM(samples=2, elite_fraction=1.0, keep=0.75).update(GAUSSIAN, actions, torch.zeros(2))
    assert updated.mean[0, 0].item() == pytest.approx(0.25 * 6.0)
    assert updated.std[0, 0].item() == pytest.approx(math.sqrt(0.75 * 1.0 + 0.25 * 4.0))


def test_cem_never_takes_rejected_candidates_and_floors_only_what_was_free() -> None:
    actions = first_dimension(2.0, 7.0, 8.0, 9.0)
    costs = torch.tensor([3.0, math.inf, math.inf, math.inf])
    updated = CEM(samples=4, elite_fraction=0.75, min_std=0.1).update(GAUSSIAN, actions, costs)
    assert updated.mean[0, 0].item() == 2.0
    assert updated.std.tolist() == [[pytest.approx(0.1), 0.0]]


def test_elites_are_cheapest_first_and_ties_go_to_the_earlier() -> None:
    assert elite_indices(torch.tensor([2.0, 1.0, 1.0, math.inf, 0.0]), 3).tolist() == [4, 1, 2]
    assert CEM(samples=200).elites == 10
    assert CEM(samples=8).elites == 2


def test_mppi_weights_by_hand() -> None:
    weights = path_weights(torch.tensor([1.0, 3.0, math.inf]), gamma=0.5)
    ratio = math.exp(-0.5 * 2.0)
    assert weights.tolist() == pytest.approx([1 / (1 + ratio), ratio / (1 + ratio), 0.0])


def test_mppi_weights_only_know_differences_even_of_huge_costs() -> None:
    costs = torch.tensor([0.0, 16.0, 48.0])
    assert torch.allclose(path_weights(costs, 0.05), path_weights(costs + 2.0**20, 0.05))


def test_normalised_mppi_weights_do_not_depend_on_the_unit_of_the_cost() -> None:
    costs = torch.tensor([1.0, 3.0, 7.0, math.inf])
    assert torch.allclose(path_weights(costs, 2.0, normalise=True), path_weights(costs * 1000, 2.0, normalise=True))
    scale = torch.tensor([1.0, 3.0, 7.0]).std(unbiased=False).item()
    expected = torch.softmax(torch.tensor([0.0, -4.0 / scale, -12.0 / scale]), dim=0)
    assert torch.allclose(path_weights(costs, 2.0, normalise=True)[:3], expected)
    assert path_weights(torch.ones(4), 1.0, normalise=True).tolist() == [0.25] * 4


def test_mppi_moves_the_mean_and_keeps_the_spread() -> None:
    updated = MPPI(samples=2, gamma=0.5).update(GAUSSIAN, first_dimension(0.0, 4.0), torch.tensor([3.0, 1.0]))
    assert updated.mean[0, 0].item() == pytest.approx(4.0 / (1 + math.exp(-1.0)))
    assert torch.equal(updated.std, GAUSSIAN.std)


def test_random_shooting_learns_nothing() -> None:
    assert RandomShooting().update(GAUSSIAN, first_dimension(1.0), torch.zeros(1)) is GAUSSIAN


def test_defaults_are_vp2s() -> None:
    assert (CEM().samples, CEM().iterations, CEM().elite_fraction) == (200, 3, 0.05)
    assert (MPPI().samples, MPPI().iterations, MPPI().gamma) == (200, 1, 0.05)


@pytest.mark.parametrize("planner", [CEM, MPPI, RandomShooting])
@pytest.mark.parametrize("field", ["samples", "iterations"])
def test_an_empty_budget_is_refused(planner: type, field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be 1 or more, got 0"):
        planner(**{field: 0})


def test_shares_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="elite_fraction.*1.5"):
        CEM(elite_fraction=1.5)
    with pytest.raises(ValueError, match="keep.*1.0"):
        CEM(keep=1.0)
    with pytest.raises(ValueError, match="min_std.*-1"):
        CEM(min_std=-1)
    with pytest.raises(ValueError, match="gamma.*0"):
        MPPI(gamma=0.0)
