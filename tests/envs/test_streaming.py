"""Data larger than memory: the same clips bit for bit, nothing held or sent along, also in loader processes."""

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from torch.utils.data import DataLoader

from colaworld.envs import frame_stream
from colaworld.envs.demos import ClipDataset, SourceOptions
from colaworld.envs.frame_stream import FrameCache, FrameStream
from colaworld.envs.recording import SceneHeader, Trajectory, write_recording

SIZE, FRAMES = 16, 9
HEADER = SceneHeader(
    suite="libero_goal", task_id=0, bddl_file_name="task.bddl", frame_skip=5, render_profile="lite",
    height=SIZE, width=SIZE, versions={},
)  # fmt: skip


def write_own(path: Path) -> None:
    draw = np.random.default_rng(0)
    write_recording(path, HEADER, [
        Trajectory(
            agentview=draw.integers(256, size=(FRAMES, SIZE, SIZE, 3), dtype=np.uint8), ee_pos=np.zeros((FRAMES, 3)),
            gripper_states=np.zeros((FRAMES, 2)), object_pos=np.zeros((FRAMES, 1, 3)), object_names=("bowl",),
            actions=draw.integers(-64, 65, (FRAMES - 1, 5, 7)) / 64, states=np.zeros((FRAMES, 4)),
            rewards=np.zeros(FRAMES - 1), dones=np.zeros(FRAMES - 1), seed=seed, kind="play",
        )
        for seed in range(6)
    ])  # fmt: skip


def write_libero(path: Path) -> None:
    draw, rows = np.random.default_rng(1), 41
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
        for number in range(6):
            demo = file["data"].create_group(f"demo_{number}")
            demo["actions"], demo["obs/ee_pos"] = draw.uniform(-1, 1, (rows, 7)), draw.uniform(size=(rows, 3))
            demo["obs/agentview_rgb"] = draw.integers(256, size=(rows, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(params=[write_own, write_libero])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    request.param(tmp_path / "data.hdf5")
    return tmp_path / "data.hdf5"


STREAMED = SourceOptions(stream=True)


def test_streamed_clips_are_those_held_in_memory_also_in_loader_processes(file: Path) -> None:
    held, streamed = (ClipDataset([file], length=4, options=options) for options in (SourceOptions(), STREAMED))
    assert len(held) == len(streamed)
    order = np.random.default_rng(0).permutation(len(held)).reshape(-1, 2).tolist()
    loader = DataLoader(streamed, batch_sampler=order, collate_fn=list, num_workers=2)
    for numbers, clips in zip(order, loader, strict=True):
        for number, clip in zip(numbers, clips, strict=True):
            for mine, theirs in zip(held[number], clip, strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_no_frame_is_held_or_sent_to_another_process(file: Path) -> None:
    held, streamed = (ClipDataset([file], length=4, options=options) for options in (SourceOptions(), STREAMED))
    first = streamed[0].frames
    pictures = sum(episode.frames[:].nbytes for episode in streamed.episodes)
    assert all(isinstance(each.frames, np.ndarray) for each in held.episodes)
    assert not any(isinstance(each.frames, np.ndarray) for each in streamed.episodes)
    sent = pickle.dumps(streamed)
    assert len(sent) < len(pickle.dumps(held)) - 0.9 * pictures
    np.testing.assert_array_equal(pickle.loads(sent)[0].frames, first)
    first[:] = 0  # what is read is the reader's own
    assert streamed[0].frames.any()


def test_all_sources_of_a_process_share_one_cache() -> None:
    limit = FrameCache(limit=3 * 48)
    streams = [
        FrameStream(lambda numbers: np.zeros((len(numbers), 3, 4, 4), np.uint8), (5, 3, 4, 4), limit) for _ in range(4)
    ]
    for stream in streams:
        stream[:]
    assert sum(frame.nbytes for frame in limit._frames.values()) <= limit.limit


def test_the_cache_of_a_folder_is_that_of_one_file(tmp_path: Path) -> None:
    write_libero(tmp_path / "a.hdf5")
    write_libero(tmp_path / "b.hdf5")
    episodes = ClipDataset([tmp_path], length=4, split="all", options=STREAMED).episodes
    assert {id(each.frames._cache) for each in episodes} == {id(frame_stream.SHARED)}
    assert len({each.frames._number for each in episodes}) == len(episodes) == 12


def test_streaming_what_is_always_streamed_is_refused() -> None:
    lerobot = Path(__file__).parent / "fixtures" / "lerobot_v3"
    options = SourceOptions(stream=True, camera="observation.images.image")
    with pytest.raises(ValueError, match="source option 'stream' says nothing of .*lerobot_v3"):
        ClipDataset([lerobot], length=3, options=options)
