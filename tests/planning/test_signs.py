"""Dimensions of which only the sign counts: the Gaussian's laws, exact probabilities, lasting signs, refits by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from colaworld.planning.cem import CEM
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.icem import ICEM
from colaworld.planning.mpc import MPC, MPCConfig
from colaworld.planning.mppi import MPPI
from colaworld.planning.objectives import LatentGoal
from colaworld.planning.search import search
from colaworld.planning.signs import SignedGaussian, SignedPrior

ARM = {"mean": (0.0, 0.2, 9.0), "std": (5.0, 0.0, 9.0), "low": (-1.0, -1.0, -1.0), "high": (1.0, 0.5, 1.0)}
PRIOR = SignedPrior(**ARM, signed=(2,))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_probabilities(*positive: float, **changes) -> SignedGaussian:
    prior = replace(PRIOR, **changes).distribution(len(positive))
    return replace(prior, positive=torch.tensor(positive)[:, None])


def test_samples_stay_inside_the_bounds_and_signs_are_signs() -> None:
    samples = PRIOR.distribution(4).sample(500, generator())
    assert samples.shape == (500, 4, 3) and PRIOR.width == 3
    assert (samples[..., 0].abs() <= 1).all() and (samples[..., 0].abs() == 1).any()
    assert (samples[..., 1] == torch.tensor(0.2)).all(), "fixed dimensions stay fixed"
    assert set(samples[..., 2].unique().tolist()) == {-1.0, 1.0}
    arm = ActionPrior(**ARM).gaussian(4).sample(500, generator())
    assert torch.equal(samples[..., :2], arm[..., :2]), "the rest is the Gaussian's"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_seed_draws_the_same_and_the_type_stays(dtype: torch.dtype) -> None:
    gaussian = ActionPrior(**ARM).gaussian(4)
    wide = replace(gaussian, **{name: getattr(gaussian, name).to(dtype) for name in ("mean", "std", "low", "high")})
    signed = SignedGaussian(gaussian=wide, positive=torch.full((4, 1), 0.5, dtype=dtype), signed=(2,), persistence=0.5)
    assert torch.equal(signed.sample(9, generator(3)), signed.sample(9, generator(3)))
    assert not torch.equal(signed.sample(9, generator(3)), signed.sample(9, generator(4)))
    samples = signed.sample(9, generator())
    moved = signed.refitted(samples, keep=0.5, min_std=0.1).moved(samples, torch.full((9,), 1 / 9))
    for tensor in (samples, signed.mode(), moved.positive, moved.mode(), signed.recentred(samples[0]).mode()):
        assert tensor.dtype == dtype


@pytest.mark.parametrize("persistence", [0.0, 0.8, 1.0])
def test_every_steps_probability_is_its_own_and_signs_last(persistence: float) -> None:
    signed = with_probabilities(0.5, 0.5, 0.5, 0.8, persistence=persistence).sample(40_000, generator())[..., 2]
    assert (signed > 0).float().mean(dim=0).tolist() == pytest.approx([0.5, 0.5, 0.5, 0.8], abs=0.015)
    same = (signed[:, 0] == signed[:, 1]).float().mean().item()
    assert same == pytest.approx(persistence + (1 - persistence) / 2, abs=0.015)


def test_what_is_certain_is_drawn_and_stays() -> None:
    signed = with_probabilities(0.0, 1.0, persistence=0.5)
    samples = signed.sample(200, generator())
    assert (samples[:, 0, 2] == -1).all() and (samples[:, 1, 2] == 1).all()
    elites = torch.tensor([[0.0, 0.2, 1.0], [0.0, 0.2, -1.0]])[None]
    for later in (
        signed.refitted(elites, keep=0.0, min_std=0.0),
        signed.moved(elites, torch.ones(1)),
        signed.recentred(elites[0]),
    ):
        assert later.positive.flatten().tolist() == [0.0, 1.0]


def test_refit_by_hand() -> None:
    signed = with_probabilities(0.5, 0.5, floor=0.1)
    elites = torch.zeros(4, 2, 3)
    elites[:, :, 2] = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    assert signed.refitted(elites, keep=0.0, min_std=0.0).positive.flatten().tolist() == [0.75, 0.75]
    assert signed.refitted(elites, keep=0.5, min_std=0.0).positive.flatten().tolist() == [0.625, 0.625]
    assert signed.refitted(elites[:1], keep=0.0, min_std=0.0).positive.flatten().tolist() == pytest.approx([0.9] * 2)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert signed.moved(elites, weights).positive.flatten().tolist() == pytest.approx([0.7, 0.8])
    arm = torch.full((2, 2, 3), 0.3)
    assert signed.refitted(arm, keep=0.0, min_std=0.0).gaussian.mean[0, 0] == torch.tensor(0.3)
    assert signed.positive.flatten().tolist() == [0.5, 0.5], "the rule must leave its input alone"


def test_middle_spread_clamp_and_recentring() -> None:
    signed = with_probabilities(0.5, 0.7, 0.3, 1.0)
    assert signed.mode()[:, 2].tolist() == [-1.0, 1.0, -1.0, 1.0]
    assert with_probabilities(0.5).spread() == pytest.approx((5.0 + 0.0 + 1.0) / 3)
    assert with_probabilities(1.0).spread() == pytest.approx(5.0 / 3)
    moved = signed.clamp(torch.tensor([[7.0, -7.0, 0.1]]).expand(5, 4, 3))
    assert moved.tolist() == [[[1.0, -1.0, 1.0]] * 4] * 5
    assert not signed.free[:, 1:].any() and signed.free[:, 0].all()
    plan = torch.tensor([[0.5, 0.2, sign] for sign in (1.0, -1.0, 0.0, -1.0)])
    again = signed.recentred(plan)
    assert again.positive.flatten().tolist() == pytest.approx([0.8, 0.2, 0.5, 1.0])
    assert again.mode()[:2].tolist() == plan[:2].tolist()


TASK = SignedPrior(mean=(0.0,) * 3, std=(0.5,) * 3, low=(-1.0,) * 3, high=(1.0,) * 3, signed=(2,), persistence=0.7)
SIGNS = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0])


def grip(actions: Tensor) -> Tensor:
    """The gripper's sign and the arm each have their price."""
    return (actions[..., :2] - 0.3).square().sum(dim=(1, 2)) + (actions[..., 2] != SIGNS).sum(dim=1)


