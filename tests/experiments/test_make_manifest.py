"""The manifest maker's promises to a user who already has a frozen manifest; what it makes is tested in tests/envs."""

from pathlib import Path

import pytest

from colaworld.experiments.benchmark_env import benchmark
from colaworld.experiments.make_manifest import make_manifest


@pytest.mark.parametrize("existing", ["goals.json", "goals.npz"])
def test_a_frozen_manifest_is_never_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("frozen")
    with pytest.raises(ValueError, match="a manifest is frozen once it is made"):
        make_manifest(tmp_path / "goals.json")
    assert [path.name for path in tmp_path.iterdir()] == [existing]


def test_seeds_of_training_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1000000 .* got 999999"):
        make_manifest(tmp_path / "goals.json", first_seed=999_999)
    with pytest.raises(ValueError, match="per_cell must be at least 1, got 0"):
        make_manifest(tmp_path / "goals.json", per_cell=0)


def test_a_benchmark_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        benchmark(steps=0)
