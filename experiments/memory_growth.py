"""Whether the environment leaks: resident memory over many resets, and over environments made and closed again."""

import gc
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from colaworld.envs.libero import LiberoEnv

WARM_UP = 0.5  # share of the resets before the slope is taken: every initial state is settled and kept once
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Resident memory in MiB: ``after_resets`` of one environment, ``after_environments`` that were made and closed.

    ``slope`` is MiB for 100 resets, by least squares over the second half; ``each_environment`` is the growth for one
    more environment, over all but the first one.
    """

    resets: int
    after_resets: list[float]
    slope: float
    after_environments: list[float]
    each_environment: float | None


def memory_growth(suite: str, task_id: int, size: int, resets: int, environments: int) -> Growth:
    """Reset one environment ``resets`` times (one step each), then make, reset and close ``environments``.

    ValueError for fewer than 4 resets, or where the system does not tell resident memory (only Linux does).
    """
    if resets < 4:
        raise ValueError(f"resets must be at least 4 to see a slope, got {resets}")
    env = LiberoEnv(suite, task_id, height=size, width=size)
    starts = len(env.scene.initial_states)
    after_resets = []
    for number in range(resets):
        env.reset(options={"init_state_id": number % starts})
        env.step(env.action_space.sample())
        after_resets.append(resident())
    env.close()
    del env
    after_environments = []
    for _ in range(environments):
        env = LiberoEnv(suite, task_id, height=size, width=size)
        env.reset(seed=0)
        env.close()
        del env
        gc.collect()  # robosuite's objects hold each other
        after_environments.append(resident())
    kept = after_environments[1:]  # the first one also brings what stays for good
    first = int(resets * WARM_UP)
    return Growth(
        resets=resets,
        after_resets=[round(value, 1) for value in after_resets],
        slope=100 * float(np.polyfit(np.arange(first, resets), after_resets[first:], 1)[0]),
        after_environments=[round(value, 1) for value in after_environments],
        each_environment=(kept[-1] - kept[0]) / (len(kept) - 1) if len(kept) > 1 else None,
    )


def resident() -> float:
    """This process's resident memory, MiB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError as error:
        raise ValueError("this system does not tell a process's resident memory in /proc/self/statm") from error
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB
