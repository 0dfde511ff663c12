"""A trained system as planning's world."""

from dataclasses import replace

import pytest
import torch

from colaworld.adapters.action_adapter import adapt
from colaworld.adapters.world import ColaWorld


def frames(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_shapes(system):
    world = ColaWorld(system)
    latents = world.imagine(world.start(frames(), torch.zeros(1, 7)), torch.zeros(3, 4, 7))
    assert latents.shape == (3, 4, 4, 2, 2)
    pictures = world.decode(latents[:, 0])
    assert pictures.shape == (3, 3, 16, 16) and 0.0 <= pictures.min() and pictures.max() <= 1.0
    assert world.encode(frames(5)).shape == (5, 4, 2, 2)
    assert (world.action_dim, world.context_frames, world.max_horizon) == (7, 2, 10)


def test_a_world_can_be_asked_for_codes_or_for_points_between_them(system):
    chunks, clip = torch.randn(2, 3, 5, 7), torch.randn(2, 4, 4, 2, 2)
    codes, between = (ColaWorld(system, snap=snap).latent_actions(chunks, clip) for snap in (True, False))
    torch.testing.assert_close(codes, system.bottleneck.snap(between).latents)
    assert (codes - between).abs().max() > 1e-3
    torch.testing.assert_close(ColaWorld(system).latent_actions(chunks, clip), codes)  # as this adapter was made


def test_a_world_reaches_as_far_as_its_clips_did(system):
    system.info = replace(system.info, clip=7)
    assert ColaWorld(system).max_horizon == 5


def test_the_same_actions_imagine_the_same_whoever_else_is_in_the_batch(system):
    world = ColaWorld(system)
    start, actions = world.start(frames(), torch.zeros(1, 7)), torch.randn(6, 4, 7).clamp(-1, 1)
    together = world.imagine(start, actions)
    apart = torch.cat([world.imagine(start, part) for part in actions.split(2)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_actions_matter_from_their_own_step_on(system):
    world = ColaWorld(system)
    start = world.start(frames(), torch.zeros(1, 7))
    actions = torch.zeros(2, 4, 7)
    actions[1, 2] = 1.0
    imagined = world.imagine(start, actions)
    torch.testing.assert_close(imagined[0, :2], imagined[1, :2], rtol=1e-4, atol=1e-5)
    found = {int(seed) for seed in range(40) if _differs(world, start, seed)}
    assert found, "no action of forty changed what is imagined"


def _differs(world: ColaWorld, start, seed: int) -> bool:
    actions = torch.zeros(2, 3, 7)
    actions[1, 2] = 4.0 * torch.randn(7, generator=torch.Generator().manual_seed(seed))
    imagined = world.imagine(start, actions)
    return bool((imagined[0, 2] - imagined[1, 2]).abs().max() > 1e-3)


def test_the_adapter_sees_the_frame_that_was_just_imagined(system):
    world, seen = ColaWorld(system), []
    original = system.adapter.forward

    def spy(actions, context=None):
        seen.append(context.clone())
        return original(actions, context)

    start = world.start(frames(), torch.zeros(1, 7))
    system.adapter.forward = spy
    latents = world.imagine(start, torch.zeros(1, 3, 7))
    torch.testing.assert_close(seen[0][0, 0], world.encode(frames()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen[2][0, 0], latents[0, :2], rtol=0, atol=0)


def test_snapping_leaves_only_codes_and_not_snapping_leaves_the_adapters_own_points(system):
    actions, context = torch.randn(20, 1, 5, 7), world_context(system, 20)
    points = system.adapter(actions, context)
    snapped = adapt(system.adapter, system.bottleneck, actions, context)
    torch.testing.assert_close(system.bottleneck.snap(points).latents, snapped)
    distances = torch.cdist(snapped.reshape(-1, 8), system.bottleneck.quantiser.codebook)
    assert distances.min(dim=1).values.max() < 5e-3
    assert torch.cdist(points.reshape(-1, 8), system.bottleneck.quantiser.codebook).min(dim=1).values.max() > 5e-2
    system.adapter.register_to_config(snap=False)
    torch.testing.assert_close(adapt(system.adapter, system.bottleneck, actions, context), points)


def world_context(system, count: int) -> torch.Tensor:
    return ColaWorld(system).encode(frames())[None, None].expand(count, 1, -1, -1, -1, -1)


def test_only_the_last_two_context_frames_count(system):
    world, actions = ColaWorld(system), torch.randn(1, 2, 7)
    short = world.imagine(world.start(frames(4)[2:], torch.zeros(1, 7)), actions)
    long = world.imagine(world.start(frames(4), torch.zeros(3, 7)), actions)
    torch.testing.assert_close(short, long)


def test_bad_input_is_named(system):
    world = ColaWorld(system)
    with pytest.raises(ValueError, match="at least 2 frames"):
        world.start(frames(1), torch.zeros(0, 7))
    with pytest.raises(ValueError, match="horizon of 11 steps is beyond the world's 10"):
        world.imagine(world.start(frames(), torch.zeros(1, 7)), torch.zeros(1, 11, 7))
    system.adapter = None
    with pytest.raises(ValueError, match="no adapter"):
        ColaWorld(system)