@pytest.mark.parametrize(
    "planner",
    [
        CEM(samples=100, iterations=5, elite_fraction=0.1),
        ICEM(samples=100, iterations=6, elite_fraction=0.1),
        MPPI(samples=200, iterations=8, gamma=10.0, normalise=True),
    ],
)
def test_every_planner_finds_the_signs(planner) -> None:
    for seed in range(3):
        plan = search(grip, TASK.distribution(5), planner, generator=generator(seed))
        assert plan.actions[:, 2].tolist() == SIGNS.tolist()
        assert plan.cost < 0.5
    again = search(grip, TASK.distribution(5), planner, generator=generator(seed))
    assert torch.equal(plan.actions, again.actions)


def test_an_episode_executes_signs_and_its_rest_is_zero(brightness_world) -> None:
    world = brightness_world()
    prior = SignedPrior(mean=(0.0,) * 2, std=(0.5,) * 2, low=(-1.0,) * 2, high=(1.0,) * 2, signed=(1,))
    mpc = MPC(world, CEM(samples=50), LatentGoal(), prior=prior, config=MPCConfig(horizon=3))
    mpc.reset(world.frame(0.6, 1.0), 0)
    actions = [mpc.act(world.frame(0.5, 0.1)) for _ in range(3)]
    assert actions[0].tolist() == [0.0, 0.0]
    assert [action[1].item() for action in actions[1:]] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signed": (3,)}, r"0\.\.2, got \(3,\)"),
        ({"signed": (2, 2)}, "distinct"),
        ({"signed": (1,)}, r"dimension 1.*\[-1.0, 0.5\]"),
        ({"positive": 1.5}, "1.5"),
        ({"persistence": 1.5}, "persistence.*1.5"),
        ({"floor": 0.0}, "floor.*0.0"),
        ({"confidence": 0.5}, "confidence.*0.5"),
    ],
)
def test_bad_signs_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PRIOR, **change)
