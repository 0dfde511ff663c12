"""How many clips a second the loader brings, from each kind of data, and how much memory it takes: one table.

    python experiments/benchmark_sources.py
    python experiments/benchmark_sources.py --pixels 256 --trajectories 8 --clip 14 --workers 4

The same made-up trajectories in every format: a recording of our own, a file in LIBERO's layout and a LeRobot data set
(both at 20 rows a second), and latents encoded in bf16 (a codec of random weights: 8 channels, an eighth of the sides).
Batches are drawn and collated as in training; each kind is read in a process of its own, in turns. Frames that were
read are not kept (as where data are far larger than the cache), but files stay in the system's: no disk is measured.
"""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import av
import h5py
import numpy as np
import torch
import tyro
from torch.utils.data import DataLoader

from colaworld.envs import frame_stream
from colaworld.envs.demos import ClipDataset, SourceOptions
from colaworld.envs.recording import SceneHeader, Trajectory, write_recording
from colaworld.experiments.batches import StepBatches, collate
from colaworld.experiments.cli import main
from colaworld.experiments.latent_shards import begin, finish, plan_shards, trajectory_tensors, write_shard
from colaworld.models.codec import FrameCodec

SKIP, RATE = 5, 20
NO_CROPS = {"copies": 0, "pixels": 0, "seed": 0}


@dataclass(frozen=True, kw_only=True)
class LoaderBenchmark:
    """What is made up and read."""

    pixels: int = 64
    """Height and width."""
    trajectories: int = 40
    """How many."""
    frames: int = 150
    """Of one, at 4 a second."""
    clip: int = 12
    """Frames in a clip."""
    batch: int = 16
    """Clips in a batch."""
    batches: int = 30
    """Read in each turn, after a first one that is not counted."""
    turns: int = 3
    """Of which the median is taken."""
    workers: int = 0
    """Processes that read ahead, as --loop.loader-workers."""

    def __post_init__(self) -> None:
        if min(self.trajectories, self.batch, self.batches, self.turns) < 1 or not 2 <= self.clip <= self.frames:
            raise ValueError("trajectories, batch, batches and turns must be 1 or more, and clip 2 to frames")
        if self.pixels % 8 or self.pixels < 8 or self.workers < 0:
            raise ValueError(f"pixels must divide by 8 and workers be 0 or more, got {self.pixels}, {self.workers}")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Clips a second, bytes of a clip, and by how much the process's own memory grew, in MiB."""

    rate: float
    clip_bytes: int
    grown: float


def benchmark_sources(config: Annotated[LoaderBenchmark, tyro.conf.arg(name="")] = LoaderBenchmark()) -> None:
    """Make data up, read them in turns, print the table."""
    with tempfile.TemporaryDirectory() as folder:
        in_a_process(make_up, Path(folder), config)
        turns = [
            {name: in_a_process(read, config, *where) for name, where in formats(Path(folder)).items()}
            for _ in range(config.turns)
        ]
    print(table(turns, config))


def make_up(folder: Path, config: LoaderBenchmark) -> None:
    """Write every format, and the unpacked copy that streaming makes of our own."""
    pictures = [moving_square(config, seed) for seed in range(config.trajectories)]
    write_own(folder / "own.hdf5", pictures, config)
    write_libero(folder / "libero.hdf5", pictures, config)
    write_lerobot(folder / "lerobot", pictures, config)
    write_encoded(folder / "encoded", folder / "own.hdf5", config)
    ClipDataset([folder / "own.hdf5"], length=config.clip, options=SourceOptions(stream=True))


def formats(folder: Path) -> Mapping[str, tuple[Path, SourceOptions]]:
    """By name, where each lies and how it is read."""
    return {
        "pictures in memory": (folder / "own.hdf5", SourceOptions()),
        "own recordings, streamed": (folder / "own.hdf5", SourceOptions(stream=True)),
        "LIBERO's files, streamed": (folder / "libero.hdf5", SourceOptions(stream=True)),
        "LeRobot, decoded": (folder / "lerobot", SourceOptions()),
        "encoded shards": (folder / "encoded", SourceOptions()),
    }


