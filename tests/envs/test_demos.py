"""Reading recorded clips: windows, splits, pairing of actions and frames, sentences for bad files, starter data."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from torch.utils.data import DataLoader

from colaworld.envs.demos import ClipDataset
from colaworld.envs.recording import SceneHeader, Trajectory, merge_recordings, split_of, write_recording
from colaworld.envs.starter import StarterScene, read_starter, starter_path, write_starter

FRAMES, SIZE, SKIP = 6, 16, 5
HEADER = SceneHeader(
    suite="libero_goal",
    task_id=0,
    bddl_file_name="task.bddl",
    frame_skip=SKIP,
    render_profile="lite",
    height=SIZE,
    width=SIZE,
    versions={"mujoco": "3.3.2"},
)


def trajectory(seed: int) -> Trajectory:
    """Frame k is filled with 10 * seed + k, the chunk that leads away from it with k / 64, so that a slip shows."""
    number = np.arange(FRAMES)
    return Trajectory(
        agentview=np.broadcast_to((10 * seed + number).astype(np.uint8)[:, None, None, None], (FRAMES, SIZE, SIZE, 3)),
        ee_pos=np.repeat(number[:, None], 3, axis=1) / 100,
        gripper_states=np.zeros((FRAMES, 2)),
        object_pos=np.zeros((FRAMES, 2, 3)),
        object_names=("bowl", "plate"),
        actions=np.broadcast_to(number[:-1, None, None] / 64, (FRAMES - 1, SKIP, 7)),
        states=np.zeros((FRAMES, 4)),
        rewards=np.zeros(FRAMES - 1),
        dones=np.zeros(FRAMES - 1),
        seed=seed,
        kind="play",
    )


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "play.hdf5"
    write_recording(path, HEADER, [trajectory(seed) for seed in range(10)])
    return path


def test_windows_pair_each_action_with_the_frames_around_it(recording: Path) -> None:
    dataset = ClipDataset([recording], length=4, split="all")
    assert len(dataset) == 10 * (FRAMES - 4 + 1)
    assert (dataset.height, dataset.width, dataset.frame_skip, dataset.action_dim) == (SIZE, SIZE, SKIP, 7)
    assert dataset.render_profile == "lite"
    for index, clip in enumerate(dataset[i] for i in range(len(dataset))):
        seed, start = divmod(index, FRAMES - 4 + 1)
        assert clip.frames.shape == (4, 3, SIZE, SIZE) and clip.frames.dtype == np.uint8
        assert clip.actions.shape == (3, SKIP, 7) and clip.actions.dtype == np.float32
        np.testing.assert_array_equal(clip.frames[:, 0, 0, 0], 10 * seed + start + np.arange(4))
        np.testing.assert_array_equal(clip.actions[:, 0, 0] * 64, start + np.arange(3))
        np.testing.assert_allclose(clip.ee_pos[:, 0] * 100, start + np.arange(4), rtol=1e-5)


def test_memory_mapped_equals_in_memory_and_notices_a_new_recording(recording: Path) -> None:
    loaded = ClipDataset([recording], length=3, split="all")
    for _ in range(2):  # the second time from the unpacked file
        mapped = ClipDataset([recording], length=3, split="all", in_memory=False)
        assert len(pickle.dumps(mapped.episodes[0].frames)) < 500  # no frame is in memory, or sent along
        np.testing.assert_array_equal(mapped[-1].frames, loaded[-1].frames)
    write_recording(recording, HEADER, [trajectory(3)])
    assert ClipDataset([recording], length=3, split="all", in_memory=False)[0].frames[0, 0, 0, 0] == 30


def test_splits_are_disjoint_and_decided_by_the_seed(recording: Path) -> None:
    seeds = {
        split: {episode.seed for episode in ClipDataset([recording], length=2, split=split).episodes}
        for split in ("train", "validation", "all")
    }
    assert seeds["validation"] == {7} and seeds["train"] == set(range(10)) - {7} and seeds["all"] == set(range(10))
    assert np.mean([split_of(seed) == "validation" for seed in range(1000)]) == pytest.approx(0.1)


def test_torch_batches_clips(recording: Path) -> None:
    batch = next(iter(DataLoader(ClipDataset([recording], length=4), batch_size=5)))
    assert batch.frames.shape == (5, 4, 3, SIZE, SIZE) and batch.actions.shape == (5, 3, SKIP, 7)


def test_parts_merge_in_order(tmp_path: Path) -> None:
    for seed in (5, 2):
        write_recording(tmp_path / f"{seed}.hdf5", HEADER, [trajectory(seed)])
    merge_recordings([tmp_path / "5.hdf5", tmp_path / "2.hdf5"], tmp_path / "all.hdf5", attributes={"note": "x"})
    merged = ClipDataset([tmp_path / "all.hdf5"], length=2, split="all")
    assert [episode.seed for episode in merged.episodes] == [5, 2]
    write_recording(tmp_path / "other.hdf5", replace(HEADER, task_id=1), [trajectory(1)])
    with pytest.raises(ValueError, match="task_id=1"):
        merge_recordings([tmp_path / "5.hdf5", tmp_path / "other.hdf5"], tmp_path / "bad.hdf5", attributes={})
    assert not (tmp_path / "bad.hdf5").exists() and not list(tmp_path.glob("*.partial"))


def reshaped(field: str, shape: tuple[int, ...], dtype: type = np.float32) -> Callable[[h5py.File], None]:
    def spoil(file: h5py.File) -> None:
        names = file[f"data/demo_3/{field}"].attrs.get("object_names")
        del file[f"data/demo_3/{field}"]
        file[f"data/demo_3/{field}"] = np.zeros(shape, dtype)
        if names is not None:
            file[f"data/demo_3/{field}"].attrs["object_names"] = names

    return spoil


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda file: file["data/demo_3"].__delitem__("actions"), r"play.hdf5: demo_3: field 'actions' is missing"),
        (lambda file: file["data/demo_3/obs"].__delitem__("ee_pos"), r"demo_3: field 'obs/ee_pos' is missing"),
        (lambda file: file["data/demo_3"].attrs.__delitem__("split"), r"demo_3: attribute 'split' is missing"),
        (lambda file: file["data"].attrs.__delitem__("render_profile"), r"attribute 'render_profile' .* is missing"),
        (lambda file: file["data"].attrs.__setitem__("action_pairing", "k+1"), r"'action_pairing' is 'k\+1'"),
        (lambda file: file["data"].attrs.__setitem__("layout_version", 9), r"'layout_version' is .*9.*reads 1"),
        (lambda file: file.__delitem__("data"), r"play.hdf5: group 'data' is missing"),
        (
            reshaped("actions", (FRAMES, SKIP, 7)),
            r"demo_3: field 'actions' has shape \(6, 5, 7\), expected \(5, 5, 7\)",
        ),
        (reshaped("actions", (FRAMES - 1, SKIP, 6)), r"'actions' has shape \(5, 5, 6\)"),
        (reshaped("obs/agentview_rgb", (FRAMES, 8, 8, 3), np.uint8), r"'obs/agentview_rgb' has shape \(6, 8, 8, 3\)"),
        (reshaped("obs/agentview_rgb", (FRAMES, SIZE, SIZE, 3)), r"has type float32, expected uint8"),
        (reshaped("obs/object_pos", (FRAMES, 3, 3)), r"'obs/object_pos' has shape \(6, 3, 3\), expected \(6, 2, 3\)"),
    ],
)
def test_a_spoilt_file_is_named_with_demo_and_field(
    recording: Path, spoil: Callable[[h5py.File], None], sentence: str
) -> None:
    with h5py.File(recording, "a") as file:
        spoil(file)
    with pytest.raises(ValueError, match=sentence):
        ClipDataset([recording], length=2, split="all")


@pytest.mark.parametrize(
    ("field", "value"), [("height", 8), ("width", 8), ("frame_skip", 1), ("render_profile", "full")]
)
def test_sources_that_differ_are_refused(recording: Path, tmp_path: Path, field: str, value: object) -> None:
    other = trajectory(1)
    header = replace(HEADER, **{field: value})
    frames = other.agentview[:, : header.height, : header.width]
    other = replace(other, agentview=frames, actions=other.actions[:, : header.frame_skip])
    write_recording(tmp_path / "other.hdf5", header, [other])
    with pytest.raises(ValueError, match=f"other.hdf5: {field} is {value!r}"):
        ClipDataset([recording, tmp_path / "other.hdf5"], length=2)


def test_missing_and_truncated_files_and_bad_arguments(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.hdf5"):
        ClipDataset([tmp_path / "nowhere.hdf5"], length=2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="starter.hdf5 is missing"):
        ClipDataset([tmp_path / "empty"], length=2)
    with pytest.raises(ValueError, match="no clip of length=7.*longest of 6"):
        ClipDataset([recording], length=7)
    with pytest.raises(ValueError, match="length=1"):
        ClipDataset([recording], length=1)
    with pytest.raises(ValueError, match="non-empty list"):
        ClipDataset(str(recording), length=2)
    recording.write_bytes(recording.read_bytes()[:1000])
    with pytest.raises(ValueError, match="play.hdf5 is not a readable HDF5 file"):
        ClipDataset([recording], length=2)


def test_a_trajectory_of_mismatched_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="actions has 6 entries between 6 frames"):
        replace(trajectory(0), actions=np.zeros((FRAMES, SKIP, 7)))


def starter_scene(rng: np.random.Generator) -> StarterScene:
    """Two trajectories of a soft bright spot that wanders over a soft background: about what video coding expects."""
    down, right = np.mgrid[0:64, 0:64]
    centre = rng.uniform(20, 44, (2, FRAMES, 2))
    spot = np.exp(-((down - centre[..., :1, None]) ** 2 + (right - centre[..., 1:, None]) ** 2) / 50)
    frames = (60 + down + 100 * spot)[:, :, None] * np.array([1.0, 0.8, 0.6])[:, None, None]
    return StarterScene(
        header=replace(HEADER, height=64, width=64),
        frames=frames.astype(np.uint8),
        actions=(rng.integers(-64, 65, (2, FRAMES - 1, SKIP, 7)) / 64).astype(np.float32),
        ee_pos=rng.uniform(-1, 1.5, (2, FRAMES, 3)).astype(np.float32),
        object_pos=rng.uniform(-1, 1.5, (2, FRAMES, 2, 3)).astype(np.float32),
        object_names=("bowl", "plate"),
        seeds=np.array([17, 18]),
        kinds=("play", "push"),
        splits=("validation", "train"),
    )


def test_starter_round_trip(tmp_path: Path) -> None:
    scene = starter_scene(np.random.default_rng(0))
    write_starter(tmp_path, [scene], crf=18, keyframe_every=FRAMES)
    (found,) = read_starter(tmp_path)
    assert found.header == scene.header and found.object_names == scene.object_names
    assert (found.kinds, found.splits, found.seeds.tolist()) == (scene.kinds, scene.splits, [17, 18])
    np.testing.assert_array_equal(found.actions, scene.actions)
    np.testing.assert_allclose(found.ee_pos, scene.ee_pos, atol=6e-5)
    np.testing.assert_allclose(found.object_pos, scene.object_pos, atol=6e-5)
    error = found.frames.astype(float) - scene.frames
    assert 10 * np.log10(255**2 / (error**2).mean()) > 33
    assert abs(error.mean()) < 1.0  # the colour matrix of writer and reader agree

    dataset = ClipDataset([tmp_path], length=3, split="train")
    assert [episode.seed for episode in dataset.episodes] == [18]
    np.testing.assert_array_equal(dataset[1].actions, scene.actions[1, 1:3])


def test_starter_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    scene = starter_scene(np.random.default_rng(0))
    with pytest.raises(ValueError, match="not multiples of"):
        write_starter(tmp_path, [replace(scene, actions=scene.actions + 0.001)], crf=30, keyframe_every=1)
    write_starter(tmp_path, [scene], crf=30, keyframe_every=1)
    video = tmp_path / "libero_goal_0.mp4"
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="libero_goal_0.mp4 cannot be decoded"):
        read_starter(tmp_path)
    video.unlink()
    with pytest.raises(FileNotFoundError, match="libero_goal_0.mp4"):
        read_starter(tmp_path)


def test_the_starter_data_that_ships() -> None:
    """At least 300 trajectories of 30 steps at 64x64 over two scenes in at most 6 MiB, with a validation split."""
    folder = starter_path()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 6 * 2**20
    dataset = ClipDataset([folder], length=31, split="all")
    assert len(dataset) == len(dataset.episodes) >= 300
    assert len({episode.scene for episode in dataset.episodes}) >= 2
    assert (dataset.height, dataset.width, dataset.frame_skip) == (64, 64, 5)
    assert {episode.kind for episode in dataset.episodes} >= {"play", "push"}
    held_out = np.mean([episode.split == "validation" for episode in dataset.episodes])
    assert 0.05 < held_out < 0.15
    assert max(np.abs(episode.actions).max() for episode in dataset.episodes) <= 1.0
