"""The LIBERO environment: Gymnasium's contract, exact states, LIBERO's own physics and pictures, readable errors."""

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import colaworld.envs
from colaworld.envs import quiet
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.scene import LiberoScene

ACTIONS = np.random.default_rng(5).uniform(-1, 1, (4, 7))


def walk(env: LiberoEnv, actions: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frame and state after each action."""
    return [(env.step(action)[0]["agentview"].copy(), env.get_state()) for action in actions]


def assert_same(first: list, second: list) -> None:
    for (frame, state), (other_frame, other_state) in zip(first, second, strict=True):
        np.testing.assert_array_equal(state, other_state)
        np.testing.assert_array_equal(frame, other_frame)


@pytest.mark.filterwarnings("ignore:.*render_modes.*", "ignore:.*spec.*")
def test_gymnasium_checks_pass(goal_env: LiberoEnv) -> None:
    check_env(goal_env)


def test_five_suites_are_registered_with_liberos_caps() -> None:
    assert colaworld.envs.FRAME_SKIP == 5
    suites = ("LiberoSpatial", "LiberoObject", "LiberoGoal", "Libero10", "Libero90")
    caps = {name: gymnasium.spec(f"colaworld/{name}-v0").max_episode_steps for name in suites}
    assert caps == {"LiberoSpatial": 56, "LiberoObject": 56, "LiberoGoal": 60, "Libero10": 104, "Libero90": 80}


def test_a_restored_state_goes_on_exactly(goal_env: LiberoEnv) -> None:
    goal_env.reset(options={"init_state_id": 1})
    turn = np.array([0.3, 0.2, -0.5, 0.4, -0.3, 0.2, 1.0])
    goal_env.advance(turn)  # the controller now holds another orientation, and the gripper is half closed
    state = goal_env.get_state()
    straight = ACTIONS * [1, 1, 1, 0, 0, 0, 1]
    unbroken = walk(goal_env, straight)
    for _ in range(2):
        goal_env.reset(options={"init_state_id": 2})
        goal_env.reset(options={"state": state})
        assert_same(walk(goal_env, straight), unbroken)


def test_the_picture_of_a_restored_state_is_the_picture_it_had(goal_env: LiberoEnv) -> None:
    goal_env.reset(options={"init_state_id": 3})
    (frame, state), = walk(goal_env, ACTIONS[:1])
    goal_env.reset(options={"init_state_id": 4})
    observation, info = goal_env.restore_state(state)
    np.testing.assert_array_equal(observation["agentview"], frame)
    assert goal_env.restore_state(state, render=False)[0] is None
    np.testing.assert_array_equal(info["ee_pos"], goal_env.ee_pos)


def test_a_chunk_of_one_action_is_that_action_held(goal_env: LiberoEnv) -> None:
    goal_env.reset(options={"init_state_id": 0})
    state = goal_env.get_state()
    held = walk(goal_env, ACTIONS[:2])
    goal_env.restore_state(state)
    assert_same(walk(goal_env, np.repeat(ACTIONS[:2, None], 5, axis=1)), held)
    goal_env.restore_state(state)
    for row in ACTIONS[[0, 0, 0, 0, 0]]:
        goal_env.scene.control_step(row)
    np.testing.assert_array_equal(goal_env.get_state(), held[0][1])


def test_a_step_is_five_control_steps_of_50_ms(goal_env: LiberoEnv) -> None:
    goal_env.reset(options={"init_state_id": 0})
    before = goal_env.scene.data.time
    goal_env.advance(np.zeros(7))
    assert goal_env.scene.data.time - before == pytest.approx(0.25)


def test_success_is_liberos_predicate(goal_env: LiberoEnv) -> None:
    goal_env.reset(options={"init_state_id": 0})
    assert not goal_env.scene.success()
    joint = goal_env.scene.model.joint("wooden_cabinet_1_middle_level").qposadr[0]
    goal_env.scene.data.qpos[joint] = -0.15  # task 0: open the middle drawer
    _, info = goal_env.restore_state(goal_env.get_state())
    assert info["success"]
    _, reward, terminated, truncated, info = goal_env.step(np.zeros(7))
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def test_observations_of_the_full_environment(spatial_env: LiberoEnv) -> None:
    observation, info = spatial_env.reset(options={"init_state_id": 0})
    assert {name: value.shape for name, value in observation.items()} == {
        "agentview": (96, 128, 3), "eye_in_hand": (96, 128, 3), "proprio": (16,)
    }
    assert spatial_env.observation_space.contains(observation)
    np.testing.assert_allclose(observation["proprio"][9:12], info["ee_pos"], atol=1e-6)
    assert not np.array_equal(observation["agentview"], observation["eye_in_hand"])
    assert set(info["objects"]) == set(spatial_env.object_names())
    assert info["gripper"].shape == (2,)


@pytest.fixture(scope="module")
def plain(spatial_env: LiberoEnv) -> Iterator[object]:
    """LIBERO's own environment of the same task."""
    from libero.libero.envs import OffScreenRenderEnv

    env = OffScreenRenderEnv(
        bddl_file_name=spatial_env.scene.bddl_file, camera_names=["agentview"], camera_heights=96, camera_widths=128
    )
    env.seed(0)
    env.reset()
    yield env
    env.close()


def test_physics_and_full_pictures_are_liberos_own(spatial_env: LiberoEnv, plain: object) -> None:
    spatial_env.reset(options={"init_state_id": 1})  # our controller has a past, as it would in use
    initial = spatial_env.scene.initial_states[0]
    spatial_env.scene.set_initial(initial)
    plain.set_init_state(initial)
    plain.robots[0].controller.new_update = True
    down = ACTIONS.repeat(2, axis=0) * [1, 1, 0, 0.3, 0.3, 0.3, 1] - [0, 0, 0.8, 0, 0, 0, 0]
    for action in down:  # ends in contact
        plain.step(action)
        spatial_env.scene.control_step(action)
        np.testing.assert_array_equal(spatial_env.scene.data.qpos, plain.sim.data.qpos)
        np.testing.assert_array_equal(spatial_env.scene.data.qvel, plain.sim.data.qvel)
    spatial_env.scene.refresh()
    plain.sim.forward()
    plain.sim._render_context_offscreen.gl_ctx.make_current()  # robosuite draws into whatever context is current
    raw = plain.sim.render(camera_name="agentview", width=128, height=96)
    np.testing.assert_array_equal(spatial_env.picture(), raw[::-1])


def test_pictures_are_upright_and_not_mirrored(goal_env: LiberoEnv) -> None:
    """Up in the world is up in the picture; the camera faces the robot, so the world's +y is on the picture's right."""
    goal_env.reset(options={"init_state_id": 0})

    def centre_of_change(action: list[float]) -> np.ndarray:
        """Where the picture (row, column) is brighter-or-darker after a move than before it, weighted."""
        frames = [goal_env.picture().astype(float)]
        goal_env.advance(np.array(action))
        goal_env.advance(np.array(action))
        frames.append(goal_env.picture().astype(float))
        change = np.abs(frames[1] - frames[0]).sum(axis=2)
        return (np.indices(change.shape) * change).sum(axis=(1, 2)) / change.sum()

    goal_env.advance(np.array([1.0, 0, -1, 0, 0, 0, -1]))
    state = goal_env.get_state()
    moves = {}
    for name, action in {"left": [0, -1.0], "right": [0, 1.0]}.items():
        goal_env.restore_state(state)
        moves[name] = centre_of_change([0.0, *action[1:], 0, 0, 0, 0, -1])
    assert moves["right"][1] > moves["left"][1] + 3
    goal_env.restore_state(state)
    raised = centre_of_change([0, 0, 1.0, 0, 0, 0, -1])
    goal_env.restore_state(state)
    lowered = centre_of_change([0, 0, -1.0, 0, 0, 0, -1])
    assert raised[0] < lowered[0] - 1
    # The dark cabinet stands at -y, so on the left; only table and light colours lie at +y.
    assert goal_env.object_pos("wooden_cabinet_1")[1] < goal_env.object_pos("flat_stove_1")[1]
    picture = goal_env.picture()
    assert picture[32:50, :14].mean() < 60 < picture[32:50, 50:].mean()


def test_the_lite_picture_stays_near_the_full_one(goal_env: LiberoEnv) -> None:
    from colaworld.envs.render import PROFILES, SceneRenderer

    goal_env.reset(options={"init_state_id": 0})
    lite = goal_env.picture().astype(int)
    renderer = SceneRenderer(goal_env.scene.model, PROFILES["full"], 64, 64)
    full = renderer.picture(goal_env.scene.data, "agentview").astype(int)
    renderer.close()
    assert np.abs(lite - full).mean() < 8
    np.testing.assert_array_equal(goal_env.picture(), lite)  # another renderer beside it changes nothing


def test_decimation_spares_what_can_be_touched(goal_env: LiberoEnv, spatial_env: LiberoEnv) -> None:
    goal_env.reset(seed=0)
    spatial_env.reset(seed=0)
    lite, full = goal_env.scene.model, spatial_env.scene.model
    assert lite.mesh_facenum.sum() < 0.4 * full.mesh_facenum.sum()
    for name in ("robot0_link1", "robot0_link5"):  # collision meshes of the arm
        assert lite.mesh(name).facenum == full.mesh(name).facenum


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"suite": "libero_gaol"}, "unknown suite 'libero_gaol'"),
        ({"task_id": 10}, "unknown task_id 10 of suite 'libero_goal'; it must be 0..9"),
        ({"task_id": -1}, "unknown task_id -1"),
        ({"height": 4}, "at least 8 pixels, got 4x64"),
        ({"frame_skip": 0}, "frame_skip must be at least 1, got 0"),
        ({"render_profile": "best"}, "unknown render_profile 'best'"),
        ({"render_profile": "lite", "width": 256}, "up to 128 pixels, got 64x256"),
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array', got 'human'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LiberoEnv(**{"suite": "libero_goal", **arguments})


