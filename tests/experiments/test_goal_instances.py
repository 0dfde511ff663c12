"""What an instance has to pass before it goes into a manifest: each check turns down what it is there for."""

import numpy as np
import pytest

from colaworld.envs.libero import LiberoEnv
from colaworld.envs.manifest import FIRST_SEED, Predicate
from colaworld.experiments import goal_instances
from colaworld.experiments.goal_instances import LONG_STAGES, Candidate, attempt, attempt_long


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goal_instances, "RANDOM_TRIES", 1)


def test_a_sound_instance_is_a_function_of_its_seed(goal_env: LiberoEnv) -> None:
    first, again = attempt(goal_env, "lift", FIRST_SEED), attempt(goal_env, "lift", FIRST_SEED)
    assert isinstance(first, Candidate) and 1 <= first.expert_steps <= 12
    np.testing.assert_array_equal(first.start, again.start)
    np.testing.assert_array_equal(first.goal_frame, again.goal_frame)
    assert not np.array_equal(first.start_frame, first.goal_frame)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_random_reaches", lambda *arguments: True),
        ("_visible", lambda *arguments: False),
        ("STILL", -1.0),
        ("_steps_to_success", lambda *arguments: None),
        ("succeeded", lambda *arguments: False),
    ],
    ids=["chance solves it", "hidden", "something else moved", "the scored expert fails", "the demonstration failed"],
)
def test_an_instance_that_fails_a_check_is_dropped(
    goal_env: LiberoEnv, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    monkeypatch.setattr(goal_instances, name, value)
    assert attempt(goal_env, "lift", FIRST_SEED) is None


def test_chance_reaches_what_is_near_and_not_what_is_far(goal_env: LiberoEnv) -> None:
    goal_env.scene.reset_to_initial(0)
    start, here = goal_env.get_state(), goal_env.ee_pos
    near = Predicate(target=tuple(here), radius=0.5)
    far = Predicate(target=tuple(here + (0.0, 0.0, 2.0)), radius=0.03)
    assert goal_instances._random_reaches(goal_env, start, near, 1)
    assert not goal_instances._random_reaches(goal_env, start, far, 1)


def test_hidden_things_are_seen_to_be_hidden(goal_env: LiberoEnv) -> None:
    goal_env.scene.reset_to_initial(0)
    bowl = Predicate(object="akita_black_bowl_1", target=(0.0, 0.0, 0.0), radius=0.05)
    assert goal_instances._visible(goal_env, bowl)
    address = goal_env.scene.model.joint("akita_black_bowl_1_joint0").qposadr[0]
    goal_env.scene.data.qpos[address + 2] -= 1.0  # below the table
    goal_env.scene.refresh()
    assert not goal_instances._visible(goal_env, bowl)


def test_a_long_instance_leads_stage_by_stage_from_an_official_state(spatial_env: LiberoEnv) -> None:
    candidate = attempt_long(spatial_env, FIRST_SEED)
    assert candidate.subgoal_frames.shape[0] == LONG_STAGES and candidate.phase == 0
    np.testing.assert_array_equal(candidate.subgoal_frames[-1], candidate.goal_frame)
    steps = np.abs(np.diff(candidate.subgoal_frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert (steps > 0).all(), "every stage looks different"
    settled = []
    for k in range(len(spatial_env.scene.initial_states)):
        spatial_env.scene.reset_to_initial(k)
        settled.append(np.array_equal(spatial_env.get_state(), candidate.start))
        if settled[-1]:
            break
    assert settled[-1], "it starts where LIBERO does"
    _, info = spatial_env.restore_state(candidate.goal, render=False)
    assert info["success"]
