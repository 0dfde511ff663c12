"""LeRobot data sets, on one that LeRobot's own writer made (fixtures/make_lerobot_fixture.py)."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from colaworld.envs.demos import ClipDataset, SourceOptions
from colaworld.envs.frame_stream import FrameCache
from colaworld.envs.video import VideoFile

FIXTURE = Path(__file__).parent / "fixtures" / "lerobot_v3"
LENGTHS, SKIP, SQUARE = (31, 41, 52), 5, 16
MAIN = SourceOptions(camera="observation.images.image")
WRIST = SourceOptions(camera="observation.images.wrist_image")


def number_shown(frame: np.ndarray) -> int:
    """What the eight upper squares of ``frame`` (3, side, side) say: ``64 * episode + row``."""
    side = frame.shape[-1] // 4
    middles = frame[0, side // 2 :: side, side // 2 :: side]
    return int("".join(str(int(each > 125)) for each in middles[:2].ravel()), 2)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The data set, to be spoilt."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "pushes"))


def edit_info(folder: Path, **changes: object) -> None:
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))


def edit_table(path: Path, column: str, values: list | None) -> None:
    table = pyarrow.parquet.read_table(path)
    at = table.schema.get_field_index(column)
    table = table.remove_column(at)
    if values is not None:
        table = table.add_column(at, column, pyarrow.array(values))
    pyarrow.parquet.write_table(table, path)


@pytest.mark.parametrize("options", [MAIN, WRIST])
def test_the_action_that_leads_from_frame_k_to_the_next_is_the_one_returned(options: SourceOptions) -> None:
    dataset = ClipDataset([FIXTURE], length=3, split="all", options=options)
    assert (dataset.height, dataset.width, dataset.frame_skip, dataset.action_dim) == (64, 64, SKIP, 7)
    assert [len(episode.frames) for episode in dataset.episodes] == [(length - 1) // SKIP + 1 for length in LENGTHS]
    for clip in (dataset[index] for index in range(len(dataset))):
        episode, rows = np.divmod([number_shown(frame) for frame in clip.frames], 64)
        assert len(set(episode)) == 1
        np.testing.assert_array_equal(np.diff(rows), SKIP)
        # From the frame of row k lead the actions of rows k, ..., k + 4: each says its episode and its row.
        expected = episode[0] + (rows[:-1, None] + np.arange(SKIP)) / 64
        np.testing.assert_allclose(clip.actions, np.repeat(expected[..., None], 7, axis=-1), atol=1e-6)
        np.testing.assert_allclose(clip.ee_pos, rows[:, None] * np.array([1, 2, 3]) / 1000, atol=1e-6)
        colour = clip.frames[0, :, 2 * SQUARE + 8, 8].astype(int)
        assert (colour[0] - colour[2] > 100) == (options is MAIN) and (colour[2] - colour[0] > 100) == (
            options is WRIST
        )


def test_every_row_at_full_rate_is_the_picture_of_that_row() -> None:
    dataset = ClipDataset([FIXTURE], length=2, split="all", options=SourceOptions(camera="image", rate=20))
    assert [episode.demo for episode in dataset.episodes] == ["episode_000000", "episode_000001", "episode_000002"]
    for number, (episode, length) in enumerate(zip(dataset.episodes, LENGTHS, strict=True)):
        assert [number_shown(frame) for frame in episode.frames[:]] == [64 * number + k for k in range(length)]
        assert number_shown(episode.frames[-1]) == 64 * number + length - 1


def test_only_what_is_asked_for_is_decoded_and_it_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    real = VideoFile.read
    monkeypatch.setattr(VideoFile, "read", lambda self, numbers: reads.extend(numbers) or real(self, numbers))
    dataset = ClipDataset([FIXTURE], length=2, split="all", options=MAIN)
    assert reads == []
    dataset[7]  # the first of the second episode, whose first picture is the 32nd of the shared video
    assert reads == [31 + 5, 31 + 10]
    dataset[7]
    assert len(reads) == 2


def test_the_cache_lets_go_of_what_was_used_longest_ago() -> None:
    cache, frame = FrameCache(limit=2 * 48), np.zeros((3, 4, 4), np.uint8)
    for number in (0, 1):
        cache.put((0, number), frame)
    cache.get((0, 0))
    cache.put((0, 2), frame)
    assert [cache.get((0, number)) is not None for number in (0, 1, 2)] == [True, False, True]


def test_orientation_size_and_splits() -> None:
    turned = SourceOptions(camera="image", orientation="turned", height=32, width=32)
    frame = ClipDataset([FIXTURE], length=2, split="all", options=turned)[0].frames[0]
    assert frame.shape == (3, 32, 32)
    assert number_shown(frame[:, ::-1, ::-1]) == 0 and frame[0, 12, 4] > 150 and frame[2, 12, 4] < 100
    oblong = SourceOptions(camera="image", height=16, width=32)
    cut = ClipDataset([FIXTURE], length=2, split="all", options=oblong)[0].frames[0]  # rows 16 to 48 of 64
    assert cut.shape == (3, 16, 32) and cut[0, 2, 4] < 60 and cut[0, 12, 4] > 150
    demos = [
        {episode.demo for episode in ClipDataset([FIXTURE], length=2, split=split, options=MAIN).episodes}
        for split in ("train", "validation")
    ]
    assert [len(each) for each in demos] == [2, 1] and not demos[0] & demos[1]


def test_a_rate_that_the_data_set_misstates_can_be_put_right(copy: Path) -> None:
    """As LIBERO data sets that say 10 frames a second of 20 Hz: their videos run at half speed, the skip is ours."""
    edit_info(copy, fps=10)
    edit_table(
        copy / "data/chunk-000/file-000.parquet", "timestamp", [k / 10 for length in LENGTHS for k in range(length)]
    )
    with pytest.raises(ValueError, match="from 0.000 s to 1.550 s, at 10 frames a second not its length of 31"):
        ClipDataset([copy], length=2, options=replace(MAIN, fps=20))
    episodes = copy / "meta/episodes/chunk-000/file-000.parquet"
    for name, seconds in (("from", [0.0, 3.1, 0.0]), ("to", [3.1, 7.2, 5.2])):
        edit_table(episodes, f"videos/{MAIN.camera}/{name}_timestamp", seconds)
    for video in (copy / "videos" / MAIN.camera).rglob("*.mp4"):
        whole = video.rename(video.with_name("whole.mp4"))
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-itsscale", "2"]
        subprocess.run([*ffmpeg, "-i", str(whole), "-c", "copy", str(video)], check=True)
        whole.unlink()
    with pytest.raises(ValueError, match="info.json: 10 frames a second are not a multiple of the model's rate of 4"):
        ClipDataset([copy], length=2, options=MAIN)
    slow = ClipDataset([copy], length=2, split="all", options=replace(MAIN, fps=20))
    fast = ClipDataset([FIXTURE], length=2, split="all", options=MAIN)
    for index in (0, 9, len(fast) - 1):
        np.testing.assert_array_equal(slow[index].frames, fast[index].frames)
        np.testing.assert_array_equal(slow[index].actions, fast[index].actions)


def test_without_actions_it_is_action_free(copy: Path) -> None:
    features = json.loads((copy / "meta" / "info.json").read_text())["features"]
    del features["action"]
    edit_info(copy, features=features)
    dataset = ClipDataset([copy], length=3, options=MAIN)
    assert np.isnan(dataset[0].actions).all() and dataset[0].actions.shape == (2, SKIP, 7)
    with pytest.raises(ValueError, match="pushes holds no actions, which stage 'adapter' needs"):
        dataset.require_actions("stage 'adapter'")


def spoil_episodes(column: str, values: list | None):
    return lambda folder: edit_table(folder / "meta/episodes/chunk-000/file-000.parquet", column, values)


def spoil_rows(column: str, values: list | None):
    return lambda folder: edit_table(folder / "data/chunk-000/file-000.parquet", column, values)


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (
            lambda f: edit_info(f, codebase_version="v2.1"),
            ValueError,
            "info.json: codebase_version is 'v2.1', this .* v3",
        ),
        (lambda f: edit_info(f, fps=None), ValueError, "info.json: field 'fps' is missing"),
        (
            lambda f: edit_info(f, fps=3),
            ValueError,
            "info.json: 3 frames a second are fewer than the model's rate of 4",
        ),
        (lambda f: (f / "meta/info.json").write_text("{"), ValueError, "info.json: not valid JSON"),
        (spoil_episodes("length", [31, 41, 50]), ValueError, "file-000.parquet: episode 2 has 52 rows, .* length 50"),
        (spoil_episodes("length", None), ValueError, "column 'length' is missing"),
        (spoil_rows("action", None), ValueError, "file-000.parquet: column 'action' is missing"),
        (
            spoil_rows("action", [[float("nan")] * 7] * 124),
            ValueError,
            "episode 0: field 'action' holds values that are not",
        ),
        (lambda f: shutil.rmtree(f / "meta/episodes"), FileNotFoundError, "lists no episodes"),
        (lambda f: shutil.rmtree(f / "data"), FileNotFoundError, "no table at .*data/chunk-000/file-000.parquet"),
        (lambda f: shutil.rmtree(f / "videos"), FileNotFoundError, "no video at .*image/chunk-000/file-000.mp4"),
        (
            lambda f: (f / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1 and no more"),
            ValueError,
            "file-000.parquet is not a readable parquet file",
        ),
    ],
)
def test_what_does_not_fit_is_named(copy: Path, spoil, error: type[Exception], sentence: str) -> None:
    spoil(copy)
    with pytest.raises(error, match=sentence):
        ClipDataset([copy], length=2, options=MAIN)


def test_cameras_are_named_where_one_must_be_chosen() -> None:
    with pytest.raises(ValueError, match="say which camera, there are .*images.image, .*images.wrist_image"):
        ClipDataset([FIXTURE], length=2)
    with pytest.raises(ValueError, match="camera is 'top', there are"):
        ClipDataset([FIXTURE], length=2, options=SourceOptions(camera="top"))
    with pytest.raises(ValueError, match="source option 'pairing' says nothing of .*lerobot_v3"):
        ClipDataset([FIXTURE], length=2, options=SourceOptions(camera="image", pairing="obs_after_action"))


def test_a_picture_that_the_video_does_not_have_is_named(copy: Path) -> None:
    videos = copy / "videos/observation.images.image/chunk-000"
    shutil.copy(videos / "file-001.mp4", videos / "file-000.mp4")  # 52 pictures where 72 should be
    dataset = ClipDataset([copy], length=2, split="all", options=MAIN)
    with pytest.raises(ValueError, match="file-000.mp4: no picture at 3.550 s, the nearest is 1.000 s away"):
        dataset.episodes[1].frames[-1]


def test_without_pyarrow_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="needs pyarrow; install it with pip install"):
        ClipDataset([FIXTURE], length=2, options=MAIN)
