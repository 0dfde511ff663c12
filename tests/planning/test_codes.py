"""Search over codes: the distribution's laws, planted sequences found, and the way back to real actions."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from colaworld.planning.cem import CEM
from colaworld.planning.codes import Categorical, CodePrior
from colaworld.planning.icem import ICEM
from colaworld.planning.mpc import MPC, MPCConfig
from colaworld.planning.mppi import MPPI
from colaworld.planning.objectives import LatentGoal
from colaworld.planning.search import search

PRIOR = CodePrior(sizes=(32, 32), rest_codes=(3, 4))
PLANTED = torch.tensor([[7, 30], [0, 31], [12, 12], [25, 1]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_samples_are_codes_of_the_probabilities() -> None:
    categorical = Categorical(probabilities=torch.tensor([[[0.7, 0.2, 0.1]], [[0.1, 0.1, 0.8]]]))
    samples = categorical.sample(20_000, generator())
    assert samples.shape == (20_000, 2, 1) and samples.dtype == torch.int64
    for step in range(2):
        shares = samples[:, step, 0].bincount(minlength=3) / 20_000
        assert torch.allclose(shares, categorical.probabilities[step, 0], atol=0.015)
    assert torch.equal(categorical.sample(9, generator(3)), categorical.sample(9, generator(3)))
    assert not torch.equal(categorical.sample(99, generator(3)), categorical.sample(99, generator(4)))
    assert categorical.mode().tolist() == [[0], [2]] and categorical.horizon == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_refits_by_hand_and_no_code_is_ever_out_of_reach(dtype: torch.dtype) -> None:
    prior = Categorical(probabilities=torch.full((1, 1, 4), 0.25, dtype=dtype), smoothing=0.2)
    elites = torch.tensor([0, 0, 0, 2]).reshape(4, 1, 1)
    fitted = prior.refitted(elites, keep=0.0, min_std=0.0)
    assert fitted.probabilities.flatten().tolist() == pytest.approx([0.65, 0.05, 0.25, 0.05])
    assert fitted.probabilities.dtype == dtype
    half = prior.refitted(elites, keep=0.5, min_std=0.0)
    assert half.probabilities.flatten().tolist() == pytest.approx([0.45, 0.15, 0.25, 0.15])
    moved = prior.moved(elites, torch.tensor([0.0, 0.5, 0.0, 0.5]))
    assert moved.probabilities.flatten().tolist() == pytest.approx([0.45, 0.05, 0.45, 0.05])
    for _ in range(50):
        fitted = fitted.refitted(elites[:1], keep=0.0, min_std=0.0)
    assert fitted.probabilities.min().item() == pytest.approx(0.05)
    assert prior.probabilities.flatten().tolist() == [0.25] * 4, "the rule must leave its input alone"


def test_middle_spread_and_recentring() -> None:
    first = PRIOR.distribution(4)
    assert first.spread() == pytest.approx(1.0)
    again = first.recentred(PLANTED)
    assert torch.equal(again.mode(), PLANTED) and again.spread() < 0.9
    assert again.probabilities[0, 0, 7].item() == pytest.approx(0.5 + 0.5 / 32)
    sure = Categorical(probabilities=torch.tensor([[[1 - 3e-6, 1e-6, 1e-6, 1e-6]]]))
    assert sure.spread() < 1e-3


def test_a_prior_knows_what_is_used() -> None:
    usage = ((1.0, 3.0), (1.0, 0.0))
    prior = CodePrior(sizes=(2, 2), rest_codes=(1, 0), usage=usage, smoothing=0.1)
    first = prior.distribution(3)
    assert first.probabilities[2].flatten().tolist() == pytest.approx([0.275, 0.725, 0.95, 0.05])
    assert prior.rest().tolist() == [1, 0] and prior.rest().dtype == torch.int64 and prior.width == 2


def mismatches(codes: Tensor) -> Tensor:
    return (codes != PLANTED).sum(dim=(1, 2)).float()


@pytest.mark.parametrize(
    "planner",
    [
        CEM(samples=256, iterations=8, elite_fraction=0.1),
        ICEM(samples=256, iterations=10, elite_fraction=0.1),
        MPPI(samples=512, iterations=12, gamma=3.0, normalise=True),
    ],
)
def test_finds_a_planted_sequence_among_32_by_32_a_step(planner) -> None:
    for seed in range(3):
        plan = search(mismatches, PRIOR.distribution(4), planner, generator=generator(seed))
        assert torch.equal(plan.actions, PLANTED) and plan.cost == 0
        assert plan.actions.dtype == torch.int64
    again = search(mismatches, PRIOR.distribution(4), planner, generator=generator(seed), max_batch=50)
    assert torch.equal(again.actions, plan.actions)
    assert plan.evaluations < 32**2 * 8, "of 32^8 sequences"


def test_finds_a_sequence_by_where_its_codes_lead() -> None:
    """Codes stand for steps in space that add up; both tokens count in one number."""
    steps = torch.randn(2, 32, 3, generator=generator(9))

    def place(codes: Tensor) -> Tensor:
        return (steps[0][codes[..., 0]] + steps[1][codes[..., 1]]).cumsum(dim=-2)

    def cost(codes: Tensor) -> Tensor:
        return (place(codes) - place(PLANTED)).square().sum(dim=(1, 2))

    planner, first = CEM(samples=256, iterations=10, elite_fraction=0.1), PRIOR.distribution(4)
    planned = torch.tensor([search(cost, first, planner, generator=generator(seed)).cost for seed in range(5)])
    lucky = torch.stack([cost(first.sample(2560, generator(seed))).min() for seed in range(5)])
    assert (planned < lucky).all() and planned.mean() < 0.5 * lucky.mean(), "at as many evaluations"


def test_proposed_codes_win_and_what_is_no_code_is_refused() -> None:
    planner = CEM(samples=16, iterations=1)
    plan = search(mismatches, PRIOR.distribution(4), planner, generator=generator(), proposals=PLANTED[None])
    assert plan.cost == 0
    with pytest.raises(ValueError, match=r"0\.\.31, got 1 to 32"):
        search(mismatches, PRIOR.distribution(4), planner, generator=generator(), proposals=PLANTED[None] + 1)


class CodeWorld:
    """Latent ``(2,)``: each token's code moves its half's brightness by ``(code - 16) / 64``."""

    action_dim, context_frames, max_horizon = 2, 2, 8

    def __init__(self, brightness) -> None:
        self.encode, self.decode, self.frame = brightness.encode, brightness.decode, brightness.frame
        self.started: list[Tensor] = []

    def start(self, frames: Tensor, actions: Tensor) -> Tensor:
        self.started.append(actions)
        return self.encode(frames[-1:])[0]

    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        assert actions.dtype == torch.int64
        return state + ((actions - 16) / 64).cumsum(dim=1)


def test_plans_in_codes_and_executes_real_actions(brightness_world) -> None:
    world = CodeWorld(brightness_world())
    seen: list[tuple[Tensor, Tensor]] = []

    def to_action(codes: Tensor, frames: Tensor) -> Tensor:
        seen.append((codes, frames))
        return torch.cat([(codes - 16) / 64, torch.ones(1)])

    mpc = MPC(
        world,
        CEM(samples=200, iterations=4),
        LatentGoal(),
        prior=PRIOR,
        config=MPCConfig(horizon=3),
        to_action=to_action,
        rest_action=torch.zeros(3),
    )
    place, goal = torch.tensor([0.2, 0.8]), (0.7, 0.3)
    mpc.reset(world.frame(*goal), 0)
    for step in range(8):
        action = mpc.act(world.frame(*place.tolist()))
        assert action.shape == (3,)
        assert step > 0 or action.tolist() == [0.0] * 3
        place = place + action[:2]
    assert (place - torch.tensor(goal)).abs().max() < 0.05
    assert len(seen) == 7 and seen[0][1].shape == (2, 3, 8, 8)
    assert world.started[0].tolist() == [[3, 4]], "to the world, the rest is its codes"
    assert torch.equal(world.started[-1], seen[-2][0][None]), "the world hears of codes, not of what they became"


def test_both_halves_of_the_door_are_needed(brightness_world) -> None:
    world, config = CodeWorld(brightness_world()), MPCConfig(horizon=3)
    for half in ({"to_action": lambda codes, frames: codes}, {"rest_action": torch.zeros(3)}):
        with pytest.raises(ValueError, match="to_action and rest_action"):
            MPC(world, CEM(), LatentGoal(), prior=PRIOR, config=config, **half)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (32, 16)}, r"\(32, 16\)"),
        ({"sizes": (1, 1), "rest_codes": (0, 0)}, r"\(1, 1\)"),
        ({"rest_codes": (32, 0)}, r"0\.\.31, got \(32, 0\)"),
        ({"rest_codes": (0,)}, r"2 of"),
        ({"usage": ((1.0,), (1.0,))}, r"\(1, 1\)"),
        ({"usage": ((0.0,) * 32,) * 2}, "not all 0"),
        ({"smoothing": 0.0}, "smoothing.*0.0"),
        ({"confidence": 0.4}, "confidence.*0.4"),
    ],
)
def test_bad_priors_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PRIOR, **change)


def test_probabilities_that_cannot_be_are_named() -> None:
    for probabilities, message in (
        (torch.ones(4), r"\(H, tokens, entries\), got \(4,\)"),
        (torch.tensor([[[1.0, 0.0]]]), "positive, got 0.0"),
        (torch.tensor([[[0.5, 0.4]]]), "0.9"),
        (torch.tensor([[[math.nan, 0.4]]]), "nan"),
    ):
        with pytest.raises(ValueError, match=message):
            Categorical(probabilities=probabilities)
    with pytest.raises(ValueError, match="horizon.*0"):
        PRIOR.distribution(0)
