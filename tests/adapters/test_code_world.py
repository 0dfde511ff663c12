"""One step at a time, and codes for actions: both come to what ``imagine`` imagines."""

import pytest
import torch

from colaworld.adapters.world import ColaWorld


def frames() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_advancing_is_imagining_step_by_step(system):
    world, actions = ColaWorld(system), torch.randn(2, 4, 7).clamp(-1, 1)
    start = world.start(frames(), torch.zeros(1, 7))
    together, state = world.imagine(start, actions), start
    for step in range(4):
        latents, state = world.advance(state, actions[:, step])
        torch.testing.assert_close(latents, together[:, step])
    assert start.actions.shape[1] == 1  # left as it was


def test_advancing_stops_where_the_world_does(system):
    world = ColaWorld(system)
    state = world.start(frames(), torch.zeros(1, 7))
    for _ in range(world.max_horizon):
        _, state = world.advance(state, torch.zeros(1, 7))
    with pytest.raises(ValueError, match="10 steps beyond its context"):
        world.advance(state, torch.zeros(1, 7))


def test_the_codes_of_an_action_imagine_what_the_action_does(system):
    world = ColaWorld(system, snap=True)
    coded = world.by_codes()
    assert (coded.action_dim, coded.code_sizes) == (2, (8, 8))
    start, action = world.start(frames(), torch.zeros(1, 7)), torch.randn(1, 1, 7)
    chunk = action[:, :, None].expand(-1, -1, 5, -1)
    step = world.adapted(chunk)(0, start.recent)
    codes = system.bottleneck.snap(step[:, None]).indices
    torch.testing.assert_close(coded.imagine(start, codes), world.imagine(start, action), rtol=1e-4, atol=1e-5)
    other = coded.imagine(start, (codes + 3) % 8)
    assert (other - coded.imagine(start, codes)).abs().max() > 1e-3


def test_what_led_to_a_start_is_read_off_its_frames(system):
    coded = ColaWorld(system).by_codes()
    seen = frames()
    read = system.model().eval().latent_actions(coded.encode(seen)[None]).indices[0]
    wrong = (read + 3) % 8
    for given in (read, wrong):
        start = coded.start(seen, given)
        torch.testing.assert_close(start.actions, system.bottleneck.from_indices(read[None]))


def test_wrong_codes_are_named(system):
    coded = ColaWorld(system).by_codes()
    with pytest.raises(ValueError, match="2 indices of 0..7"):
        coded.start(frames(), torch.tensor([[0, 8]]))
    with pytest.raises(ValueError, match="2 indices of 0..7"):
        coded.imagine(coded.start(frames(), torch.zeros(1, 2)), torch.zeros(1, 1, 3))
    system.bottleneck.quantiser = None
    with pytest.raises(ValueError, match="no codes"):
        ColaWorld(system).by_codes()
