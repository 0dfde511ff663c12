"""Vector environments: workers draw without a screen, each its own frames, also when forked from one that has drawn."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection

import gymnasium
import numpy as np
import pytest

import colaworld.envs  # noqa: F401  registers the environments
from colaworld.envs import fork
from colaworld.envs.libero import LiberoEnv

SEEDS = [5, 6]


@pytest.fixture(scope="module")
def workers(goal_env: LiberoEnv) -> Iterator[gymnasium.vector.VectorEnv]:
    """Two, started the default way after this process has drawn."""
    goal_env.reset(seed=0)
    envs = gymnasium.make_vec("colaworld/LiberoGoal-v0", num_envs=2, vectorization_mode="async")
    yield envs
    envs.close(timeout=10)


def test_workers_draw_what_a_single_environment_draws(
    workers: gymnasium.vector.VectorEnv, goal_env: LiberoEnv
) -> None:
    workers.reset_async(seed=SEEDS)
    observed, _ = workers.reset_wait(timeout=120)
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 7)).astype(np.float32)
    workers.step_async(actions)
    moved = workers.step_wait(timeout=120)[0]
    assert workers.single_observation_space.contains({"agentview": observed["agentview"][0]})
    assert not np.array_equal(observed["agentview"][0], observed["agentview"][1])
    for index, seed in enumerate(SEEDS):
        np.testing.assert_array_equal(goal_env.reset(seed=seed)[0]["agentview"], observed["agentview"][index])
        np.testing.assert_array_equal(goal_env.step(actions[index])[0]["agentview"], moved["agentview"][index])


def test_workers_keep_their_own_states(workers: gymnasium.vector.VectorEnv) -> None:
    workers.reset_async(seed=[5, 5])
    same = workers.reset_wait(timeout=120)[0]["agentview"]
    np.testing.assert_array_equal(same[0], same[1])
    workers.step_async(np.array([[1, 0, 0, 0, 0, 0, -1], [-1, 0, 0, 0, 0, 0, -1]], np.float32))
    apart = workers.step_wait(timeout=120)[0]["agentview"]
    assert not np.array_equal(apart[0], apart[1])


def _send_picture(env: LiberoEnv, where: Connection) -> None:
    where.send(env.picture())


def test_an_environment_that_has_drawn_can_be_forked(goal_env: LiberoEnv) -> None:
    expected = goal_env.reset(seed=1)[0]["agentview"]
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_send_picture, args=(goal_env, there), daemon=True)
    child.start()
    try:
        assert here.poll(60), "the forked process never came to a picture"
        np.testing.assert_array_equal(here.recv(), expected)
    finally:
        child.kill()
        child.join()
    np.testing.assert_array_equal(goal_env.picture(), expected)


def test_an_environment_draws_the_same_after_its_context_was_closed(goal_env: LiberoEnv) -> None:
    expected = goal_env.reset(seed=1)[0]["agentview"]
    goal_env.close()
    np.testing.assert_array_equal(goal_env.picture(), expected)


def test_where_a_forked_process_cannot_draw_it_says_so(
    monkeypatch: pytest.MonkeyPatch, goal_env: LiberoEnv
) -> None:
    goal_env.reset(seed=0)
    monkeypatch.setattr(fork, "_drawing_process", -1)
    monkeypatch.setattr(fork, "_SURFACELESS", 0)  # no such platform
    for _ in range(2):
        with pytest.raises(RuntimeError, match="forked from one that had drawn .*'context': 'spawn'"):
            goal_env.picture()
