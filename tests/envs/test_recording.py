"""Recording in the real simulator: states replay to the recorded frames, and seeds alone decide what is recorded."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from colaworld.envs.demos import ClipDataset
from colaworld.envs.expert_goals import draw_goal, expert_for
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.play import Workspace
from colaworld.envs.recorded import read_recording
from colaworld.envs.recording import header_of, record, replacing, write_recording
from colaworld.experiments import collect_episode
from colaworld.experiments.collect import collect
from colaworld.experiments.collect_episode import record_episode
from colaworld.experiments.collect_plan import Job

STEPS = 4
PLAN = Job(suite="libero_goal", task_id=0, steps=STEPS, kind="mixed", height=64, width=64, render_profile="lite")


def contents(path: Path) -> dict[str, object]:
    """Every dataset and attribute of an HDF5 file."""
    found: dict[str, object] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        found.update({f"{name}@{key}": np.asarray(value).tolist() for key, value in item.attrs.items()})
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def test_recorded_states_replay_to_the_recorded_frames(goal_env: LiberoEnv, tmp_path: Path) -> None:
    path = tmp_path / "replay.hdf5"
    episodes = [
        record_episode(goal_env, seed=seed, steps=STEPS, kind=kind) for seed, kind in ((3, "play"), (4, "push"))
    ]
    write_recording(path, header_of(goal_env), episodes)
    with h5py.File(path, "r") as file:
        for demo in file["data"].values():
            assert json.loads(demo.attrs["simulator"])["mujoco"] == "3.3.2"
            frames, states, actions = demo["obs/agentview_rgb"][()], demo["states"][()], demo["actions"][()]
            assert frames.shape == (STEPS + 1, 64, 64, 3) and actions.shape == (STEPS, 5, 7)
            for k in range(STEPS):
                observation, info = goal_env.restore_state(states[k])
                np.testing.assert_array_equal(observation["agentview"], frames[k])
                np.testing.assert_allclose(info["ee_pos"], demo["obs/ee_pos"][k], atol=1e-6)
                observation = goal_env.step(actions[k])[0]
                np.testing.assert_array_equal(goal_env.get_state(), states[k + 1])
                np.testing.assert_array_equal(observation["agentview"], frames[k + 1])


def test_actions_explain_the_displacement_after_their_own_frame(goal_env: LiberoEnv) -> None:
    """Held Gaussian actions are independent of each other, so off by one they would hardly agree with the motion."""
    episode = record_episode(goal_env, seed=11, steps=20, kind="random")
    command, moved = episode.actions.mean(axis=1)[:, :3], np.diff(episode.ee_pos, axis=0)
    same = np.corrcoef(command.ravel(), moved.ravel())[0, 1]
    late = np.corrcoef(command[:-1].ravel(), moved[1:].ravel())[0, 1]
    assert same > 0.8 and same > late + 0.3


def test_an_episode_depends_on_its_seed_alone(goal_env: LiberoEnv) -> None:
    first = record_episode(goal_env, seed=21, steps=2, kind="mixed")
    other = record_episode(goal_env, seed=22, steps=2, kind="mixed")
    again = record_episode(goal_env, seed=21, steps=2, kind="mixed")
    for field in ("agentview", "states", "actions", "object_pos"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert not np.array_equal(first.states, other.states)
    assert np.abs(first.actions).max() <= 1.0
    np.testing.assert_array_equal(first.actions * 64, np.round(first.actions * 64))


def test_resumed_in_one_process_equals_unbroken_in_two(
    goal_env: LiberoEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, resumed = tmp_path / "unbroken.hdf5", tmp_path / "resumed.hdf5"
    collect(unbroken, episodes=3, steps=STEPS, workers=2, seed=40)
    monkeypatch.setattr(collect_episode, "only_environment", lambda **scene: goal_env)
    part = PLAN.part(resumed, 41)
    write_recording(part, header_of(goal_env), [record_episode(goal_env, seed=41, steps=STEPS, kind="mixed")])
    collect(resumed, episodes=2, steps=STEPS, workers=1, seed=40)  # finds one part, records the other
    collect(resumed, episodes=3, steps=STEPS, workers=1, seed=40)  # grows what is there
    assert contents(unbroken) == contents(resumed)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["resumed.hdf5", "unbroken.hdf5"]
    assert len(ClipDataset([unbroken], length=STEPS + 1, split="all")) == 3
    with pytest.raises(ValueError, match="choose another --out"):
        collect(resumed, episodes=3, steps=STEPS + 1, seed=40)
    with pytest.raises(ValueError, match="begins at seed 40, not at --seed 0"):
        collect(resumed, episodes=3, steps=STEPS, seed=0)


def test_a_broken_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), replacing(tmp_path / "half.hdf5") as file:
        file["data"] = 1
        raise KeyError("power cut")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"seed": 999_999}, "seeds 999999 to 1000298"),
        ({"episodes": 0}, "episodes must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"render_profile": "oil"}, "oil"),
        ({"suite": "libero_moon", "episodes": 1}, "libero_moon"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        collect(tmp_path / "x.hdf5", **{"workers": 1, **arguments})


def test_a_drawer_is_where_its_handle_is(goal_env: LiberoEnv, tmp_path: Path) -> None:
    """What learns from objects sees a drawer move as far as its joint does, and by the joint's name."""
    scene, path, rng = goal_env.scene, tmp_path / "drawer.hdf5", np.random.default_rng(0)
    scene.reset_to_initial(0)
    info, workspace = goal_env.restore_state(goal_env.get_state(), render=False)[1], Workspace.around(scene.home_pos())
    goal = draw_goal(scene, info, "open_drawer", workspace, rng)
    expert = expert_for(scene, "open_drawer", goal)
    write_recording(path, header_of(goal_env), [record(goal_env, expert, steps=24, seed=0, kind="expert")])
    with h5py.File(path, "r+") as file:
        (episode,) = read_recording(path, file["data"], in_memory=True).episodes
        which = episode.object_names.index(goal.joint)
        assert episode.object_names[: len(scene.object_names)] == scene.object_names
        moved = np.linalg.norm(episode.object_pos[-1, which] - episode.object_pos[0, which])
        assert moved == pytest.approx(abs(scene.joints()[goal.joint]), abs=1e-3) and moved > 0.05
        others = [episode.object_names.index(name) for name in scene.handles() if name != goal.joint]
        assert others and np.ptp(episode.object_pos[:, others], axis=0).max() < 0.01
        file["data/demo_0/obs/handle_pos"].attrs["joint_names"] = ["one"]
        said = r"demo_0: field 'obs/handle_pos' has shape \(25, 3, 3\), expected \(25, 1, 3\)"
        with pytest.raises(ValueError, match=said):
            read_recording(path, file["data"], in_memory=True)
