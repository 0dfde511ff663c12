"""The picture of a state is the same whatever other environments are, or were, open in the process."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from OpenGL import EGL

from colaworld.envs.gl_context import borrowed_context
from colaworld.envs.libero import LiberoEnv

ALONE = """
import sys
import numpy as np
from colaworld.envs.libero import LiberoEnv
env = LiberoEnv("libero_goal", 0)
env.restore_state(np.load(sys.argv[1]), render=False)
np.save(sys.argv[2], env.picture())
"""


def picture_of_a_fresh_process(state: np.ndarray, folder: Path) -> np.ndarray:
    """The picture (64, 64, 3) of a libero_goal state where nothing else was ever drawn."""
    np.save(folder / "state.npy", state)
    command = [sys.executable, "-c", ALONE, str(folder / "state.npy"), str(folder / "alone.npy")]
    subprocess.run(command, env=dict(os.environ), check=True, timeout=300, stdin=subprocess.DEVNULL)
    return np.load(folder / "alone.npy")


def test_pictures_do_not_depend_on_the_neighbours(
    goal_env: LiberoEnv, spatial_env: LiberoEnv, tmp_path: Path
) -> None:
    from libero.libero.envs import OffScreenRenderEnv

    goal_env.reset(options={"init_state_id": 0})
    spatial_env.reset(options={"init_state_id": 0})
    alone, spatial = picture_of_a_fresh_process(goal_env.get_state(), tmp_path), spatial_env.picture()

    def assert_undisturbed() -> None:
        for last in (goal_env, spatial_env):  # the one drawn last is the one a neighbour would harm
            np.testing.assert_array_equal(goal_env.picture(), alone)
            np.testing.assert_array_equal(spatial_env.picture(), spatial)
            last.picture()

    assert_undisturbed()
    neighbour = LiberoEnv("libero_object", 0, height=48, width=160, render_profile="full")
    neighbour.picture()
    assert_undisturbed()
    neighbour.close()
    assert_undisturbed()
    neighbour.picture()  # opens again, and is then dropped without being closed
    assert_undisturbed()
    del neighbour
    gc.collect()
    assert_undisturbed()

    plain = OffScreenRenderEnv(bddl_file_name=spatial_env.scene.bddl_file, camera_heights=96, camera_widths=128)
    drawn = plain.env._get_observations(force_update=True)["agentview_image"].copy()
    assert_undisturbed()
    np.testing.assert_array_equal(plain.env._get_observations(force_update=True)["agentview_image"], drawn)
    goal_env.picture()
    plain.close()  # frees its OpenGL objects in the context that is current
    assert_undisturbed()
    del plain
    gc.collect()
    assert_undisturbed()


def test_no_context_of_ours_stays_current(goal_env: LiberoEnv) -> None:
    EGL.eglReleaseThread()
    goal_env.reset(options={"init_state_id": 0})
    assert not EGL.eglGetCurrentContext()
    goal_env.visible_share("gripper")
    assert not EGL.eglGetCurrentContext()


def test_no_garbage_is_collected_while_drawing() -> None:
    with borrowed_context(), borrowed_context():
        assert not gc.isenabled()
    assert gc.isenabled()
