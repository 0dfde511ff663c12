"""One LIBERO task as a simulator that can be stepped, saved and restored: no pictures, no Gymnasium.

The scene is robosuite's own environment and controller, built without camera observables. A control step (20 Hz) is
robosuite's 25 model steps, so the physics is that of ``OffScreenRenderEnv``, bit for bit (one thing differs: robosuite
aims the very first action after ``set_init_state`` from the pose the arm was built in; here it is the pose it is in).

The state vector is float64 ``(n,)``: MuJoCo's ``mjSTATE_INTEGRATION`` (time, positions, velocities, warm start,
controls), then what robosuite keeps in Python: the gripper's integrated command (2) and the orientation that the
controller holds while an action asks for no rotation (9). A restored state continues exactly as it would have.
"""

import gc
import os
from collections.abc import Callable

import mujoco
import numpy as np

from colaworld.envs.controller import quicken
from colaworld.envs.privileged import PrivilegedReads
from colaworld.envs.quiet import libero

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
ACTION_DIM = 7
SETTLE_STEPS = 10  # control steps with the gripper opening, as in LIBERO's usual evaluation
SETTLE_ACTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
_GRIPPER, _ORIENTATION = 2, 9
_ROBOT = ("robot0", "gripper0", "mount0")
_PLACEMENT_SEED = 0  # LIBERO draws the fixtures' places (1 cm) when it builds a scene; here they are always the same


