"""Costs of a world that samples, or answers with what cannot be costed."""

import math

import pytest
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


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda futures: futures[:3], r"\(4, 3, 2\) for actions \(4, 3, 2\), got \(3, 3, 2\)"),
        (lambda futures: futures[:, 1:], r"\(4, 3, 2\) for actions \(4, 3, 2\), got \(4, 2, 2\)"),
        (lambda futures: futures[:, -1], r"got \(4, 2\)"),
        (lambda futures: futures[..., None], r"\(4, 3, 2\) for actions \(4, 3, 2\), got \(4, 3, 2, 1\)"),
        (lambda futures: futures[..., :1], r"got \(4, 3, 1\)"),  # would broadcast against the goal's latent
        (lambda futures: futures.tolist(), "got list"),
        (lambda futures: None, "got NoneType"),
    ],
)
def test_a_future_of_another_shape_is_named_with_both_shapes(answer, told: str) -> None:
    class Wrong(Noisy):
        def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
            return answer(super().imagine(state, actions, generator))

    cost = imagined_cost(Wrong(), LatentGoal(), torch.zeros(2), torch.ones(2), latent=(2,))
    with pytest.raises(ValueError, match=rf"Wrong.imagine must give latents \(S, H, \*latent\) of shape .*{told}"):
        cost(torch.zeros(4, 3, 2))


def test_without_a_known_latent_candidates_and_steps_are_still_checked() -> None:
    class Short(Noisy):
        def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
            return super().imagine(state, actions, generator)[:, 1:]

    with pytest.raises(ValueError, match=r"of shape \(4, 3, \.\.\.\) .* got \(4, 2, 2\)"):
        imagined_cost(Short(), LatentGoal(), torch.zeros(2), torch.ones(2))(torch.zeros(4, 3, 2))


def test_a_cost_of_another_shape_is_refused() -> None:
    cost = imagined_cost(Noisy(), lambda world, imagined, target: imagined.sum(), torch.zeros(2), None)
    with pytest.raises(ValueError, match=r"costs of 4 candidates must have shape \(4,\), got \(\)"):
        cost(torch.zeros(4, 3, 2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_candidate_that_is_not_finite_is_costed_nan_though_the_objective_looks_elsewhere(bad: float) -> None:
    class Spoilt(Noisy):
        def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
            futures = super().imagine(state, actions, generator)
            futures[2, 0, 0] = bad  # the first frame of one candidate
            return futures

    cost = imagined_cost(Spoilt(), LatentGoal(last=1), torch.zeros(2), torch.ones(2), latent=(2,))
    assert cost(torch.zeros(4, 3, 2)).isfinite().tolist() == [True, True, False, True]