def test_wrong_actions_and_states_are_named(goal_env: LiberoEnv) -> None:
    goal_env.reset(seed=0)
    size = goal_env.scene.state_size
    with pytest.raises(ValueError, match=r"shape \(7,\) or \(5, 7\), got \(6,\)"):
        goal_env.step(np.zeros(6))
    with pytest.raises(ValueError, match=r"got \(4, 7\)"):
        goal_env.step(np.zeros((4, 7)))
    with pytest.raises(ValueError, match="1 values that are not finite"):
        goal_env.step(np.array([0, 0, np.nan, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match=rf"has shape \({size},\), got \(79,\)"):
        goal_env.reset(options={"state": np.zeros(79)})
    with pytest.raises(ValueError, match="not finite"):
        goal_env.restore_state(np.full(size, np.inf))
    with pytest.raises(ValueError, match="unknown init_state_id 50 .* 0..49"):
        goal_env.reset(options={"init_state_id": 50})
    with pytest.raises(ValueError, match=r"unknown reset options \['id'\]"):
        goal_env.reset(options={"id": 3})
    with pytest.raises(ValueError, match="unknown object 'bowl'"):
        goal_env.object_pos("bowl")


def test_missing_graphics_libraries_are_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet.ctypes.util, "find_library", lambda name: None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    quiet.choose_graphics()
    assert os.environ["MUJOCO_GL"] == "disabled"  # so that MuJoCo can still be imported
    with pytest.raises(FileNotFoundError, match="missing: libEGL.so.1, libGL.so.1; .* apt-get install libegl1"):
        quiet.check_graphics()


def test_a_process_ends_without_a_word_and_writes_nowhere(tmp_path: Path) -> None:
    """No prompt, no log file, no traceback from GL contexts that were never closed."""
    code = (
        "import gymnasium, colaworld.envs\n"
        "env = gymnasium.make('colaworld/LiberoGoal-v0')\n"
        "env.reset(seed=0)\n"
        "print(env.unwrapped.picture().shape)\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "COLAWORLD_CACHE": str(tmp_path / "cache")}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(64, 64, 3)\n", "")
    written = {path.relative_to(tmp_path).parent for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {Path("cache/meshes")}


def test_a_scene_that_was_let_go_is_collected_before_the_next_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds hundreds of MiB in cycles that Python's own collector does not hurry to look at."""

    class Old:
        pass

    def build(bddl_file: str) -> object:
        raise RuntimeError("this is where the next would be built")

    monkeypatch.setattr("colaworld.envs.scene._build", build)
    old = Old()
    old.itself, gone = old, weakref.ref(old)
    gc.disable()
    try:
        del old
        assert gone() is not None
        with pytest.raises(RuntimeError, match="would be built"):
            LiberoScene("libero_goal", 0)
        assert gone() is None
    finally:
        gc.enable()