class LiberoScene(PrivilegedReads):
    """The simulator of one task.

    ``suite`` is one of ``SUITES``; ``task_id`` counts from 0. Raises ValueError for an unknown suite or task.
    """

    def __init__(self, suite: str, task_id: int) -> None:
        if suite not in SUITES:
            raise ValueError(f"unknown suite {suite!r}; known: {', '.join(SUITES)}")
        tasks = list(libero().task_maps[suite].values())
        if isinstance(task_id, bool) or not isinstance(task_id, int | np.integer) or not 0 <= task_id < len(tasks):
            raise ValueError(f"unknown task_id {task_id!r} of suite {suite!r}; it must be 0..{len(tasks) - 1}")
        task = tasks[task_id]
        folder = os.path.join(libero().get_libero_path("bddl_files"), task.problem_folder)
        self.suite, self.task_id, self.language = suite, int(task_id), task.language
        self.bddl_file = os.path.normpath(os.path.join(folder, task.bddl_file))
        self._initial_states_file = os.path.join(
            libero().get_libero_path("init_states"), task.problem_folder, task.init_states_file
        )
        self._initial_states: np.ndarray | None = None
        self._settled: dict[int, np.ndarray] = {}
        gc.collect()  # a scene that was let go hangs in cycles of references, with hundreds of MiB of meshes
        self._env = _build(self.bddl_file)
        self.model: mujoco.MjModel = self._env.sim.model._model
        self.data: mujoco.MjData = self._env.sim.data._data
        self._robot = self._env.robots[0]
        self._control = quicken(self._robot, self.model, self.data)
        self._home_orientation = np.array(self._robot.controller.goal_ori)
        self._model_steps = int(self._env.control_timestep / self._env.model_timestep)
        # MuJoCo's rays pass through what is invisible, and the boxes around groceries are; they are never drawn anyway.
        self.model.geom_rgba[(self.model.geom_group == 0) & (self.model.geom_rgba[:, 3] == 0), 3] = 1.0
        self._robot_bodies = {
            index for index in range(self.model.nbody) if self.model.body(index).name.startswith(_ROBOT)
        }
        self._parts: dict[str, set[int]] = {}
        self._articulated = {
            self.model.joint(index).name: int(self.model.jnt_qposadr[index])
            for index in range(self.model.njnt)
            if self.model.jnt_type[index] in (mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE)
            and not self.model.joint(index).name.startswith(_ROBOT)
        }
        self._physics_size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION)

    # ---- state -------------------------------------------------------------------------------------------------

    @property
    def state_size(self) -> int:
        """Length of the state vector."""
        return self._physics_size + _GRIPPER + _ORIENTATION

    def get_state(self) -> np.ndarray:
        """The whole state: float64 (state_size,)."""
        state = np.empty(self.state_size)
        mujoco.mj_getState(
            self.model, self.data, state[: self._physics_size], mujoco.mjtState.mjSTATE_INTEGRATION
        )
        state[self._physics_size : self._physics_size + _GRIPPER] = self._robot.gripper.current_action
        state[-_ORIENTATION:] = np.ravel(self._robot.controller.goal_ori)
        return state

    def set_state(self, state: np.ndarray) -> None:
        """Go to a state from `get_state`. Raises ValueError for a wrong length or values that are not finite."""
        state = np.asarray(state)
        if state.shape != (self.state_size,):
            raise ValueError(
                f"a state of {self.suite} task {self.task_id} has shape ({self.state_size},), got {state.shape}"
            )
        state = state.astype(np.float64)
        if not np.isfinite(state).all():
            raise ValueError(f"state holds {int((~np.isfinite(state)).sum())} values that are not finite")
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, state[: self._physics_size], mujoco.mjtState.mjSTATE_INTEGRATION)
        self._set_controller(state[self._physics_size : -_ORIENTATION], state[-_ORIENTATION:].reshape(3, 3))
        self.refresh()

    @property
    def initial_states(self) -> np.ndarray:
        """LIBERO's own initial states of this task (time, positions, velocities): float64 (k, n)."""
        if self._initial_states is None:
            self._initial_states = np.asarray(libero().load_initial_states(self._initial_states_file), np.float64)
        return self._initial_states

    def reset_to_initial(self, init_state_id: int) -> None:
        """LIBERO's initial state ``init_state_id`` after 10 settling control steps with an opening gripper."""
        states = self.initial_states
        if not isinstance(init_state_id, int | np.integer) or not 0 <= init_state_id < len(states):
            raise ValueError(
                f"unknown init_state_id {init_state_id!r} of {self.suite} task {self.task_id}; "
                f"it must be 0..{len(states) - 1}"
            )
        key = int(init_state_id)
        if key not in self._settled:
            self.set_initial(states[key])
            for _ in range(SETTLE_STEPS):
                self.control_step(SETTLE_ACTION)
            self._settled[key] = self.get_state()
        self.set_state(self._settled[key])

    def home_pos(self) -> np.ndarray:
        """Where the hand is in initial state 0, metres: float64 (3,); the present state stays."""
        before = self.get_state()
        self.reset_to_initial(0)
        home = self.ee_pos
        self.set_state(before)
        return home

    def set_initial(self, initial: np.ndarray) -> None:
        """Positions and velocities of one row of `initial_states`, unsettled; all else as after a fresh reset."""
        expected = 1 + self.model.nq + self.model.nv
        if initial.shape != (expected,):
            raise ValueError(f"{self._initial_states_file}: rows should have {expected} values, got {initial.shape}")
        mujoco.mj_resetData(self.model, self.data)
        self.data.time = initial[0]
        self.data.qpos[:] = initial[1 : 1 + self.model.nq]
        self.data.qvel[:] = initial[1 + self.model.nq :]
        self._set_controller(np.zeros(_GRIPPER), self._home_orientation)
        mujoco.mj_forward(self.model, self.data)
        self.refresh()

    def _set_controller(self, gripper: np.ndarray, orientation: np.ndarray) -> None:
        self._robot.gripper.current_action = gripper.copy()
        self._robot.controller.goal_ori = orientation.copy()
        # A freshly built controller believes that it has already read the arm's pose (that of the build): without this
        # the first step after a restore would depend on what was simulated before it.
        self._robot.controller.new_update = True

    # ---- motion ------------------------------------------------------------------------------------------------

    def control_step(self, action: np.ndarray) -> None:
        """One 50 ms step of robosuite's OSC_POSE controller under ``action`` (7,). Call `refresh` before reading."""
        new_action = True
        for _ in range(self._model_steps):
            mujoco.mj_forward(self.model, self.data)
            self._control(action, new_action)
            mujoco.mj_step2(self.model, self.data)
            new_action = False

    def gripper_command(self, state: np.ndarray) -> float:
        """The gripper's integrated command in a state vector: -1.0 open to 1.0 closed."""
        return float(state[self._physics_size + 1])

    def refresh(self) -> None:
        """Bring positions, contacts and LIBERO's switches up to date with the state, changing nothing that moves."""
        mujoco.mj_fwdPosition(self.model, self.data)
        self._env._post_process()

    # ---- what can be read (privileged) ---------------------------------------------------------------------------

    def success(self) -> bool:
        """LIBERO's goal predicate at the present state."""
        return bool(self._env._check_success())

    @property
    def ee_pos(self) -> np.ndarray:
        """The point between the fingertips, metres in the world: float64 (3,)."""
        return self.data.site_xpos[self._robot.eef_site_id].copy()

    @property
    def base_pos(self) -> np.ndarray:
        """The foot of the arm, metres: float64 (3,)."""
        return self.data.body("robot0_base").xpos.copy()

    @property
    def ee_quat(self) -> np.ndarray:
        """Orientation of the hand as (w, x, y, z): float64 (4,)."""
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, self.data.site_xmat[self._robot.eef_site_id])
        return quat

    @property
    def gripper(self) -> np.ndarray:
        """Joint positions of the two fingers, metres: float64 (2,)."""
        return self.data.qpos[self._robot._ref_gripper_joint_pos_indexes].copy()

    @property
    def joint_pos(self) -> np.ndarray:
        """The arm's seven joint angles, radians: float64 (7,)."""
        return self.data.qpos[self._robot._ref_joint_pos_indexes].copy()

    @property
    def object_names(self) -> tuple[str, ...]:
        """Movable objects, in LIBERO's order."""
        return tuple(self._env.objects_dict)

    def body_pos(self, name: str) -> np.ndarray:
        """Position of a movable object or fixture, metres: float64 (3,). Raises ValueError for an unknown name."""
        if name not in self._env.obj_body_id:
            raise ValueError(f"unknown object {name!r}; known: {', '.join(self._env.obj_body_id)}")
        return self.data.xpos[self._env.obj_body_id[name]].copy()

    def bodies_of(self, name: str) -> set[int]:
        """MuJoCo's ids of the bodies of a movable object or fixture, or of the hand with its fingers ("gripper")."""
        if name not in self._parts:
            self._parts[name] = self._find_bodies(name)
        return self._parts[name]

    def _find_bodies(self, name: str) -> set[int]:
        if name == "gripper":
            names = {index: self.model.body(index).name for index in range(self.model.nbody)}
            return {index for index, body in names.items() if body.startswith("gripper")}
        if name not in self._env.obj_body_id:
            raise ValueError(f"unknown object {name!r}; known: gripper, {', '.join(self._env.obj_body_id)}")
        root = self._env.obj_body_id[name]
        return {index for index in range(self.model.nbody) if self.model.body_rootid[index] == root}

def _build(bddl_file: str) -> object:
    """robosuite's environment of a task: no renderer, no camera observables, always the same fixture places."""
    parts = libero()
    problem = parts.get_problem_info(bddl_file)["problem_name"]
    config = parts.load_controller_config(default_controller="OSC_POSE")

    def build() -> object:
        env = parts.task_mapping[problem](
            bddl_file,
            robots=["Panda"],
            controller_configs=config,
            initialization_noise=None,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            ignore_done=True,
            hard_reset=False,
            control_freq=20,
        )
        env.sim.forward()
        env.visualize(vis_settings={name: False for name in env._visualizations})
        return env

    return _with_seeds(build, parts.RandomizationError)


def _with_seeds(build: Callable[[], object], refused: type[Exception]) -> object:
    """Call ``build`` under a fixed global NumPy seed (robosuite draws from it); the next one if placing fails."""
    before = np.random.get_state()
    try:
        for seed in range(_PLACEMENT_SEED, _PLACEMENT_SEED + 100):
            np.random.seed(seed)
            try:
                return build()
            except refused:
                continue
    finally:
        np.random.set_state(before)
    raise ValueError("LIBERO found no placement for the objects of this task with 100 seeds")
