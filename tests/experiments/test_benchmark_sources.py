"""The loader's benchmark reads the same clips from every format, and prints a row for each."""

from pathlib import Path

import numpy as np

from colaworld.envs.demos import ClipDataset
from colaworld.experiments import benchmark_sources as benchmark

SMALL = benchmark.LoaderBenchmark(pixels=32, trajectories=3, frames=9, clip=4, batch=2, batches=2, turns=1)


def test_every_format_holds_the_same_clips(tmp_path: Path) -> None:
    benchmark.make_up(tmp_path, SMALL)
    shown, actions = benchmark.moving_square(SMALL, 1), benchmark.actions_of(SMALL, 1)
    for name, (path, options) in benchmark.formats(tmp_path).items():
        episode = ClipDataset([path], length=4, split="all", encoded=True, options=options).episodes[1]
        assert len(episode.frames) == SMALL.frames
        if name != "encoded shards":
            off = np.abs(episode.frames[:].transpose(0, 2, 3, 1).astype(int) - shown)
            assert off.mean() < (12 if name == "LeRobot, decoded" else 1e-9)
        first = 1 if name.startswith("LIBERO") else 0  # its rows have the action that led to them
        found = episode.actions.reshape(-1, 7)[: len(actions) - 2]
        np.testing.assert_allclose(found, actions[first : first + len(found)], atol=1e-6)


def test_the_table_has_a_row_for_each_format(capsys) -> None:
    benchmark.benchmark_sources(SMALL)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:26].strip() for line in lines[2:]] == [
        "pictures in memory", "own recordings, streamed", "LIBERO's files, streamed", "LeRobot, decoded",
        "encoded shards",
    ]  # fmt: skip
    assert all(float(line[26:36]) > 0 for line in lines[2:])
