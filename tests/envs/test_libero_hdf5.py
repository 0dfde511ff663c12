"""LIBERO's own files: which action leads where, which way up, at what rate; and sentences for files that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from colaworld.envs.demos import ClipDataset, SourceOptions
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.recording import SceneHeader, Trajectory, write_recording

ROWS, SIDE, SKIP = 23, 16, 5
HEADER = SceneHeader(
    suite="libero_goal", task_id=0, bddl_file_name="task.bddl", frame_skip=SKIP, render_profile="lite",
    height=8, width=8, versions={},
)  # fmt: skip
BEFORE = SourceOptions(pairing="obs_before_action")


def write_libero(path: Path, *, obs_after_action: bool = True, demos: int = 12, rows: int = ROWS) -> None:
    """A file in the layout of the official ones. At control step t the world shows t: pictures, joints and gripper.

    Row k holds the state at t = k, the action (k + 1) / 64 that leads to t = k + 1, and obs of after or before it.
    Upright, a picture is t / 2 bright in its upper half, 200 in its lower left and 100 in its lower right quarter.
    """
    steps = np.arange(rows)
    seen = steps + 1 if obs_after_action else steps
    picture = np.empty((rows, SIDE, SIDE, 3), np.uint8)
    picture[:, : SIDE // 2] = (seen // 2)[:, None, None, None]
    picture[:, SIDE // 2 :, : SIDE // 2], picture[:, SIDE // 2 :, SIDE // 2 :] = 200, 100
    joints = np.linspace(0, 1, 9)[None] + 0.01 * steps[:, None]
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"type": 1, "env_kwargs": {"control_freq": 20}})
        data.attrs["problem_info"] = json.dumps({"language_instruction": "open the drawer"})
        data.attrs["bddl_file_name"] = "libero_goal/open_the_drawer.bddl"
        data.attrs["num_demos"] = demos
        for number in range(demos):
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = np.repeat(((steps + 1) / 64)[:, None], 7, axis=1)
            demo["states"] = np.concatenate([steps[:, None] / 20, joints, np.zeros((rows, 30))], axis=1)
            demo["robot_states"] = np.zeros((rows, 9))
            demo["rewards"], demo["dones"] = np.zeros(rows, np.uint8), np.zeros(rows, np.uint8)
            obs = demo.create_group("obs")
            obs["agentview_rgb"], obs["eye_in_hand_rgb"] = picture[:, ::-1], 255 - picture[:, ::-1]
            obs["joint_states"] = joints[:, :7] + 0.01 * obs_after_action
            obs["gripper_states"] = joints[:, 7:] + 0.01 * obs_after_action
            obs["ee_states"] = np.repeat(seen[:, None] / 100, 6, axis=1)
            obs["ee_pos"] = np.repeat(seen[:, None] / 100, 3, axis=1)


def trajectory() -> Trajectory:
    """Three frames that colaworld recorded itself."""
    return Trajectory(
        agentview=np.zeros((3, 8, 8, 3), np.uint8), ee_pos=np.zeros((3, 3)), gripper_states=np.zeros((3, 2)),
        object_pos=np.zeros((3, 1, 3)), object_names=("bowl",), actions=np.zeros((2, SKIP, 7)), states=np.zeros((3, 4)),
        rewards=np.zeros(2), dones=np.zeros(2), seed=0, kind="play",
    )  # fmt: skip


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("obs_after_action", [True, False])
def test_the_action_that_leads_from_frame_k_to_the_next_is_the_one_returned(
    tmp_path: Path, obs_after_action: bool, in_memory: bool
) -> None:
    path = tmp_path / "demo.hdf5"
    write_libero(path, obs_after_action=obs_after_action)
    options = SourceOptions() if obs_after_action else BEFORE
    dataset = ClipDataset([path], length=4, split="all", options=options, in_memory=in_memory)
    assert (dataset.frame_skip, dataset.action_dim, len(dataset.episodes)) == (SKIP, 7, 12)
    for clip in (dataset[index] for index in range(len(dataset))):
        shown = np.rint(clip.ee_pos[:, 0] * 100).astype(int)  # the control step that each frame shows
        np.testing.assert_array_equal(np.diff(shown), SKIP)
        np.testing.assert_array_equal(clip.frames[:, 0, 0, 0], shown // 2)
        # Between frames that show t and t + 5 act the actions that lead to t + 1, ..., t + 5.
        np.testing.assert_array_equal(clip.actions[..., 0] * 64, shown[:-1, None] + 1 + np.arange(SKIP))
    assert {len(episode.frames) for episode in dataset.episodes} == {(ROWS - 1) // SKIP + 1}


@pytest.mark.parametrize(("written", "said"), [(True, "obs_before_action"), (False, "obs_after_action")])
@pytest.mark.parametrize("lacking", [(), ("joint_states",)])
def test_a_pairing_that_the_joints_contradict_is_refused(
    tmp_path: Path, written: bool, said: str, lacking: tuple[str, ...]
) -> None:
    path = tmp_path / "demo.hdf5"
    write_libero(path, obs_after_action=written)
    with h5py.File(path, "a") as file:
        for name in lacking:
            for demo in file["data"].values():
                del demo["obs"][name]
    with pytest.raises(
        ValueError, match=rf"demo.hdf5: demo_0: read as pairing '{said}', but joints .* agree with 'obs_"
    ):
        ClipDataset([path], length=3, options=SourceOptions(pairing=said))


def test_where_nothing_moves_the_pairing_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "demo.hdf5"
    write_libero(path)
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo["states"][:] = 0.0
    assert ClipDataset([path], length=3, options=BEFORE)[0].actions[0, 0, 0] * 64 == 1
    assert ClipDataset([path], length=3)[0].actions[0, 0, 0] * 64 == 2


@pytest.mark.parametrize(
    ("orientation", "corners"),  # (upper left, upper right, lower left, lower right) of a frame that shows little
    [
        (None, (0, 0, 200, 100)),
        ("upside_down", (0, 0, 200, 100)),
        ("upright", (200, 100, 0, 0)),
        ("turned", (0, 0, 100, 200)),
        ("mirrored", (100, 200, 0, 0)),
    ],
)
def test_pictures_are_brought_upright_from_where_they_are_said_to_lie(
    tmp_path: Path, orientation: str, corners: tuple[int, ...]
) -> None:
    path = tmp_path / "demo.hdf5"
    write_libero(path)
    for options in (SourceOptions(orientation=orientation), SourceOptions(orientation=orientation, height=8, width=8)):
        frame = ClipDataset([path], length=2, options=options)[0].frames[0, 0]
        assert frame.shape == ((8, 8) if options.height else (SIDE, SIDE))
        assert tuple(frame[row, column] for row in (0, -1) for column in (0, -1)) == corners


def test_camera_rate_and_split(tmp_path: Path) -> None:
    path = tmp_path / "demo.hdf5"
    write_libero(path)
    wrist = ClipDataset([path], length=2, options=SourceOptions(camera="eye_in_hand"))
    assert wrist[0].frames[0, 0, -1, 0] == 55
    fast = ClipDataset([path], length=2, options=SourceOptions(rate=10))
    assert fast.frame_skip == 2 and fast[0].actions.shape == (1, 2, 7)
    demos = {
        split: {episode.demo for episode in ClipDataset([path], length=2, split=split).episodes}
        for split in ("train", "validation", "all")
    }
    assert len(demos["validation"]) >= 2 and demos["train"] | demos["validation"] == demos["all"]
    assert not demos["train"] & demos["validation"]


def test_colaworlds_own_file_is_told_apart_and_other_sizes_are_refused_beside_it(tmp_path: Path) -> None:
    write_libero(tmp_path / "a.hdf5")
    write_libero(tmp_path / "b.hdf5")
    both = ClipDataset([tmp_path / "a.hdf5", tmp_path / "b.hdf5"], length=2, split="all")
    assert len(both.episodes) == 24 and both.scenes == [] and both.render_profile == "full"
    assert len(ClipDataset([tmp_path], length=2, split="all").episodes) == 24  # the folder, as LIBERO ships its suites
    own = tmp_path / "own.hdf5"
    write_recording(own, HEADER, [trajectory()])
    assert ClipDataset([own], length=2, split="all").scenes == [HEADER]
    with pytest.raises(ValueError, match="own.hdf5: height is 8, but the sources before it have 16"):
        ClipDataset([tmp_path / "a.hdf5", own], length=2, split="all")
    lite = SourceOptions(height=8, width=8, render_profile="lite")
    assert len(ClipDataset([tmp_path / "a.hdf5", own], length=2, split="all", options=lite).episodes) == 13
    with pytest.raises(ValueError, match="source option 'height' says nothing of .*own.hdf5"):
        ClipDataset([own], length=2, split="all", options=lite)


def without(field: str) -> Callable[[h5py.Group], None]:
    return lambda demo: demo.__delitem__(field)


def reshaped(field: str, shape: tuple[int, ...], dtype: type = np.float64) -> Callable[[h5py.Group], None]:
    def spoil(demo: h5py.Group) -> None:
        del demo[field]
        demo[field] = np.zeros(shape, dtype)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without("actions"), "demo_3: field 'actions' is missing"),
        (without("obs/agentview_rgb"), "demo_3: field 'obs/agentview_rgb' is missing"),
        (reshaped("actions", (ROWS, 6)), r"demo_3: field 'actions' has shape \(23, 6\), expected \(23, 7\)"),
        (reshaped("actions", (ROWS - 1, 7)), r"demo_3: field 'obs/agentview_rgb' has shape \(23, .* expected \(22, "),
        (reshaped("obs/ee_pos", (ROWS, 2)), r"demo_3: field 'obs/ee_pos' has shape \(23, 2\), expected \(23, 3\)"),
        (reshaped("states", (ROWS - 2, 40)), r"demo_3: fields 'obs/joint_states' .* 'states' \(21, 40\) do not fit 23"),
        (reshaped("obs/agentview_rgb", (ROWS, SIDE, SIDE, 3)), "demo_3: .* has type float64, expected uint8"),
        (reshaped("obs/agentview_rgb", (ROWS, 8, 8, 3), np.uint8), r"demo_3: .*\(8, 8\).* before it \(16, 16\)"),
        (
            lambda demo: demo["actions"].__setitem__(4, np.nan),
            "demo_3: field 'actions' holds values that are not finite",
        ),
        (lambda demo: demo.parent.attrs.__setitem__("env_args", "{"), "attribute 'env_args' is not valid JSON"),
        (
            lambda demo: demo.parent.attrs.__setitem__("env_args", '{"env_kwargs": {"control_freq": 30}}'),
            "demo.hdf5: 30 frames a second are not a multiple of the model's rate of 4",
        ),
        (
            lambda demo: demo.parent.attrs.__setitem__("env_args", '{"env_kwargs": {"control_freq": 3}}'),
            "demo.hdf5: 3 frames a second are fewer than the model's rate of 4",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_demo_and_field(
    tmp_path: Path, spoil: Callable[[h5py.Group], None], sentence: str
) -> None:
    path = tmp_path / "demo.hdf5"
    write_libero(path)
    with h5py.File(path, "a") as file:
        spoil(file["data/demo_3"])
    with pytest.raises(ValueError, match=sentence):
        ClipDataset([path], length=2)


def test_options_that_are_wrong_or_useless_are_named(tmp_path: Path) -> None:
    path = tmp_path / "demo.hdf5"
    write_libero(path)
    with pytest.raises(ValueError, match="camera is 'front', a LIBERO file has agentview and eye_in_hand"):
        ClipDataset([path], length=2, options=SourceOptions(camera="front"))
    with pytest.raises(ValueError, match="orientation must be one of upright, .* got 'sideways'"):
        SourceOptions(orientation="sideways")
    with pytest.raises(ValueError, match="height and width are given together or not at all, got 64 and None"):
        SourceOptions(height=64)
    with pytest.raises(ValueError, match="rate must be above 0, got -4"):
        SourceOptions(rate=-4)


def test_a_file_of_the_real_simulator_pairs_and_lies_as_the_official_ones(goal_env: LiberoEnv, tmp_path: Path) -> None:
    """Recorded as LIBERO's own script does: states before the step, obs after it, pictures upside down."""
    goal_env.reset(seed=0)
    scene, rows = goal_env.scene, 16
    draw = np.random.default_rng(0)
    states, joints, positions, pictures, actions = [], [], [], [], draw.uniform(-1, 1, (rows, 7))
    for action in actions:
        states.append(np.concatenate([[scene.data.time], scene.data.qpos, scene.data.qvel]))
        scene.control_step(action)
        scene.refresh()
        joints.append(scene.joint_pos)
        positions.append(scene.ee_pos)
        pictures.append(goal_env.picture()[::-1])
    path = tmp_path / "demo.hdf5"
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"], demo["states"] = actions, np.stack(states)
        demo["obs/agentview_rgb"], demo["obs/joint_states"] = np.stack(pictures), np.stack(joints)
        demo["obs/ee_pos"] = np.stack(positions)
    dataset = ClipDataset([path], length=4, split="all")
    np.testing.assert_array_equal(dataset[0].actions, actions[1:].reshape(3, 5, 7).astype(np.float32))
    np.testing.assert_array_equal(dataset[0].frames[-1].transpose(1, 2, 0), goal_env.picture())
    with pytest.raises(ValueError, match="read as pairing 'obs_before_action'"):
        ClipDataset([path], length=4, split="all", options=BEFORE)
