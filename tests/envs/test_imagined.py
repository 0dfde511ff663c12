"""The imagined environment: what its world imagines and nothing else, states, going on past the horizon, errors."""

import pickle
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from einops import rearrange
from gymnasium.utils.env_checker import check_env

import colaworld.envs  # noqa: F401  registers the environments
from colaworld.adapters.world import ColaWorld
from colaworld.envs.imagined import ImaginedEnv
from colaworld.envs.libero import LiberoEnv
from colaworld.experiments.planning_world import load_world

FRAMES = np.random.default_rng(0).integers(60, 120, (3, 2, 8, 12, 3), dtype=np.uint8)
GOAL = np.full((8, 12, 3), 90, np.uint8)


class ToyWorld:
    """Each frame is the one before plus the first action (and ``std`` of noise); latents are frames in [0, 1]."""

    action_dim, context_frames, max_horizon = 7, 2, 3

    def __init__(self, std: float = 0.0) -> None:
        self.std = std
        self.starts: list[tuple[torch.Tensor, torch.Tensor]] = []

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.float() / 255

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def start(self, frames: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        self.starts.append((frames.clone(), actions.clone()))
        return self.encode(frames[-1:])[0]

    def imagine(self, state: torch.Tensor, actions: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        assert actions.shape[1] <= self.max_horizon
        frames, frame = [], state.expand(len(actions), *state.shape)
        for action in actions.unbind(dim=1):
            noise = self.std * torch.randn(state.shape, generator=generator)
            frame = frame + 0.1 * action[:, 0, None, None, None] + noise
            frames.append(frame)
        return torch.stack(frames, dim=1)


class SteppingWorld(ToyWorld):
    """The same, one step at a time, with codes 0 to 4 for the first action."""

    code_sizes = (5, 5)

    def advance(
        self, state: torch.Tensor, actions: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        latents = self.imagine(state, actions[:, None], generator)[:, 0]
        return latents, latents[0]

    def by_codes(self) -> "SteppingWorld":
        coded = SteppingWorld(self.std)
        coded.action_dim, coded.starts = 2, self.starts
        return coded


def make(world: object, **settings: object) -> gymnasium.Env:
    return gymnasium.make("colaworld/Imagined-v0", world=world, **{"start": FRAMES, **settings})


def forward(amount: float) -> np.ndarray:
    return np.array([amount, 0, 0, 0, 0, 0, 0], np.float32)


@pytest.fixture(scope="module")
def shipped() -> ColaWorld:
    """The weights that ship."""
    return load_world().world


def test_a_world_of_another_picture_size_says_so_at_once() -> None:
    class Picky(ToyWorld):
        def encode(self, frames: torch.Tensor) -> torch.Tensor:
            raise ValueError(f"made for other pictures than {tuple(frames.shape[1:])}")

    with pytest.raises(ValueError, match="made for other pictures than .3, 8, 12"):
        make(Picky())


@pytest.mark.parametrize("actions", ["real", "codes"])
@pytest.mark.parametrize("goal", [None, GOAL])
def test_gymnasium_checks_pass_without_a_warning(actions: str, goal: np.ndarray | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make(SteppingWorld(0.01), actions=actions, goal=goal, render_mode="rgb_array")
        check_env(env.unwrapped)


def test_the_first_step_is_what_the_world_imagines(shipped: ColaWorld, goal_env: LiberoEnv) -> None:
    env = make(shipped, start=goal_env, render_mode="rgb_array")
    shown, _ = env.reset(options={"init_state_id": 2})
    first = goal_env.reset(options={"init_state_id": 2})[0]["agentview"]
    second = goal_env.step(np.zeros(7))[0]["agentview"]
    np.testing.assert_array_equal(shown["agentview"], second)  # it rests for the second context frame
    planes = torch.from_numpy(rearrange(np.stack([first, second]), "t h w c -> t c h w").copy())
    state = shipped.start(planes, torch.zeros(1, 7))
    actions = torch.tensor([[1.0, 0, 0, 0, 0, 0, -1], [0, 1.0, 0, 0, 0, 0, -1], [0, -1.0, 0, 0, 0, 0, -1]])
    pictures = []
    for action in actions:
        env.reset(options={"init_state_id": 2})
        expected = shipped.decode(shipped.imagine(state, action[None, None], None)[:, 0])[0]
        picture = env.step(action.numpy())[0]["agentview"]
        np.testing.assert_array_equal(picture, rearrange((expected * 255).round().byte(), "c h w -> h w c").numpy())
        np.testing.assert_array_equal(env.render(), picture)
        pictures.append(picture.astype(int))
    assert min(np.abs(pictures[k] - pictures[k - 1]).mean() for k in range(3)) > 1
    imagined = shipped.imagine(state, actions[None], None)[0]
    env.reset(options={"init_state_id": 2})
    for action, latents in zip(actions, imagined, strict=True):  # and the later ones those of the whole sequence
        expected = (shipped.decode(latents[None])[0] * 255).round().byte()
        picture = env.step(action.numpy())[0]["agentview"]
        assert np.abs(picture.astype(int) - rearrange(expected, "c h w -> h w c").numpy()).max() <= 1


def test_codes_drive_the_shipped_world(shipped: ColaWorld) -> None:
    frames = np.random.default_rng(1).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    env = make(shipped, start=frames, actions="codes")
    assert env.action_space == gymnasium.spaces.MultiDiscrete((32, 32))
    seen = []
    for codes in ([3, 4], [3, 4], [20, 9]):
        env.reset(seed=0)
        seen.append(env.step(np.array(codes))[0]["agentview"])
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])
    for _ in range(12):  # past the horizon, so from frames between which codes lead
        last = env.step(np.array([3, 4]))[0]["agentview"]
    state = env.unwrapped.get_state()
    assert state.context_codes and state.context.tolist() == [[3, 4]]
    env.reset(seed=5)
    np.testing.assert_array_equal(env.reset(options={"state": state})[0]["agentview"], last)


@pytest.mark.parametrize("world", [ToyWorld(0.02), SteppingWorld(0.02)])
def test_it_goes_on_past_the_horizon_from_its_own_last_frames(world: ToyWorld) -> None:
    env = make(world)
    env.reset(seed=0)
    world.starts.clear()
    pictures = [env.step(forward(0.1 * k))[0]["agentview"] for k in range(4)]
    (frames, actions), = world.starts  # one new start, before the fourth step
    np.testing.assert_array_equal(rearrange(frames.numpy(), "t c h w -> t h w c"), np.stack(pictures[1:3]))
    np.testing.assert_allclose(actions.numpy(), forward(0.2)[None])


def test_stepping_and_imagining_again_come_to_the_same() -> None:
    episodes = []
    for world in (ToyWorld(0.02), SteppingWorld(0.02)):
        env = make(world)
        env.reset(seed=3)
        episodes.append([env.step(forward(0.3))[0]["agentview"] for _ in range(5)])
    np.testing.assert_array_equal(*episodes)


def test_a_state_can_be_pickled_and_goes_on_in_another_environment() -> None:
    env, other = make(SteppingWorld(0.02), goal=GOAL), make(SteppingWorld(0.02), goal=255 - GOAL)
    env.reset(seed=1)
    other.reset(seed=2)
    for _ in range(5):
        shown, reward, *_ = env.step(forward(0.5))
    state = pickle.loads(pickle.dumps(env.unwrapped.get_state()))
    again, info = other.unwrapped.restore_state(state)
    np.testing.assert_array_equal(again["agentview"], shown["agentview"])
    np.testing.assert_array_equal(again["goal"], GOAL)
    assert (-info["distance"], info["imagined_steps"]) == (reward, 5)
    for _ in range(3):
        np.testing.assert_array_equal(
            env.step(forward(-0.5))[0]["agentview"], other.unwrapped.step(forward(-0.5))[0]["agentview"]
        )


def test_the_reward_is_minus_the_distance_to_the_goal() -> None:
    still = np.full((2, 8, 12, 3), 39, np.uint8)
    env = make(ToyWorld(), start=still, goal=GOAL)
    _, info = env.reset()
    assert info["distance"] == pytest.approx(0.2)
    _, reward, terminated, truncated, info = env.step(forward(1.0))
    assert reward == -info["distance"] == pytest.approx(-0.1)
    assert not terminated and not truncated
    env = make(ToyWorld(), start=still)
    assert "distance" not in env.reset()[1] and env.step(forward(1.0))[1] == 0.0


def test_the_episode_is_cut_where_the_registration_says() -> None:
    env = make(ToyWorld(), max_episode_steps=5)
    env.reset()
    assert [env.step(forward(0.0))[3] for _ in range(5)] == [False] * 4 + [True]
    assert gymnasium.spec("colaworld/Imagined-v0").max_episode_steps == 15


def test_the_seed_draws_the_start_unless_it_is_named() -> None:
    env = make(ToyWorld())
    for k in range(3):
        np.testing.assert_array_equal(env.reset(options={"start": k})[0]["agentview"], FRAMES[k, -1])
    drawn = {env.reset(seed=seed)[0]["agentview"].tobytes() for seed in range(40)}
    assert len(drawn) == 3


def test_actions_are_clipped_as_the_simulators_are() -> None:
    env = make(ToyWorld(), disable_env_checker=True)
    env.reset(options={"start": 0})
    clipped = env.step(forward(7.0))[0]["agentview"]
    env.reset(options={"start": 0})
    np.testing.assert_array_equal(env.step(forward(1.0))[0]["agentview"], clipped)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"world": None}, "needs a world and a start"),
        ({"start": None}, "needs a world and a start"),
        ({"actions": "code"}, "actions must be one of real, codes, got 'code'"),
        ({"actions": "codes"}, "needs a world that imagines codes; ToyWorld has no by_codes"),
        ({"render_mode": "human"}, "render_mode must be"),
        ({"start": FRAMES.astype(float)}, r"must be uint8 .*got float64 \(3, 2, 8, 12, 3\)"),
        ({"start": FRAMES[:, :1]}, "at least 2 frames, got 3 starts of 1"),
        ({"start_actions": np.zeros((2, 7))}, r"start_actions must have shape \(1, 7\) or \(3, 1, 7\), got \(2, 7\)"),
        ({"start_actions": np.full((1, 7), np.nan)}, "start_actions hold 21 values not finite"),
        ({"start_kwargs": {"task_id": 1}}, "start_kwargs belong to an environment's id"),
        ({"goal": GOAL.astype(float)}, "goal must be uint8"),
        ({"goal": GOAL[:4]}, r"goal must have shape \(8, 12, 3\)"),
        ({"start": gymnasium.make("CartPole-v1")}, "needs an environment with 'agentview'"),
    ],
)
def test_wrong_arguments_are_named(settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ImaginedEnv(**{"world": ToyWorld(), "start": FRAMES, **settings})


def test_wrong_calls_are_named() -> None:
    env, coded = ImaginedEnv(ToyWorld(), FRAMES), ImaginedEnv(SteppingWorld(), FRAMES, actions="codes")
    with pytest.raises(ValueError, match="reset comes before step"):
        env.step(forward(0))
    with pytest.raises(ValueError, match="reset comes before get_state"):
        env.get_state()
    env.reset()
    coded.reset()
    with pytest.raises(ValueError, match=r"shape \(7,\), got \(5, 7\)"):
        env.step(np.zeros((5, 7)))
    with pytest.raises(ValueError, match="1 values that are not finite"):
        env.step(forward(np.nan))
    with pytest.raises(ValueError, match=r"codes must lie in .*got \[0, 5\]"):
        coded.step(np.array([0, 5]))
    with pytest.raises(ValueError, match="unknown start 3; it must be 0..2"):
        env.reset(options={"start": 3})
    with pytest.raises(ValueError, match=r"unknown reset options \['seed'\]"):
        env.reset(options={"seed": 3})
    with pytest.raises(ValueError, match="has actions"):
        env.restore_state(coded.get_state())
    with pytest.raises(ValueError, match="has pictures"):
        ImaginedEnv(ToyWorld(), FRAMES[:, :, :4]).restore_state(env.get_state())
    with pytest.raises(ValueError, match="with a goal"):
        ImaginedEnv(ToyWorld(), FRAMES, goal=GOAL).restore_state(env.get_state())
