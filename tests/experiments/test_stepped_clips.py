"""Stepping a world whose latents hold four frames: what a step shows, what is remembered, the imagined environment."""

import gymnasium
import numpy as np
import pytest
import torch

import colaworld.envs  # noqa: F401  registers the environments
from colaworld.adapters.system import ColaSystem
from colaworld.adapters.world import ColaCodeWorld, ColaWorld
from colaworld.experiments.conformance_world import check_world
from colaworld.experiments.presets import PRESETS, build
from colaworld.models.engine import EngineConfig
from colaworld.models.flow import FlowConfig, SamplerConfig

GROUPED = pytest.mark.parametrize("preset", ["nano_opensora", "nano_wan4"])
NOISY = SamplerConfig(steps=2, std=0.5)
STEPS = 10


def system_of(preset: str, **flow) -> ColaSystem:
    """With every layer that starts at zero moved away from it, actions that are loud, and a codebook."""
    torch.manual_seed(0)
    sizes = {"height": 32, "width": 32, "frame_skip": 5, "action_dim": 7, "render_profile": "lite", "clip": 14}
    system = build(PRESETS[preset], flow=FlowConfig(**flow), **sizes)
    with torch.no_grad():
        for part in system.parts().values():
            for parameter in part.parameters():
                if parameter.requires_grad and not parameter.any():
                    parameter.normal_(std=0.1)
        system.conditioner.single.out[-1].weight.mul_(30.0)
        system.model().latent_actions(system.codec.encode(pictures(8)[None]))
    for part in system.parts().values():
        part.eval()
    return system


