"""What a receding horizon can be given besides: elites that go on, proposals, a budget of seconds, a finer world."""

import math

import pytest
import torch
from torch import Tensor

from colaworld.planning.cem import CEM
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.icem import ICEM
from colaworld.planning.mpc import MPC, MPCConfig, fit, shift
from colaworld.planning.objectives import LatentGoal
from colaworld.planning.random_shooting import RandomShooting

PRIOR = ActionPrior(mean=(0.0, 0.0), std=(0.5, 0.5), low=(-1.0, -1.0), high=(1.0, 1.0))
FRAME = (0.1, 0.9)


def watched(world) -> list[Tensor]:
    """``world``'s candidates from now on, in the order in which they are imagined."""
    seen, imagine = [], world.imagine

    def spied(state, actions, generator):
        seen.append(actions.detach().clone())
        return imagine(state, actions, generator)

    world.imagine = spied
    return seen


def made(world, planner, *, goal=(0.8, 0.3), **options) -> MPC:
    config = options.pop("config", MPCConfig(horizon=4))
    mpc = MPC(world, planner, LatentGoal(), prior=PRIOR, config=config, **options)
    mpc.reset(world.frame(*goal), 0)
    return mpc


def test_fit_cuts_or_goes_on_with_the_last() -> None:
    actions = torch.arange(6.0).reshape(1, 3, 2)
    assert fit(actions, 2).tolist() == [[[0, 1], [2, 3]]]
    assert fit(actions, 4).tolist() == [[[0, 1], [2, 3], [4, 5], [4, 5]]]
    assert shift(actions, 1).tolist() == [[[2, 3], [4, 5], [4, 5]]]


@pytest.mark.parametrize("warm", [True, False])
def test_kept_elites_are_shifted_into_the_next_plan(brightness_world, warm: bool) -> None:
    world = brightness_world(context_frames=1)
    planner = ICEM(samples=40, iterations=2, elite_fraction=0.2, keep_elites=0.5)
    mpc = made(world, planner, config=MPCConfig(horizon=4, replan_every=2, warm_start=warm))
    for _ in range(2):
        mpc.act(world.frame(*FRAME))
    kept = mpc.last_plan.kept
    assert kept.shape == (4, 4, 2)
    seen = watched(world)
    mpc.act(world.frame(*FRAME))
    assert torch.equal(seen[0][1:5], shift(kept, 2)) is warm


def test_proposals_are_asked_for_with_what_is_seen_and_used(brightness_world) -> None:
    world, asked = brightness_world(), []
    optimum = torch.tensor([[0.7, -0.6], [0.1, 0.0]])  # in the brightness world, a quarter of it is moved

    def propose(frames: Tensor, goal: Tensor, horizon: int) -> Tensor:
        asked.append((frames, goal, horizon))
        return torch.stack([optimum, -optimum])

    mpc = made(world, RandomShooting(samples=4), propose=propose, config=MPCConfig(horizon=3))
    mpc.act(world.frame(*FRAME))
    assert not asked, "no plan, no proposals"
    seen = watched(world)
    mpc.act(world.frame(0.1, 0.9))
    frames, goal, horizon = asked[0]
    assert frames.shape == (2, 3, 8, 8) and torch.equal(goal, world.frame(0.8, 0.3)) and horizon == 3
    assert torch.equal(seen[0][1:3], fit(torch.stack([optimum, -optimum]), 3))
    assert torch.equal(mpc.last_plan.actions, fit(optimum, 3))


def test_proposals_may_be_none_and_too_many_are_refused(brightness_world) -> None:
    world = brightness_world(context_frames=1)
    mpc = made(world, CEM(samples=8), propose=lambda frames, goal, horizon: torch.zeros(0, horizon, 2))
    assert mpc.act(world.frame(*FRAME)).shape == (2,)
    mpc = made(world, CEM(samples=8), propose=lambda frames, goal, horizon: torch.zeros(8, horizon, 2))
    with pytest.raises(ValueError, match="8 proposed.*8 candidates"):
        mpc.act(world.frame(*FRAME))


