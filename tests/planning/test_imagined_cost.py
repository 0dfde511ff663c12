"""Costs of a world that samples."""

import torch
from torch import Tensor

from colaworld.planning.imagined_cost import imagined_cost
from colaworld.planning.objectives import LatentGoal


class Noisy:
    """Latents are the actions' sum and noise, the same for all candidates of one call."""

    action_dim, max_horizon, context_frames = 2, 5, 1

    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        return state + actions.cumsum(dim=1) + torch.randn(2, generator=generator)


def costs(generator: torch.Generator, **options: bool):
    return imagined_cost(Noisy(), LatentGoal(), torch.zeros(2), torch.ones(2), generator, **options)


def test_one_plan_has_one_noise_in_every_iteration_and_chunk():
    generator, actions = torch.Generator().manual_seed(0), torch.zeros(4, 3, 2)
    cost = costs(generator)
    first = cost(actions)
    torch.testing.assert_close(torch.cat([cost(actions[:1]), cost(actions[1:])]), first, rtol=0, atol=0)
    # What is imagined with the generator next is what the search saw, and gives the next plan its own noise.
    chosen = Noisy().imagine(torch.zeros(2), actions, generator)
    torch.testing.assert_close(LatentGoal()(Noisy(), chosen, torch.ones(2)), first, rtol=0, atol=0)
    assert (costs(generator)(actions) - first).abs().min() > 1e-3


def test_noise_may_differ_from_call_to_call():
    cost, actions = costs(torch.Generator().manual_seed(0), common_noise=False), torch.zeros(4, 3, 2)
    assert (cost(actions) - cost(actions)).abs().min() > 1e-3


def test_gradients_pass_to_the_actions():
    actions = torch.zeros(4, 3, 2, requires_grad=True)
    costs(torch.Generator().manual_seed(0))(actions).sum().backward()
    assert (actions.grad.abs() > 0).all()
