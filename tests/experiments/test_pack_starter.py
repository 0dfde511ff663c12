"""Packing to a size: the best quality that fits, read back by the one reader, and nothing half-written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from colaworld.envs.demos import ClipDataset
from colaworld.experiments.pack_starter import CRF_RANGE, fitting_crf, pack_starter

Write = Callable[..., list]


@pytest.mark.parametrize("limit", [5.5, 6.0, 10.0, 14.0, 16.0, 25.0, 60.0])
@pytest.mark.parametrize("halves_every", [3.0, 6.0, 14.0])
def test_the_lowest_crf_that_fits_is_found_in_a_few_tries(limit: float, halves_every: float) -> None:
    tried = []

    def size(crf: int) -> float:
        return 5 + 9 * 2 ** (-(crf - 24) / halves_every)

    def pack(crf: int) -> float:
        tried.append(crf)
        return size(crf)

    if size(CRF_RANGE[1]) > limit:
        with pytest.raises(ValueError, match="even crf 45 takes .* more than the"):
            fitting_crf(pack, limit)
        return
    crf, last = fitting_crf(pack, limit)
    assert size(crf) <= limit and (crf == CRF_RANGE[0] or size(crf - 1) > limit)
    assert last == tried[-1] and len(tried) <= 10 and len(set(tried)) == len(tried)


def test_a_folder_of_recordings_packs_to_a_size_and_reads_back(
    fake_recording: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = [
        each
        for task_id in range(2)
        for each in fake_recording(tmp_path / "data" / f"{task_id}.hdf5", [7, 8], task_id=task_id, size=64)
    ]
    pack_starter((tmp_path / "data",), tmp_path / "roomy", crf=4)
    roomy = sum(file.stat().st_size for file in (tmp_path / "roomy").iterdir())
    pack_starter((tmp_path / "data",), tmp_path / "tight", max_mib=0.9 * roomy / 2**20)
    assert "dB mean" in capsys.readouterr().out
    assert sum(file.stat().st_size for file in (tmp_path / "tight").iterdir()) <= 0.9 * roomy
    for name in ("roomy", "tight"):
        episodes = ClipDataset([tmp_path / name], length=3, split="all").episodes
        for before, after in zip(recorded, episodes, strict=True):
            np.testing.assert_array_equal(after.actions, before.actions)
            np.testing.assert_allclose(after.ee_pos, before.ee_pos, atol=6e-5)
            np.testing.assert_allclose(after.object_pos, before.object_pos, atol=6e-5)
            assert (after.seed, after.kind, after.object_names) == (before.seed, before.kind, before.object_names)
            frames = np.moveaxis(before.agentview, -1, 1).astype(float)
            assert 10 * np.log10(255**2 / ((after.frames - frames) ** 2).mean()) > 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "roomy", "tight"]


def test_what_cannot_be_packed_leaves_everything_as_it_was(fake_recording: Write, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    fake_recording(data / "a.hdf5", [1], size=64)
    pack_starter((data,), out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match="even crf 45 takes .* the 0.001 MiB of --max-mib"):
        pack_starter((data,), out, max_mib=0.001)
    with pytest.raises(ValueError, match="leave out --crf"):
        pack_starter((data,), out, crf=20, max_mib=1)
    with pytest.raises(ValueError, match="max_mib must be above 0, got -1"):
        pack_starter((data,), out, max_mib=-1)
    with pytest.raises(ValueError, match="data holds something else than starter data"):
        pack_starter((data,), data)
    with pytest.raises(FileNotFoundError, match="empty holds no data"):
        (tmp_path / "empty").mkdir()
        pack_starter((tmp_path / "empty",), out)
    fake_recording(data / "b.hdf5", [2], size=64, frames=7)
    with pytest.raises(ValueError, match=r"trajectories of \[6, 7\] frames"):
        pack_starter((data,), out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "empty", "out"]