def pictures(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def plan(steps: int = STEPS, count: int = 1) -> torch.Tensor:
    return torch.randn(count, steps, 7, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def stepped(world: ColaWorld, state, actions: torch.Tensor, generator: torch.Generator | None):
    shown = []
    for step in range(actions.shape[1]):
        latents, state = world.advance(state, actions[:, step], generator)
        shown.append(latents)
    return torch.stack(shown, dim=1), state


@GROUPED
@pytest.mark.parametrize("flow", [{}, {"source": "noise", "mean_fraction": 0.0}], ids=["last_frame", "noise"])
def test_a_step_shows_what_a_plan_of_the_actions_so_far_ends_with(preset, flow):
    world = ColaWorld(system_of(preset, **flow), NOISY)
    state, actions = world.start(pictures(), torch.zeros(1, 7)), plan()
    shown, _ = stepped(world, state, actions, chance())
    whole = world.imagine(state, actions, chance())
    for step in range(STEPS):
        expected = world.imagine(state, actions[:, : step + 1], chance())[:, -1]
        torch.testing.assert_close(shown[:, step], expected, rtol=1e-4, atol=2e-5)
    for last in (3, 7):  # of a latent: all its actions are known
        torch.testing.assert_close(shown[:, last], whole[:, last], rtol=1e-4, atol=2e-5)
    assert (shown[:, 4] - whole[:, 4]).abs().max() > 2e-4  # the actions to come are not


@GROUPED
@pytest.mark.parametrize("done", [3, 4, 6])
def test_a_plan_goes_on_from_where_steps_have_led(preset, done):
    world = ColaWorld(system_of(preset), NOISY)
    state, actions = world.start(pictures(), torch.zeros(1, 7)), plan()
    generator = chance()
    _, after = stepped(world, state, actions[:, :done], generator)
    rest = world.imagine(after, actions[:, done:], generator)
    assert rest.shape[1] == STEPS - done and after.taken == done
    torch.testing.assert_close(rest, world.imagine(state, actions, chance())[:, done:], rtol=1e-4, atol=2e-5)
    uncached = world.imagine_uncached(after, actions[:, done:], chance())
    assert uncached.shape == rest.shape


@pytest.mark.parametrize("common", [True, False])
def test_candidates_are_stepped_side_by_side(common):
    world = ColaWorld(system_of("nano_opensora"), NOISY, engine=EngineConfig(common_noise=common))
    state, actions = world.start(pictures(), torch.zeros(1, 7)), plan(6, count=3)
    generator = chance()
    shown, after = stepped(world, state, actions, generator)
    drawn = after.drawn.clone()
    assert shown.shape[:2] == (3, 6) and len(drawn) == (1 if common else 3)
    torch.testing.assert_close(shown[:, 3], world.imagine(state, actions, chance())[:, 3], rtol=1e-4, atol=2e-5)
    again, _ = stepped(world, after, plan(1, count=3), generator)
    torch.testing.assert_close(after.drawn, drawn, rtol=0, atol=0)  # a state is left as it was
    torch.testing.assert_close(stepped(world, after, plan(1, count=3), generator)[0], again, rtol=0, atol=0)


def test_only_whole_latents_are_remembered():
    world = ColaWorld(system_of("nano_opensora"))
    state = world.start(pictures(), torch.zeros(1, 7))
    frames, waiting = [], []
    for action in plan(9)[0]:
        _, state = world.advance(state, action[None])
        frames.append(state.cache.frames)
        waiting.append(state.pending.shape[1])
    assert frames == [1, 1, 1, 2, 2, 2, 2, 3, 3] and waiting == [1, 2, 3, 0] * 2 + [1]
    assert state.recent.shape[1] == 3 and state.actions.shape[1] == 2


@GROUPED
def test_a_world_reaches_as_far_as_its_plans_do(preset):
    world = ColaWorld(system_of(preset))
    state = world.start(pictures(), torch.zeros(1, 7))
    assert world.max_horizon == 12
    _, state = stepped(world, state, plan(12), None)
    with pytest.raises(ValueError, match="12 steps beyond its context"):
        world.advance(state, torch.zeros(1, 7))


@GROUPED
def test_an_action_shows_in_its_own_frame_and_in_none_before(preset):
    world = ColaWorld(system_of(preset, source="noise", mean_fraction=0.0), NOISY)
    state, actions = world.start(pictures(), torch.zeros(1, 7)), plan()
    other = actions.clone()
    other[:, 5] = -other[:, 5]
    one, two = (stepped(world, state, each, chance())[0] for each in (actions, other))
    change = (one - two).abs().amax(dim=(0, 2, 3, 4))
    assert change[:5].max() == 0.0 and change[5:].min() > 1e-6


@GROUPED
def test_it_keeps_every_law_of_worlds(preset):
    found = check_world(ColaWorld(system_of(preset)), height=32, width=32)
    assert len(found) > 10 and not [each for each in found if each.status == "fail"]


@GROUPED
def test_codes_are_stepped_too(preset):
    world = ColaCodeWorld(system_of(preset))
    codes = torch.randint(0, 8, (2, 5, 2), generator=torch.Generator().manual_seed(4))
    state = world.start(pictures(), codes[0, :1])
    shown, _ = stepped(world, state, codes, None)
    torch.testing.assert_close(shown[:, 3], world.imagine(state, codes)[:, 3], rtol=1e-4, atol=2e-5)


@GROUPED
@pytest.mark.parametrize("kind", ["real", "codes"])
def test_it_is_an_environment(preset, kind):
    world = ColaWorld(system_of(preset), NOISY)
    frames = pictures(4).reshape(2, 2, 3, 32, 32).permute(0, 1, 3, 4, 2).numpy()
    env = gymnasium.make("colaworld/Imagined-v0", world=world, start=frames, goal=frames[0, 0], actions=kind)
    env.reset(seed=1)
    env.action_space.seed(1)
    taken = [env.action_space.sample() for _ in range(14)]
    shown = []
    for number, action in enumerate(taken):
        if number == 6:
            state = env.unwrapped.get_state()
        observation, reward, *_ = env.step(action)
        assert reward < 0.0 and observation["agentview"].shape == (32, 32, 3)
        shown.append(observation["agentview"])
    assert len({picture.tobytes() for picture in shown}) == 14  # it goes on beyond the world's 12 steps
    env.unwrapped.restore_state(state)
    for number in range(6, 14):
        np.testing.assert_array_equal(env.step(taken[number])[0]["agentview"], shown[number])
