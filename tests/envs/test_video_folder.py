"""Plain videos: resampled by their timestamps, cut square, split by file; sentences for videos that cannot be used."""

import subprocess
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from colaworld.envs.demos import ClipDataset, SourceOptions
from colaworld.envs.episode import splits_by_name
from colaworld.envs.video import VideoFile


BITS = 7


def write_mp4(
    path: Path,
    frames: int,
    *,
    fps: int = 30,
    height: int = 48,
    width: int = 80,
    times: list[int] | None = None,
    codec: str = "libx264",
) -> None:
    """Frame k says k in binary, in columns of black and white across its middle square, under a white stripe along its
    top; at each side are 16 columns of black. ``times``: when each is shown, in units of ``1 / fps``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"crf": "12", "g": "12"} | ({"bf": "2"} if codec == "libx264" else {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for k in range(frames):
            picture = np.zeros((height, width, 3), np.uint8)
            bits = np.array([k >> bit & 1 for bit in range(BITS, -1, -1)]).repeat((width - 32) // (BITS + 1))
            picture[:, 16:-16] = 255 * bits[None, :, None]
            picture[: height // 4] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = times[k] if times else k
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def shown(frames: np.ndarray) -> list[int]:
    """Which frame of the file each of ``frames`` (T, 3, side, side) is."""
    step = frames.shape[3] // (BITS + 1)
    read = frames[:, 0, frames.shape[2] * 3 // 4, step // 2 :: step] > 127
    return (read * 2 ** np.arange(BITS, -1, -1)).sum(axis=1).tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        write_mp4(tmp_path / "videos" / f"clip_{number}.mp4", 91)
    return tmp_path / "videos"


@pytest.mark.parametrize(("fps", "rate"), [(30, 4.0), (25, 4.0), (8, 4.0), (30, 7.0), (4, 4.0)])
def test_frames_are_those_shown_at_the_models_times(tmp_path: Path, fps: int, rate: float) -> None:
    write_mp4(tmp_path / "a.mp4", 61, fps=fps)
    (episode,) = ClipDataset([tmp_path], length=2, split="all", options=SourceOptions(rate=rate)).episodes
    expected = np.floor(np.arange(len(episode.frames)) / rate * fps + 1e-6)
    assert shown(episode.frames[:]) == expected.tolist()
    assert len(episode.frames) == int(60 / fps * rate + 1e-6) + 1


def test_a_video_of_changing_rate_is_read_by_its_clock(tmp_path: Path) -> None:
    times = [*range(0, 30, 3), *range(30, 90)]  # ten frames in the first second, thirty in each of the next two
    write_mp4(tmp_path / "a.mp4", len(times), times=times)
    (episode,) = ClipDataset([tmp_path], length=2, split="all").episodes
    expected = [np.flatnonzero(np.array(times) <= 7.5 * j + 1e-6)[-1] for j in range(len(episode.frames))]
    assert shown(episode.frames[:]) == expected


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_frames_are_the_same_in_whatever_order_they_are_asked_for(tmp_path: Path, codec: str) -> None:
    write_mp4(tmp_path / "a.mp4", 91, codec=codec, height=64, width=96)
    video = VideoFile(tmp_path / "a.mp4")
    whole = video.read(range(91))
    for number in (90, 3, 47, 12, 11, 0):
        np.testing.assert_array_equal(video.read([number])[0], whole[number])
    np.testing.assert_array_equal(video.read([5, 5, 40])[1], whole[5])


def test_pictures_are_cut_square_from_the_centre_and_resized(folder: Path) -> None:
    frame = ClipDataset([folder], length=2)[4].frames[1]  # 1.25 seconds in
    assert frame.shape == (3, 64, 64)
    assert frame[0, 4].mean() > 235 and shown(frame[None]) == [37]  # the stripe on top; no black sides are left
    wide = ClipDataset([folder], length=2, options=SourceOptions(height=24, width=40))[0].frames[1]
    assert wide.shape == (3, 24, 40) and wide[0, 18, 1] < 40 < wide[0, 3, 20]
    small = ClipDataset([folder], length=2, options=SourceOptions(height=16, width=16, orientation="upside_down"))
    assert small[0].frames[0, 0, -1].mean() > 235


def test_a_video_that_says_it_is_to_be_turned_is_turned(tmp_path: Path, folder: Path) -> None:
    turned = tmp_path / "turned" / "a.mp4"
    turned.parent.mkdir()
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-display_rotation", "90"]
    subprocess.run([*ffmpeg, "-i", str(folder / "clip_0.mp4"), "-c", "copy", str(turned)], check=True)
    plain, other = VideoFile(folder / "clip_0.mp4").read([9])[0], VideoFile(turned).read([9])[0]
    np.testing.assert_array_equal(other, np.rot90(plain))


def test_it_is_action_free_and_says_so(folder: Path) -> None:
    dataset = ClipDataset([folder], length=5)
    clip = dataset[0]
    assert clip.actions.shape == (4, 5, 7) and np.isnan(clip.actions).all() and np.isnan(clip.ee_pos).all()
    with pytest.raises(ValueError, match=r"videos holds no actions, which stage 'adapter' needs"):
        dataset.require_actions("stage 'adapter'")


def test_files_are_split_by_their_names_alone(folder: Path) -> None:
    held_out = {episode.demo for episode in ClipDataset([folder], length=2, split="validation").episodes}
    trained_on = {episode.demo for episode in ClipDataset([folder], length=2, split="train").episodes}
    assert len(held_out) == 2 and len(trained_on) == 2 and not held_out & trained_on
    names = [f"file_{number}" for number in range(400)]
    splits = dict(zip(names, splits_by_name(names), strict=True))
    assert 0.05 < np.mean([split == "validation" for split in splits.values()]) < 0.15
    fewer = names[::-1][:200]
    assert splits_by_name(fewer) == [splits[name] for name in fewer]
    assert [splits_by_name(names[:count]).count("validation") for count in (0, 1, 2, 3, 4)] == [0, 0, 1, 1, 2]


def test_videos_and_recordings_of_other_sizes_do_not_mix(folder: Path, tmp_path: Path) -> None:
    write_mp4(tmp_path / "others" / "a.mp4", 40)
    with pytest.raises(ValueError, match="source option 'camera' says nothing of"):
        ClipDataset([folder], length=2, options=SourceOptions(camera="agentview"))
    assert len(ClipDataset([folder, tmp_path / "others"], length=2, split="all").episodes) == 5


def test_videos_that_cannot_be_used_are_named(folder: Path, tmp_path: Path) -> None:
    spoilt = folder / "spoilt.mp4"
    spoilt.write_bytes(b"no video at all")
    with pytest.raises(ValueError, match="spoilt.mp4 cannot be decoded"):
        ClipDataset([folder], length=2)
    whole = (folder / "clip_0.mp4").read_bytes()
    spoilt.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="spoilt.mp4 (cannot be decoded|was cut short)"):
        ClipDataset([folder], length=2)
    fast = tmp_path / "fast.mp4"  # its table of contents comes first, so that only the pictures are cut off
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(folder / "clip_0.mp4"), "-c", "copy"]
    subprocess.run([*ffmpeg, "-movflags", "+faststart", str(fast)], check=True)
    spoilt.write_bytes(fast.read_bytes()[: fast.stat().st_size * 3 // 4])
    with pytest.raises(ValueError, match="spoilt.mp4 (cannot be decoded|was cut short)"):
        ClipDataset([folder], length=2)
    spoilt.unlink()
    write_mp4(folder / "slow.mp4", 10, fps=3)
    with pytest.raises(ValueError, match="slow.mp4: 3 frames a second are fewer than the model's rate of 4"):
        ClipDataset([folder], length=2)


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"holds no data: starter.hdf5 is missing, and so are .* .mp4 and .hdf5 files"
    ):
        ClipDataset([tmp_path], length=2)
