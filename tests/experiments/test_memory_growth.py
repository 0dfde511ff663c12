"""Growth of memory: a leak shows as its slope, what is kept once does not."""

import itertools
import json
from collections.abc import Callable

import gymnasium
import numpy as np
import pytest

from colaworld.experiments import memory_growth as measuring
from colaworld.experiments.benchmark_env import benchmark


class Pretended:
    """As much of the LIBERO environment as is measured; counts what was closed."""

    opened = closed = 0

    def __init__(self, *args: object, **settings: object) -> None:
        type(self).opened += 1
        self.scene = type("Scene", (), {"initial_states": np.zeros((5, 3))})()
        self.action_space = gymnasium.spaces.Box(-1, 1, (7,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> None:
        assert options is None or 0 <= options["init_state_id"] < 5

    def step(self, action: np.ndarray) -> None:
        assert action.shape == (7,)

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture()
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], float]], None]:
    """Let resident memory be a function of how often it was read."""

    def with_memory(memory: Callable[[int], float]) -> None:
        reads = itertools.count()
        Pretended.opened = Pretended.closed = 0
        monkeypatch.setattr(measuring, "LiberoEnv", Pretended)
        monkeypatch.setattr(measuring, "resident", lambda: memory(next(reads)))

    return with_memory


def test_a_leak_shows_as_its_slope(pretend: Callable) -> None:
    pretend(lambda read: 500 + 0.25 * read if read < 40 else 510 + 3.0 * (read - 40))
    growth = measuring.memory_growth("libero_goal", 0, 64, 40, 4)
    assert growth.slope == pytest.approx(25.0)
    assert growth.each_environment == pytest.approx(3.0)
    assert (len(growth.after_resets), growth.after_environments) == (40, [510.0, 513.0, 516.0, 519.0])
    assert Pretended.opened == Pretended.closed == 5


def test_what_is_kept_once_is_no_leak(pretend: Callable) -> None:
    pretend(lambda read: 500 + min(read, 15) if read < 40 else (300 if read == 40 else 320))
    growth = measuring.memory_growth("libero_goal", 0, 64, 40, 4)
    assert growth.slope == pytest.approx(0.0, abs=1e-9)
    assert growth.each_environment == 0.0


def test_the_command_prints_and_writes_it(pretend: Callable, tmp_path, capsys: pytest.CaptureFixture) -> None:
    pretend(lambda read: 500 + 0.25 * read)
    benchmark(resets=8, environments=0, json_file=tmp_path / "growth.json")
    assert "+25.00 MiB for 100 resets" in capsys.readouterr().out
    assert json.loads((tmp_path / "growth.json").read_text())["slope"] == pytest.approx(25.0)
    with pytest.raises(ValueError, match="resets must be at least 4 .* got 3"):
        benchmark(resets=3)


def test_this_process_has_memory() -> None:
    assert measuring.resident() > 10
