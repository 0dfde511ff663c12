"""Scripted skills and play: they arrive, they push what they are told to, and they stay in bounds."""

import numpy as np
import pytest

from colaworld.envs.experts import CLOSED, Push, Reach, steer
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.play import KINDS, Play, PlayConfig, Workspace, draw_push


def start(env: LiberoEnv, init_state_id: int) -> dict:
    return env.reset(options={"init_state_id": init_state_id})[1]


@pytest.mark.parametrize(
    ("init_state_id", "offset"), [(0, (0.10, 0.15, -0.05)), (1, (0.02, 0.20, -0.15)), (2, (0.25, 0.10, -0.10))]
)
def test_reach_arrives_within_twelve_steps(goal_env: LiberoEnv, init_state_id: int, offset: tuple) -> None:
    info = start(goal_env, init_state_id)
    skill = Reach(info["ee_pos"] + offset)
    for _ in range(12):
        action = skill(info)
        assert action.shape == (7,) and action.dtype == np.float32 and np.abs(action).max() <= 1.0
        np.testing.assert_array_equal(action * 64, np.round(action * 64))
        if skill.done:
            break
        info = goal_env.advance(action)
    assert skill.done and np.linalg.norm(info["ee_pos"] - skill.target) < 0.01


@pytest.mark.parametrize(("name", "offset"), [("akita_black_bowl_1", (0.0, -0.12)), ("cream_cheese_1", (0.06, 0.10))])
def test_push_brings_the_object_to_its_goal(goal_env: LiberoEnv, name: str, offset: tuple) -> None:
    info = start(goal_env, 0)
    skill = Push(name, info["objects"][name][:2] + offset)
    for _ in range(20):
        action = skill(info)
        assert np.abs(action).max() <= 1.0
        if skill.done:
            break
        info = goal_env.advance(action)
    assert skill.done and np.linalg.norm(info["objects"][name][:2] - skill.target) < 0.03


def test_steer_counts_on_the_motion_that_goes_on() -> None:
    here, target = np.array([0.0, 0.0, 1.0]), np.array([0.02, 0.0, 1.0])
    resting = steer(here, here, target, gripper=CLOSED, max_step=0.06)
    moving = steer(here, here - (0.03, 0.0, 0.0), target, gripper=CLOSED, max_step=0.06)
    assert resting[0] > moving[0] > 0 and resting[6] == CLOSED
    far = steer(here, here, here + (1.0, 0.5, 0.0), gripper=CLOSED, max_step=1.0)
    assert np.abs(far[:3]).max() == 1.0 and far[1] == pytest.approx(far[0] / 2, abs=1 / 64)  # keeps its direction


def test_unusable_targets_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match="three finite numbers"):
        Reach((0.0, 0.0))
    with pytest.raises(ValueError, match="two finite numbers"):
        Push("bowl", (np.nan, 0.0))
    with pytest.raises(ValueError, match="no object named 'bowl'.*'plate_1'"):
        Push("bowl", (0.0, 0.0))({"ee_pos": np.zeros(3), "objects": {"plate_1": np.zeros(3)}})
    with pytest.raises(ValueError, match="sum to 1"):
        PlayConfig(reach=0.9)
    with pytest.raises(ValueError, match="kind of play"):
        Play("dance", np.zeros(3), np.random.default_rng(0))


class Puppet:
    """A gripper that follows OSC_POSE's measured response, without a simulator; objects stay where they are."""

    def __init__(self) -> None:
        self.home = np.array([-0.2, 0.0, 1.17])
        self.position, self.motion = self.home, np.zeros(3)
        self.objects = {"akita_black_bowl_1": np.array([0.0, 0.0, 0.9]), "plate_1": np.array([0.0, 0.15, 0.9])}

    def info(self) -> dict:
        return {"ee_pos": self.position, "objects": self.objects}

    def step(self, chunk: np.ndarray) -> None:
        self.motion = 0.054 * chunk[:, :3].mean(axis=0) + 0.2 * self.motion
        self.position = self.position + self.motion


@pytest.mark.parametrize("kind", KINDS)
def test_play_stays_in_bounds_and_in_the_workspace(kind: str) -> None:
    held, inside, turned = [], [], []
    for seed in range(40):
        puppet = Puppet()
        play = Play(kind, puppet.home, np.random.default_rng(seed))
        for _ in range(30):
            chunk = play(puppet.info())
            assert chunk.shape == (5, 7) and chunk.dtype == np.float32
            assert np.abs(chunk).max() <= 1.0 and np.abs(chunk[:, 3:6]).max() <= 0.3
            puppet.step(chunk)
            held.append((chunk == chunk[0]).all())
            turned.append(np.abs(chunk[:, 3:6]).max() > 0)
            inside.append(
                (play.workspace.low - 0.08 < puppet.position).all()
                and (puppet.position < play.workspace.high + 0.08).all()
            )
    assert 0.6 < np.mean(held) < 0.95  # most chunks are held, as a planner's are, and some are not
    assert np.mean(inside) > 0.98 and np.mean(turned) < 0.35


def test_play_spreads_over_the_workspace_and_over_speeds() -> None:
    positions, speeds = [], []
    for seed in range(60):
        puppet = Puppet()
        play = Play("play", puppet.home, np.random.default_rng(seed))
        for _ in range(30):
            puppet.step(play(puppet.info()))
            positions.append(puppet.position)
            speeds.append(np.linalg.norm(puppet.motion))
    workspace = Workspace.around(Puppet().home)
    cells = np.floor(4 * (np.array(positions) - workspace.low) / (workspace.high - workspace.low))
    visited = {tuple(cell) for cell in cells.astype(int) if (cell >= 0).all() and (cell < 4).all()}
    assert len(visited) > 0.9 * 4**3
    assert np.percentile(speeds, 10) < 0.02 and np.percentile(speeds, 95) > 0.05


def test_pushes_are_drawn_where_the_hand_has_room() -> None:
    workspace, rng = Workspace.around(Puppet().home), np.random.default_rng(0)
    crowded = {f"bowl_{i}": np.array([-0.1 + 0.05 * (i % 3), 0.05 * (i // 3), 0.9]) for i in range(9)}
    assert draw_push({"objects": {"wine_bottle_1": np.zeros(3)}}, workspace, rng) is None
    for _ in range(20):
        push = draw_push(Puppet().info(), workspace, rng)
        assert push is not None and workspace.inside(push.target)
        shoved = draw_push({"objects": crowded}, workspace, rng)
        assert shoved is None or min(np.linalg.norm(shoved.target - at[:2]) for at in crowded.values()) > 0.0
