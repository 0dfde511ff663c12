"""Experts in the real simulator: each category's goal is drawn where the scene offers it, and reached."""

import numpy as np
import pytest

from colaworld.envs import manipulation
from colaworld.envs.expert_goals import (
    CATEGORIES,
    EXPERT_STEPS,
    TASKS,
    draw_goal,
    expert_for,
    privileged_cost,
    succeeded,
)
from colaworld.envs.expert_play import ExpertPlay, Noise
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.play import Workspace


def begin(env: LiberoEnv, init_state_id: int) -> tuple[dict, Workspace]:
    env.scene.reset_to_initial(init_state_id)
    return env.restore_state(env.get_state(), render=False)[1], Workspace.around(env.scene.home_pos())


@pytest.mark.parametrize(
    ("category", "init_state_id"), [("reach", 1), ("push", 1), ("lift", 2), ("open_drawer", 3), ("turn_on_stove", 4)]
)
def test_the_expert_reaches_its_goal(goal_env: LiberoEnv, category: str, init_state_id: int) -> None:
    info, workspace = begin(goal_env, init_state_id)
    goal = draw_goal(goal_env.scene, info, category, workspace, np.random.default_rng(init_state_id))
    before = privileged_cost(goal_env.scene, goal, info)
    assert not succeeded(goal_env.scene, goal, info) and before > 0
    expert = expert_for(goal_env.scene, category, goal)
    for _ in range(EXPERT_STEPS):
        action = expert(info)
        if expert.done:
            break
        info = goal_env.advance(action)
    assert expert.done and succeeded(goal_env.scene, goal, info)
    assert privileged_cost(goal_env.scene, goal, info) == 0


def test_a_bowl_is_placed_by_libero_s_own_predicate(spatial_env: LiberoEnv) -> None:
    info, workspace = begin(spatial_env, 0)
    goal = draw_goal(spatial_env.scene, info, "place", workspace, np.random.default_rng(0))
    assert goal.conditions == (("on", "akita_black_bowl_1", "plate_1"),)
    expert = expert_for(spatial_env.scene, "place", goal)
    while not expert.done:
        info = spatial_env.advance(expert(info))
    assert info["success"] and succeeded(spatial_env.scene, goal, info)
    assert draw_goal(spatial_env.scene, info, "place", workspace, np.random.default_rng(0)) is None, "done already"


def test_an_opened_drawer_can_be_closed_again(goal_env: LiberoEnv) -> None:
    info, workspace = begin(goal_env, 0)
    rng = np.random.default_rng(0)
    assert draw_goal(goal_env.scene, info, "close_drawer", workspace, rng) is None, "nothing is open"
    for category in ("open_drawer", "close_drawer"):
        goal = draw_goal(goal_env.scene, info, category, workspace, rng)
        assert info["joints"][goal.joint] > -0.02 if category == "open_drawer" else info["joints"][goal.joint] < -0.14
        expert = expert_for(goal_env.scene, category, goal)
        while not expert.done:
            info = goal_env.advance(expert(info))
        assert succeeded(goal_env.scene, goal, info)


def test_costs_fall_with_the_distance(goal_env: LiberoEnv) -> None:
    info, workspace = begin(goal_env, 0)
    goal = draw_goal(goal_env.scene, info, "lift", workspace, np.random.default_rng(3))
    far = privileged_cost(goal_env.scene, goal, info)
    near = privileged_cost(goal_env.scene, goal, {**info, "ee_pos": info["objects"][goal.object]})
    assert near == pytest.approx(goal.distance(info)) and near < far


def test_grips_keep_clear_of_what_stands_beside(goal_env: LiberoEnv) -> None:
    scene = goal_env.scene
    scene.reset_to_initial(0)
    bowl = scene.body_pos("akita_black_bowl_1")
    free = [grip for grip in manipulation.grips(scene, "akita_black_bowl_1") if grip.free]
    assert len(free) >= 2 and all(0.03 < np.linalg.norm((grip.point - bowl)[:2]) < 0.06 for grip in free), "at the rim"
    address = scene.model.joint("cream_cheese_1_joint0").qposadr[0]
    aside = free[0].point + 0.045 * (free[0].point - bowl) / np.linalg.norm((free[0].point - bowl)[:2])
    scene.data.qpos[address : address + 3] = [*aside[:2], bowl[2] + 0.03]
    scene.refresh()
    still_free = [grip.point for grip in manipulation.grips(scene, "akita_black_bowl_1") if grip.free]
    assert not any(np.allclose(point, free[0].point) for point in still_free), "the cheese is where a finger would go"
    scene.reset_to_initial(0)
    beside = np.array([*(free[0].point[:2] + (free[0].point - bowl)[:2]), 1.0])
    assert manipulation.clear_for_hand(scene, beside)
    assert not manipulation.clear_for_hand(scene, np.array([*bowl[:2], bowl[2] + 0.02])), "inside the bowl's wall"
    assert scene.height_at(bowl[:2]) > scene.height_at(bowl[:2], without="akita_black_bowl_1")


def test_an_unknown_category_is_named(goal_env: LiberoEnv) -> None:
    info, workspace = begin(goal_env, 0)
    goal = draw_goal(goal_env.scene, info, "reach", workspace, np.random.default_rng(0))
    with pytest.raises(ValueError, match="unknown category 'juggle'; known: reach, push"):
        expert_for(goal_env.scene, "juggle", goal)


def test_the_tasks_of_every_category_are_named() -> None:
    assert set(TASKS) == set(CATEGORIES) and all(TASKS.values())
    assert {task for task in TASKS["place"] if task[0] == "libero_object"} == {("libero_object", k) for k in range(10)}


def test_play_of_experts_is_a_function_of_its_seed_and_does_things(goal_env: LiberoEnv) -> None:
    def record(seed: int) -> tuple[np.ndarray, set, np.ndarray]:
        info, _ = begin(goal_env, 5)
        play = ExpertPlay(goal_env, np.random.default_rng(seed))
        chunks, seen = [], set()
        for _ in range(40):
            chunks.append(play(info))
            seen.add(play.category)
            info = goal_env.advance(chunks[-1])
        return np.stack(chunks), seen, goal_env.get_state()

    def undisturbed(seed: int) -> np.ndarray:
        info, _ = begin(goal_env, 5)
        play = ExpertPlay(goal_env, np.random.default_rng(seed), noise=Noise(std_position=0.0))
        chunks = []
        for _ in range(40):
            chunks.append(play(info))
            info = goal_env.advance(chunks[-1])
        return np.stack(chunks)

    chunks, seen, state = record(1)
    assert not np.array_equal(chunks, undisturbed(1)), "bursts of noise"
    again, _, same = record(1)
    other, _, _ = record(2)
    np.testing.assert_array_equal(chunks, again)
    np.testing.assert_array_equal(state, same)
    assert not np.array_equal(chunks, other)
    assert chunks.shape == (40, 5, 7) and np.abs(chunks).max() <= 1
    np.testing.assert_array_equal(chunks * 64, np.round(chunks * 64))
    assert None in seen and len(seen) >= 2, "a goal was finished and left"
