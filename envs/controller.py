"""robosuite's arm controller with the same numbers, to the last bit, for half the time.

robosuite runs three full forward passes for each model step: its own, the controller's, and that inside ``mj_step``.
Between them nothing moves, so positions, contacts and velocities need computing once; only the constraint solver, which
starts from its last answer, has to run as often to give the same numbers. And it looks sites, joints and actuators up
by name and computes every Jacobian twice, at each of 500 steps a second.
"""

from collections.abc import Callable

import mujoco
import numpy as np


def quicken(
    robot: object, model: mujoco.MjModel, data: mujoco.MjData
) -> Callable[[np.ndarray, bool], None]:
    """``robot.control(action, new_action)`` with fewer detours: ``action`` (7,), ``new_action`` at the first model step
    of a control step. Torques and the gripper's command go into ``data.ctrl``; robosuite's buffers of past values stay
    empty.
    """
    controller, gripper = robot.controller, robot.gripper
    site = model.site(controller.eef_name).id
    joints, velocities = controller.qpos_index, controller.qvel_index
    jac_pos, jac_ori = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    mass = np.zeros((model.nv, model.nv))

    def update(force: bool = False) -> None:
        """`Controller.update`: the arm's pose, velocity, Jacobians and mass matrix, once for each new step."""
        if not (controller.new_update or force):
            return
        mujoco.mj_forwardSkip(model, data, mujoco.mjtStage.mjSTAGE_VEL, 1)
        mujoco.mj_jacSite(model, data, jac_pos, jac_ori, site)
        controller.ee_pos = data.site_xpos[site].copy()
        controller.ee_ori_mat = data.site_xmat[site].reshape([3, 3]).copy()
        controller.ee_pos_vel = np.dot(jac_pos, data.qvel)
        controller.ee_ori_vel = np.dot(jac_ori, data.qvel)
        controller.joint_pos = data.qpos[joints]
        controller.joint_vel = data.qvel[velocities]
        controller.J_pos = jac_pos[:, velocities]
        controller.J_ori = jac_ori[:, velocities]
        controller.J_full = np.vstack([controller.J_pos, controller.J_ori])
        mujoco.mj_fullM(model, mass, data.qM)
        controller.mass_matrix = mass[velocities, :][:, velocities]
        controller.new_update = False

    actuators = [model.actuator(name).id for name in gripper.actuators]
    low, high = model.actuator_ctrlrange[actuators].T
    middle, half = 0.5 * (high + low), 0.5 * (high - low)

    torque_low, torque_high = robot.torque_limits
    arm, count = robot._ref_joint_actuator_indexes, controller.control_dim

    def control(action: np.ndarray, new_action: bool) -> None:
        if new_action:
            controller.set_goal(action[:count])
        data.ctrl[arm] = np.clip(controller.run_controller(), torque_low, torque_high)
        data.ctrl[actuators] = middle + half * gripper.format_action(action[count:])

    controller.update = update
    return control
