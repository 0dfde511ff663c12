"""The engine behind ``World.imagine``: cache, chunks, noise, refinement and gradients."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from colaworld.adapters.world import ColaWorld
from colaworld.models.engine import EngineConfig
from colaworld.models.flow import FlowConfig, SamplerConfig

SOURCES = {"last_frame": FlowConfig(), "noise": FlowConfig(source="noise", mean_fraction=0.0)}
NOISY = SamplerConfig(steps=2, std=0.5)


def frames() -> Tensor:
    return torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def plans(count: int = 5, horizon: int = 4) -> Tensor:
    return torch.randn(count, horizon, 7, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def started(world: ColaWorld):
    return world.start(frames(), torch.zeros(1, 7))


@pytest.mark.parametrize("common", [True, False])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_cached_and_uncached_imagination_agree(system, steps, guidance, source, common):
    system.info = replace(system.info, flow=SOURCES[source])
    sampler = SamplerConfig(steps=steps, std=0.5, guidance=guidance)
    # Not snapped: a rounding error could tip an action that lies between two codes.
    world = ColaWorld(system, sampler, snap=False, engine=EngineConfig(common_noise=common))
    state, actions = started(world), plans()
    fast, slow = world.imagine(state, actions, noise()), world.imagine_uncached(state, actions, noise())
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4 * slow.abs().max().item())
    assert (slow[0] - slow[1]).abs().max() > 1e-2


def test_several_candidates_may_be_imagined_uncached_at_once(system):
    world = ColaWorld(system, NOISY)
    state, actions = started(world), plans()
    alone, together = (world.imagine_uncached(state, actions, noise(), batch=batch) for batch in (1, 3))
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    _, later = world.advance(state, actions[:, 0])
    with pytest.raises(ValueError, match="3 frames were seen, 2 are left"):
        world.imagine_uncached(later, actions[:, 1:])


@pytest.mark.parametrize("common", [True, False])
def test_chunks_change_nothing(system, common):
    def imagined(**limits: int) -> Tensor:
        world = ColaWorld(system, NOISY, engine=EngineConfig(common_noise=common, **limits))
        return world.imagine(started(world), plans(), noise())

    whole = imagined()
    for size in (1, 2, 3):
        torch.testing.assert_close(imagined(max_batch=size), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(imagined(max_memory_mib=1), whole, rtol=1e-4, atol=1e-5)


def test_advanced_candidates_are_imagined_in_chunks_too(system):
    world, actions = ColaWorld(system, engine=EngineConfig(max_batch=2)), plans()
    together, state = world.imagine(started(world), actions), started(world)
    first, state = world.advance(state, actions[:, 0])
    rest = world.imagine(state, actions[:, 1:])
    torch.testing.assert_close(torch.cat([first[:, None], rest], dim=1), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("common", [True, False])
def test_advancing_draws_the_noise_that_imagining_does(system, common):
    world, actions = ColaWorld(system, NOISY, engine=EngineConfig(common_noise=common)), plans()
    together, state, generator = world.imagine(started(world), actions, noise()), started(world), noise()
    for step in range(actions.shape[1]):
        latents, state = world.advance(state, actions[:, step], generator)
        torch.testing.assert_close(latents, together[:, step], rtol=1e-4, atol=1e-5)


def test_noise_is_shared_by_candidates_unless_each_is_to_have_its_own(system):
    same = plans(1).expand(4, -1, -1)
    shared, own = (
        world.imagine(started(world), same, noise())
        for world in (ColaWorld(system, NOISY, engine=EngineConfig(common_noise=common)) for common in (True, False))
    )
    torch.testing.assert_close(shared, shared[:1].expand_as(shared))
    assert all((own[0] - other).abs().max() > 1e-2 for other in own[1:])


def test_when_memory_runs_out_smaller_chunks_come_to_the_same(system):
    world, asked = ColaWorld(system, NOISY), []
    state, actions = started(world), plans(7)
    whole, roll_out = world.imagine(state, actions, noise()), world.imagination.roll_out

    def scarce(state, *arguments, **options):
        asked.append(len(state.recent))
        if len(state.recent) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return roll_out(state, *arguments, **options)

    world.imagination.roll_out = scarce
    torch.testing.assert_close(world.imagine(state, actions, noise()), whole, rtol=1e-4, atol=1e-5)
    assert asked == [7, 3, 1] + 6 * [1]
    asked.clear()
    world.imagine(state, actions[:2], noise())
    assert asked == [1, 1]  # what worked is remembered


def test_a_refined_world_samples_longer_from_the_same_state_and_noise(system):
    world = ColaWorld(system, SamplerConfig(steps=1, std=0.5), engine=EngineConfig(final_steps=4))
    state, actions = started(world), plans()
    finer = ColaWorld(system, SamplerConfig(steps=4, std=0.5)).imagine(state, actions, noise())
    for refined in (world.refined(), world.refined(4)):
        torch.testing.assert_close(refined.imagine(state, actions, noise()), finer)
        assert refined.imagination.video is world.imagination.video
    coarse = world.imagine(state, actions, noise())
    assert (coarse - finer).abs().max() > 1e-3
    unasked = ColaWorld(system, world.imagination.sampler).refined()
    torch.testing.assert_close(unasked.imagine(state, actions, noise()), coarse)
    with pytest.raises(ValueError, match="steps must be 1 or more, got 0"):
        world.refined(0)


def test_nothing_is_decoded_unless_asked_for_and_context_is_encoded_once(system):
    calls = []
    for name in ("encode", "decode"):
        original = getattr(system.codec, name)

        def spy(images: Tensor, name: str = name, original=original) -> Tensor:
            calls.append((name, len(images)))
            return original(images)

        setattr(system.codec, name, spy)
    world = ColaWorld(system, engine=EngineConfig(max_batch=2))
    state = started(world)
    for _ in range(3):
        latents = world.imagine(state, plans())
    assert calls == [("encode", 2)]
    world.decode(latents[:, -1])
    assert calls[1:] == [("decode", 5)]


def test_bfloat16_is_near_and_passes_through_every_door(system):
    world, exact = ColaWorld(system, snap=False, engine=EngineConfig(dtype="bfloat16")), ColaWorld(system, snap=False)
    state, actions = started(world), plans()
    imagined, true = world.imagine(state, actions), exact.imagine(started(exact), actions)
    assert imagined.dtype == torch.float32 and 0.0 < (imagined - true).abs().mean() < 0.05 * true.abs().mean()
    latents, _ = world.advance(state, actions[:, 0])
    torch.testing.assert_close(latents, imagined[:, 0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(world.imagine_uncached(state, actions), imagined, rtol=0.1, atol=0.1)
    coded = world.by_codes()
    assert coded.imagination is world.imagination
    assert coded.imagine(state, torch.zeros(2, 3, 2, dtype=torch.int64)).isfinite().all()


def cost(world: ColaWorld, state, actions: Tensor) -> Tensor:
    return world.imagine(state, actions, noise())[:, -2:].square().sum()


@pytest.mark.parametrize("sampler", [SamplerConfig(), SamplerConfig(steps=2, std=0.5, guidance=2.0)])
def test_the_gradient_of_a_latent_cost_is_its_slope(system, sampler):
    world = ColaWorld(system, sampler, snap=False).with_gradients()
    state, actions = started(world), plans(2).requires_grad_()
    cost(world, state, actions).backward()
    assert (actions.grad.abs().amax(dim=2) > 0).all()
    direction = torch.nn.functional.normalize(actions.grad.flatten(), dim=0).view_as(actions)
    step = 3e-3
    slope = (cost(world, state, actions + step * direction) - cost(world, state, actions - step * direction)) / (
        2 * step
    )
    torch.testing.assert_close(slope.detach(), (actions.grad * direction).sum(), rtol=2e-2, atol=1e-3)


def test_gradients_pass_straight_through_codes_and_reach_no_weight(system):
    world = ColaWorld(system, snap=True).with_gradients()
    state, actions = started(world), plans(2).requires_grad_()
    world.decode(world.imagine(state, actions)[:, -1]).sum().backward()
    assert (actions.grad.abs().amax(dim=2) > 0).all()
    weights = [weight for part in system.parts().values() for weight in part.parameters()]
    assert all(weight.grad is None for weight in weights) and any(weight.requires_grad for weight in weights)


def test_gradients_pass_only_where_they_are_wanted(system):
    plain = ColaWorld(system, engine=EngineConfig(max_batch=2))
    world, state, wanted = plain.with_gradients(), started(plain), plans().requires_grad_()
    assert not plain.imagine(state, wanted).requires_grad and not plain.gradients
    assert not world.imagine(state, plans()).requires_grad
    with torch.no_grad():
        assert not world.imagine(state, wanted).requires_grad
    descended = world.imagine(state, wanted)
    assert descended.requires_grad
    torch.testing.assert_close(descended.detach(), plain.imagine(state, wanted), rtol=1e-4, atol=1e-5)