def moving_square(config: LoaderBenchmark, seed: int) -> np.ndarray:
    """Pictures uint8 ``(frames, pixels, pixels, 3)`` of a bright square that wanders over a grainy background."""
    draw, side = np.random.default_rng(seed), config.pixels
    still = draw.integers(60, 120, (side, side, 3), dtype=np.uint8)
    pictures = np.repeat(still[None], config.frames, axis=0)
    for number, picture in enumerate(pictures):
        row, column = (int((side * 0.7) * (0.5 + 0.5 * np.sin(number / pace))) for pace in (7 + seed % 5, 11))
        picture[row : row + side // 5, column : column + side // 5] = 230
    return pictures


def actions_of(config: LoaderBenchmark, seed: int) -> np.ndarray:
    """One action a row: ``((frames - 1) * SKIP + 1, 7)``."""
    rows = (config.frames - 1) * SKIP + 1
    return np.random.default_rng(seed).integers(-64, 65, (rows, 7)) / 64


def write_own(path: Path, pictures: list[np.ndarray], config: LoaderBenchmark) -> None:
    """As experiments/collect.py does."""
    count, side = config.frames, config.pixels
    header = SceneHeader(
        suite="made_up", task_id=0, bddl_file_name="none.bddl", frame_skip=SKIP, render_profile="lite",
        height=side, width=side, versions={},
    )  # fmt: skip
    trajectories = [
        Trajectory(
            agentview=shown, ee_pos=np.zeros((count, 3)), gripper_states=np.zeros((count, 2)),
            object_pos=np.zeros((count, 1, 3)), object_names=("square",), states=np.zeros((count, 4)),
            actions=actions_of(config, seed)[:-1].reshape(count - 1, SKIP, 7), rewards=np.zeros(count - 1),
            dones=np.zeros(count - 1), seed=seed, kind="play",
        )
        for seed, shown in enumerate(pictures)
    ]  # fmt: skip
    write_recording(path, header, trajectories)


def write_libero(path: Path, pictures: list[np.ndarray], config: LoaderBenchmark) -> None:
    """As LIBERO's demonstrations: every row's picture, upside down, not compressed."""
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": RATE}})
        for seed, shown in enumerate(pictures):
            demo, actions = file["data"].create_group(f"demo_{seed}"), actions_of(config, seed)
            demo["actions"], demo["obs/ee_pos"] = actions, np.zeros((len(actions), 3))
            demo["obs/agentview_rgb"] = shown[:, ::-1].repeat(SKIP, axis=0)[: len(actions)]


def write_lerobot(folder: Path, pictures: list[np.ndarray], config: LoaderBenchmark) -> None:
    """Layout v3, H.264 with a keyframe every second row, as LeRobot writes them; one video for all."""
    import pyarrow
    import pyarrow.parquet

    rows, side = (config.frames - 1) * SKIP + 1, config.pixels
    for name in ("meta/episodes/chunk-000", "data/chunk-000", "videos/camera/chunk-000"):
        (folder / name).mkdir(parents=True)
    features = {
        "camera": {"dtype": "video", "shape": [side, side, 3], "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": [7]},
    }
    info = {"codebase_version": "v3.0", "fps": RATE, "features": features}
    info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (folder / "meta/info.json").write_text(json.dumps(info))
    entries, table = [], {name: [] for name in ("episode_index", "frame_index", "timestamp", "action")}
    with av.open(str(folder / "videos/camera/chunk-000/file-000.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "23", "g": "2", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = side, side, "yuv420p"
        for seed, shown in enumerate(pictures):
            start = seed * rows / RATE
            entries.append({"episode_index": seed, "length": rows, "data/chunk_index": 0, "data/file_index": 0})
            entries[-1] |= {"videos/camera/chunk_index": 0, "videos/camera/file_index": 0}
            entries[-1] |= {"videos/camera/from_timestamp": start, "videos/camera/to_timestamp": start + rows / RATE}
            table["episode_index"] += [seed] * rows
            table["frame_index"] += list(range(rows))
            table["timestamp"] += [row / RATE for row in range(rows)]
            table["action"] += actions_of(config, seed).astype(np.float32).tolist()
            for picture in shown.repeat(SKIP, axis=0)[:rows]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "data/chunk-000/file-000.parquet")
    episodes = pyarrow.Table.from_pylist(entries)
    pyarrow.parquet.write_table(episodes, folder / "meta/episodes/chunk-000/file-000.parquet")


def write_encoded(folder: Path, recording: Path, config: LoaderBenchmark) -> None:
    """As experiments/encode_latents.py does."""
    torch.manual_seed(0)
    codec = FrameCodec(height=config.pixels, width=config.pixels, channels=(16, 16)).eval()
    options = SourceOptions()
    data = ClipDataset([recording], length=2, split="all", options=options)
    plan, held = plan_shards(data, codec, dtype="bf16", crops=NO_CROPS, options=options, shard_bytes=2**28)
    begin(folder, plan)
    for entry, episodes in zip(plan["shards"], held, strict=True):
        tensors = {
            f"{number}.{name}": tensor
            for number, episode in enumerate(episodes)
            for name, tensor in trajectory_tensors(episode, codec, dtype="bf16", crops=NO_CROPS, batch=64).items()
        }
        write_shard(folder / entry["file"], tensors)
    finish(folder, plan)


def in_a_process(function: Callable[..., Any], *given: object) -> Any:
    """What ``function`` returns in a process of its own, which begins with what this file imports and has used none of
    it. RuntimeError when it ends there without an answer.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["colaworld.experiments.benchmark_sources"])
    with ProcessPoolExecutor(1, mp_context=context) as process:
        try:
            return process.submit(function, *given).result()
        except BrokenProcessPool as error:
            raise RuntimeError(f"{function.__name__} failed in a process of its own") from error


def read(config: LoaderBenchmark, path: Path, options: SourceOptions) -> Reading:
    """Open the data and read batches."""
    frame_stream.SHARED.limit = 0
    before = own_memory()
    dataset = ClipDataset([path], length=config.clip, encoded=True, options=options)
    steps = StepBatches(len(dataset), config.batch, seed=0, stage="joint", start=0, stop=config.batches + 1)
    loader = iter(DataLoader(dataset, batch_sampler=steps, collate_fn=collate, num_workers=config.workers))
    batch = next(loader)
    began = time.perf_counter()
    for each in loader:
        batch = each
    seconds = time.perf_counter() - began
    frames = batch.frames[0]
    return Reading(
        rate=config.batches * config.batch / seconds,
        clip_bytes=frames.nelement() * frames.element_size(),
        grown=(own_memory() - before) / 2**20,
    )


def own_memory() -> int:
    """Bytes that belong to this process alone, mapped files left out (the system takes their pages back)."""
    text = Path(f"/proc/{os.getpid()}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("RssAnon")))


def table(turns: list[Mapping[str, Reading]], config: LoaderBenchmark) -> str:
    """Medians of the turns."""
    rate = {name: statistics.median(turn[name].rate for turn in turns) for name in turns[0]}
    first = next(iter(rate))
    pictures = config.trajectories * config.frames * 3 * config.pixels**2 / 2**20
    lines = [
        f"clips of {config.clip} frames, {config.pixels}x{config.pixels}, batches of {config.batch}, "
        f"{config.workers} loader processes; {pictures:.0f} MiB of pictures in all",
        f"{'':<26}{'clips/s':>10}{'of the first':>14}{'KiB a clip':>12}{'memory grew, MiB':>18}",
    ]
    for name, reading in turns[0].items():
        grown = max(turn[name].grown for turn in turns)
        lines.append(
            f"{name:<26}{rate[name]:>10.0f}{rate[name] / rate[first]:>13.2f}x{reading.clip_bytes / 1024:>12.0f}"
            f"{grown:>18.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(benchmark_sources)
