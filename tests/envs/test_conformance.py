"""What every registered environment keeps to: its spaces, its seed, exact states, and arrays that nobody else holds.

The ids come from Gymnasium's registry: a new environment is tested as soon as it is registered, and fails until
``RECIPES`` says how to make it.
"""

import contextlib
from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
import pytest

import colaworld.envs  # noqa: F401  registers the environments
from colaworld.experiments.planning_world import load_world

IDS = sorted(name for name in gymnasium.registry if name.startswith("colaworld/"))
STARTS = np.random.default_rng(7).integers(0, 255, (8, 2, 64, 64, 3), dtype=np.uint8)
SEED, OTHER_SEED = 3, 4
ACTIONS = [np.array(row, np.float32) for row in ([0.5, 0.8, -0.4, 0, 0, 0.3, 1], [-0.3, 0.6, 0.2, 0.2, 0, 0, -1])]
Recipe = Callable[[], dict[str, object]]
RECIPES: dict[str, Recipe] = {
    "colaworld/LiberoSpatial-v0": lambda: {"proprio": True},
    "colaworld/LiberoObject-v0": dict,
    "colaworld/LiberoGoal-v0": lambda: {"wrist": True},
    "colaworld/Libero10-v0": dict,
    "colaworld/Libero90-v0": dict,
    "colaworld/LiberoGoalReaching-v0": dict,
    "colaworld/Imagined-v0": lambda: {"world": load_world().world, "start": STARTS, "goal": STARTS[0, 0]},
}
ONE_START = {"colaworld/LiberoGoalReaching-v0"}
"""Where the start is the instance's, and not the seed's."""

Step = tuple[dict[str, np.ndarray], float, bool, bool, dict[str, object]]


@pytest.fixture(scope="module", params=IDS)
def env(request: pytest.FixtureRequest) -> Iterator[gymnasium.Env]:
    """One environment of each id, made once: pytest runs all tests of one parameter together."""
    assert request.param in RECIPES, f"no recipe for {request.param}: add one to RECIPES"
    made = gymnasium.make(request.param, render_mode="rgb_array", **RECIPES[request.param]())
    yield made
    made.close()


def play(env: gymnasium.Env) -> list[Step]:
    return [env.step(action) for action in ACTIONS]


def arrays(value: object, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every array inside nested dictionaries, with its path."""
    if isinstance(value, np.ndarray):
        yield path, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from arrays(part, f"{path}/{name}")


def assert_same(first: dict[str, object], second: dict[str, object]) -> None:
    """Two observations or infos, to the last bit."""
    assert first.keys() == second.keys()
    for (path, one), (_, other) in zip(arrays(first), arrays(second), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=path)
        assert one.dtype == other.dtype
    plain = [{k: v for k, v in told.items() if not isinstance(v, np.ndarray | dict)} for told in (first, second)]
    assert plain[0] == plain[1]


def assert_same_steps(first: list[Step], second: list[Step]) -> None:
    for one, other in zip(first, second, strict=True):
        assert_same(one[0], other[0])
        assert one[1:4] == other[1:4]
        assert_same(one[4], other[4])


def test_every_recipe_is_of_a_registered_environment() -> None:
    assert set(RECIPES) == set(IDS)


def test_what_comes_out_lies_in_the_spaces(env: gymnasium.Env) -> None:
    observation, info = env.reset(seed=SEED)
    assert env.observation_space.contains(observation)
    assert observation["agentview"].dtype == np.uint8 and observation["agentview"].std() > 5
    assert isinstance(info, dict)
    for observation, reward, terminated, truncated, info in play(env):
        assert env.observation_space.contains(observation)
        assert type(reward) is float and np.isfinite(reward)
        assert type(terminated) is bool and type(truncated) is bool and isinstance(info, dict)
    np.testing.assert_array_equal(env.render(), observation["agentview"])
    assert all(env.action_space.contains(action) for action in ACTIONS)


def test_the_seed_decides_everything(env: gymnasium.Env) -> None:
    first, told = env.reset(seed=SEED)
    steps = play(env)
    other, _ = env.reset(seed=OTHER_SEED)
    again, told_again = env.reset(seed=SEED)
    assert_same(first, again)
    assert_same(told, told_again)
    assert_same_steps(steps, play(env))
    assert np.array_equal(first["agentview"], other["agentview"]) == (env.spec.id in ONE_START)


def test_a_restored_state_is_replayed_exactly(env: gymnasium.Env) -> None:
    env.reset(seed=SEED)
    observation, _, _, _, info = env.step(ACTIONS[1])
    source = env.unwrapped if hasattr(env.unwrapped, "get_state") else env.unwrapped.libero
    state = source.get_state()
    steps = play(env)
    env.reset(seed=OTHER_SEED)
    env.step(-ACTIONS[0])
    restored, told = source.restore_state(state)
    np.testing.assert_array_equal(restored["agentview"], observation["agentview"])
    if source is env.unwrapped:
        assert_same(restored, observation)
        assert_same(told, info)
    assert_same_steps(steps, play(env))


def test_actions_move_the_picture_each_its_own_way(env: gymnasium.Env) -> None:
    pictures = []
    for action in (ACTIONS[0], -ACTIONS[0]):
        before = env.reset(seed=SEED)[0]["agentview"]
        pictures.append(env.step(action)[0]["agentview"])
        assert not np.array_equal(pictures[-1], before)
    assert not np.array_equal(*pictures)


def test_nobody_else_holds_what_is_returned(env: gymnasium.Env) -> None:
    env.reset(seed=SEED)
    untouched = play(env)
    returned = list(env.reset(seed=SEED))
    spoiled: list[tuple[str, np.ndarray]] = []
    actions = [action.copy() for action in ACTIONS]
    steps = []
    for action in actions:
        spoiled += [*spoil(returned), ("render", _spoil(env.render()))]
        step = env.step(action)
        action[:] = 0
        steps.append((_copied(step[0]), *step[1:4], _copied(step[4])))
        returned = [step[0], step[4]]
    spoiled += spoil(returned)
    assert_same_steps(steps, untouched)
    for index, (path, one) in enumerate(spoiled):
        for other_path, other in spoiled[:index]:
            assert not np.shares_memory(one, other), f"{path} and {other_path} share memory"


def spoil(returned: list[object]) -> list[tuple[str, np.ndarray]]:
    """Overwrite every array that was returned (views of something read-only cannot be spoiled), and hand them out."""
    found = [pair for part in returned for pair in arrays(part)]
    for _, array in found:
        _spoil(array)
    return found


def _spoil(array: np.ndarray) -> np.ndarray:
    with contextlib.suppress(ValueError):
        array[...] = 0 if array.any() else 1
    return array


def _copied(value: object) -> object:
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in value.items()}
    return value.copy() if isinstance(value, np.ndarray) else value