def test_a_budget_counts_from_the_first_look(brightness_world) -> None:
    world, now = brightness_world(context_frames=1), [0.0]
    start, imagine = world.start, world.imagine

    def slow_start(frames, actions):
        now[0] += 0.25
        return start(frames, actions)

    def slow_imagine(state, actions, generator):
        now[0] += 0.1
        return imagine(state, actions, generator)

    world.start, world.imagine = slow_start, slow_imagine
    config = MPCConfig(horizon=4, budget_seconds=1.0)
    mpc = made(world, CEM(samples=10, iterations=3), config=config, clock=lambda: now[0])
    mpc.act(world.frame(*FRAME))
    assert mpc.last_plan.iterations == 7, "of 1.0 s, 0.25 are gone"
    assert mpc.last_plan.seconds == pytest.approx(1.05), "the plan's own picture comes after"
    mpc = made(world, CEM(samples=10), config=MPCConfig(horizon=4, budget_seconds=0.1), clock=lambda: now[0])
    mpc.act(world.frame(*FRAME))
    assert mpc.last_plan.iterations == 1
    with pytest.raises(ValueError, match="budget_seconds.*0"):
        MPCConfig(budget_seconds=0.0)


def test_a_finer_world_decides_between_the_finalists(brightness_world) -> None:
    coarse, fine = brightness_world(context_frames=1, gain=0.05), brightness_world(context_frames=1, gain=0.25)
    config = MPCConfig(horizon=4, finalists=5)
    mpc = made(coarse, CEM(samples=30, iterations=2), config=config, final_world=fine)
    mpc.act(coarse.frame(*FRAME))
    assert coarse.batches == [30, 30] and fine.batches == [6, 1]
    plan = mpc.last_plan
    expected = fine.imagine(fine.encode(fine.frame(*FRAME)[None])[0], plan.actions[None], None)[0]
    assert torch.allclose(plan.imagined, expected), "the picture of a plan is the finer one"
    goal = coarse.encode(coarse.frame(0.8, 0.3)[None])[0]
    assert plan.cost == pytest.approx((expected - goal).square().sum().item(), rel=1e-5)
    with pytest.raises(ValueError, match="finalists.*0"):
        MPCConfig(finalists=0)


def spoilt(world, spoil) -> None:
    """``world`` imagines what ``spoil(futures, actions)`` makes of its futures."""
    imagine = world.imagine
    world.imagine = lambda state, actions, generator: spoil(imagine(state, actions, generator), actions)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda futures, actions: futures[:-1], r"\(20, 4, 2\) for actions \(20, 4, 2\), got \(19, 4, 2\)"),
        (lambda futures, actions: futures[:, :, :1], r"\(20, 4, 2\) for actions \(20, 4, 2\), got \(20, 4, 1\)"),
        (lambda futures, actions: futures[:, -1], r"got \(20, 2\)"),
        (
            lambda futures, actions: futures * math.nan,
            r"all 20 candidates cost NaN or infinity; for actions \(1, 4, 2\) and LatentGoal: "
            r"BrightnessWorld imagines \(1, 4, 2\), 0 of 8 numbers finite",
        ),
    ],
)
def test_a_world_that_answers_what_cannot_be_costed_is_one_error_with_shapes(brightness_world, spoil, told) -> None:
    world = brightness_world(context_frames=1)
    spoilt(world, spoil)
    with pytest.raises(ValueError, match=told):
        made(world, CEM(samples=20, iterations=2)).act(world.frame(*FRAME))


@pytest.mark.parametrize("max_batch", [None, 1])
def test_candidates_that_turn_nan_cost_infinity_and_are_counted(brightness_world, max_batch) -> None:
    world = brightness_world(context_frames=1)
    spoilt(world, lambda futures, actions: torch.where((actions[:, :1, :1] > 0.4), math.nan, futures))
    seen = watched(world)
    mpc = made(world, CEM(samples=20, iterations=2), config=MPCConfig(horizon=4, max_batch=max_batch))
    action = mpc.act(world.frame(*FRAME))
    spoilt_ones = sum(int((actions[:, 0, 0] > 0.4).sum()) for actions in seen[: len(seen) - 1])
    assert mpc.last_plan.rejected == spoilt_ones > 0
    assert action[0] <= 0.4 and math.isfinite(mpc.last_plan.cost)
