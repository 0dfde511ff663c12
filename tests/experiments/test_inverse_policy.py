"""The floor that plans nothing, on a toy task whose law it has learned from hindsight."""

import numpy as np
import pytest
import torch

from colaworld.experiments.goal_episode import run_episode
from colaworld.experiments.inverse_policy import InversePolicy, proposed
from colaworld.models.goal_policy import GoalPolicy


def encode(frames: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(frames.float() / 255, 2)[:, :1]


@pytest.fixture(scope="module")
def policy() -> GoalPolicy:
    """Taught by spots on their way: at most two pixels a step towards wherever they ended up, all along the chunk."""
    torch.manual_seed(0)
    model = GoalPolicy(
        steps=3, latent_channels=1, latent_height=8, latent_width=8, width=8, hidden=64, dropout=0.0
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    axis = torch.arange(16.0)

    def seen(places: torch.Tensor) -> torch.Tensor:
        row, column = (torch.exp(-((axis - places[:, number, None]) ** 2) / 30) for number in (0, 1))
        spots = row[:, :, None] * column[:, None]
        return encode((255 * spots)[:, None].expand(-1, 3, -1, -1))

    for _ in range(250):
        now, goal = 15 * torch.rand(2, 64, 2)
        moves = torch.nn.functional.pad(((goal - now) / 2).clamp(-1, 1), (0, 5))
        loss, _ = model.loss(seen(now), seen(goal), moves[:, None].expand(-1, 3, -1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_it_reaches_its_goals(policy, spot_tasks) -> None:
    tasks, inverse = spot_tasks(), InversePolicy(policy, encode)
    outcomes = [run_episode(tasks.open(each), inverse, seed=0, max_steps=15)[0] for each in tasks.instances]
    assert sum(outcome.success for outcome in outcomes) >= 5
    assert all(outcome.plan_seconds == [] for outcome in outcomes)


def test_it_knows_no_chance_and_may_wait(policy, spot_tasks) -> None:
    env = spot_tasks().open(spot_tasks().instances[0])
    actions = [
        run_episode(env, InversePolicy(policy, encode, zero_actions=zeros), seed=seed, max_steps=4)[0].actions
        for seed, zeros in ((0, 0), (1, 0), (0, 2))
    ]
    assert actions[0] == actions[1]
    assert actions[2][:2] == [[0.0] * 7] * 2 and actions[2][2] == actions[0][0]
    observation, _ = env.reset()
    inverse = InversePolicy(policy, encode)
    with pytest.raises(ValueError, match="reset"):
        inverse.act(observation, {})
    inverse.reset(observation["goal"], 0)
    answer = inverse.act(observation, {})
    assert answer.shape == (7,) and answer.dtype == np.float32
    with pytest.raises(ValueError, match="zero_actions.*-1"):
        InversePolicy(policy, encode, zero_actions=-1)


def test_its_chunk_is_a_proposal_of_any_horizon(policy) -> None:
    frames = torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8)
    chunk = policy(encode(frames[1:]), encode(frames[:1])).detach()
    assert torch.equal(proposed(policy, encode, frames, frames[0], 2), chunk[:, :2])
    longer = proposed(policy, encode, frames, frames[0], 5)
    assert torch.equal(longer, torch.cat([chunk, chunk[:, -1:], chunk[:, -1:]], dim=1)) and not longer.requires_grad
