"""Receding horizon: reaches its goal in a linear world, warm starts, keeps its history, obeys VP2's first zero
action.
"""

import pytest
import torch
from torch import Tensor

from colaworld.planning.cem import CEM
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.mpc import MPC, MPCConfig, shift
from colaworld.planning.mppi import MPPI
from colaworld.planning.objectives import LatentGoal, PixelGoal
from colaworld.planning.random_shooting import RandomShooting

PRIOR = ActionPrior(mean=(0.0, 0.0), std=(0.5, 0.5), low=(-1.0, -1.0), high=(1.0, 1.0))
CEM_SMALL = CEM(samples=64, iterations=4, elite_fraction=0.1)


def episode(world, mpc: MPC, *, steps: int = 12, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Play the brightness world itself from (0.1, 0.9) towards (0.8, 0.3): actions and the last brightness ``(2,)``."""
    mpc.reset(world.frame(0.8, 0.3), seed)
    place, actions = torch.tensor([0.1, 0.9]), []
    for _ in range(steps):
        actions.append(mpc.act(world.frame(*place.tolist())))
        place = place + world.gain * actions[-1]
    return actions, place


@pytest.mark.parametrize("objective", [LatentGoal(), PixelGoal()])
@pytest.mark.parametrize(
    "planner", [CEM_SMALL, MPPI(samples=200, iterations=3, gamma=10.0, normalise=True), RandomShooting(samples=600)]
)
def test_reaches_its_goal_in_a_linear_world(brightness_world, planner, objective) -> None:
    world = brightness_world()
    mpc = MPC(world, planner, objective, prior=PRIOR, config=MPCConfig(horizon=4))
    _, place = episode(world, mpc)
    assert (place - torch.tensor([0.8, 0.3])).abs().max() < 0.06


def test_first_action_is_zero_until_there_is_context(brightness_world) -> None:
    for context in (1, 2, 3):
        world = brightness_world(context_frames=context)
        mpc = MPC(world, CEM_SMALL, LatentGoal(), prior=PRIOR, config=MPCConfig(horizon=4))
        actions, _ = episode(world, mpc, steps=4)
        assert [bool(action.any()) for action in actions] == [step >= context - 1 for step in range(4)]


def test_zero_is_moved_inside_the_bounds(brightness_world) -> None:
    world = brightness_world()
    prior = ActionPrior(mean=(0.5, 0.0), std=(0.1, 0.5), low=(0.25, -1.0), high=(1.0, 1.0))
    mpc = MPC(world, CEM_SMALL, LatentGoal(), prior=prior, config=MPCConfig(horizon=2))
    mpc.reset(world.frame(0, 0), 0)
    assert mpc.act(world.frame(0, 0)).tolist() == [0.25, 0.0]


def test_the_world_sees_its_last_frames_and_the_actions_between_them(brightness_world) -> None:
    world = brightness_world(context_frames=3)
    mpc = MPC(world, CEM_SMALL, LatentGoal(), prior=PRIOR, config=MPCConfig(horizon=4))
    actions, _ = episode(world, mpc, steps=6)
    frames, between = world.starts[-1]
    assert frames.shape == (3, 3, 8, 8) and between.shape == (2, 2)
    assert torch.equal(between, torch.stack(actions[3:5]))


def test_a_seed_decides_the_episode(brightness_world) -> None:
    world = brightness_world()
    mpc = MPC(world, CEM_SMALL, LatentGoal(), prior=PRIOR, config=MPCConfig(horizon=4))
    first, again, other = (episode(world, mpc, steps=4, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(torch.stack(first), torch.stack(other))


def test_shift_moves_and_repeats_the_last() -> None:
    plan = torch.tensor([[1.0], [2.0], [3.0]])
    assert shift(plan, 1).flatten().tolist() == [2.0, 3.0, 3.0]
    assert shift(plan, 9).flatten().tolist() == [3.0, 3.0, 3.0]
    assert shift(plan[:1], 1).flatten().tolist() == [1.0]


def test_warm_start_searches_around_the_shifted_plan(brightness_world) -> None:
    """With one candidate, the middle, a warm plan is exactly the last one shifted; a cold one is the prior's mean."""
    world = brightness_world()
    for warm in (True, False):
        mpc = MPC(
            world,
            RandomShooting(samples=1),
            LatentGoal(),
            prior=PRIOR,
            config=MPCConfig(horizon=3, warm_start=warm),
        )
        mpc.reset(world.frame(1, 1), 0)
        mpc.act(world.frame(0, 0))
        mpc.planner = RandomShooting(samples=50)
        mpc.act(world.frame(0, 0))
        before = mpc.last_plan.actions
        mpc.planner = RandomShooting(samples=1)
        mpc.act(world.frame(0, 0))
        expected = shift(before, 1) if warm else torch.zeros(3, 2)
        assert torch.equal(mpc.last_plan.actions, expected)


def test_replans_as_often_as_asked_and_says_so(brightness_world) -> None:
    world = brightness_world(context_frames=1)
    mpc = MPC(world, CEM_SMALL, LatentGoal(), prior=PRIOR, config=MPCConfig(horizon=4, replan_every=3))
    mpc.reset(world.frame(0.8, 0.3), 0)
    planned, actions = [], []
    for _ in range(6):
        actions.append(mpc.act(world.frame(0.1, 0.9)))
        planned.append(mpc.planned_now)
    assert planned == [True, False, False, True, False, False]
    assert torch.equal(torch.stack(actions[3:]), mpc.last_plan.actions[:3])


def test_the_horizon_shrinks_to_what_is_left(brightness_world) -> None:
    world = brightness_world()
    mpc = MPC(world, CEM_SMALL, LatentGoal(), prior=PRIOR, config=MPCConfig(horizon=4, episode_steps=5))
    mpc.reset(world.frame(0.8, 0.3), 0)
    horizons = []
    for _ in range(6):
        mpc.act(world.frame(0.1, 0.9))
        horizons.append(None if mpc.last_plan is None else len(mpc.last_plan.actions))
    assert horizons == [None, 4, 3, 2, 1, 1]


def test_the_plan_carries_what_the_world_imagined_for_it(brightness_world) -> None:
    world = brightness_world(context_frames=1)
    mpc = MPC(world, CEM_SMALL, LatentGoal(), prior=PRIOR, config=MPCConfig(horizon=4, max_batch=10))
    mpc.reset(world.frame(0.8, 0.3), 0)
    mpc.act(world.frame(0.1, 0.9))
    plan = mpc.last_plan
    expected = world.imagine(world.encode(world.frame(0.1, 0.9)[None])[0], plan.actions[None], None)[0]
    assert torch.allclose(plan.imagined, expected)
    assert len(plan.history) == 4 and max(world.batches) == 10


def test_what_cannot_work_is_refused(brightness_world) -> None:
    world = brightness_world()
    with pytest.raises(ValueError, match="13 steps.*12"):
        MPC(world, CEM_SMALL, LatentGoal(), prior=PRIOR, config=MPCConfig(horizon=13))
    with pytest.raises(ValueError, match="1 dimensions.*2"):
        MPC(world, CEM_SMALL, LatentGoal(), prior=ActionPrior(mean=(0,), std=(1,), low=(-1,), high=(1,)))
    with pytest.raises(ValueError, match=r"replan_every \(5\).*\(4\)"):
        MPCConfig(horizon=4, replan_every=5)
    with pytest.raises(ValueError, match="horizon.*0"):
        MPCConfig(horizon=0)
    mpc = MPC(world, CEM_SMALL, LatentGoal(), prior=PRIOR)
    with pytest.raises(ValueError, match="reset"):
        mpc.act(world.frame(0, 0))
    mpc.reset(world.frame(0, 0), 0)
    with pytest.raises(ValueError, match="uint8"):
        mpc.act(torch.zeros(3, 8, 8))
