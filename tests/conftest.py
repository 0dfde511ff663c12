"""Simulators shared by all tests: building one takes seconds, restoring a state in it milliseconds."""

from collections.abc import Iterator

import pytest

from colaworld.envs.goals import LiberoGoalReachingEnv
from colaworld.envs.libero import LiberoEnv


@pytest.fixture(scope="session")
def goal_env() -> Iterator[LiberoEnv]:
    """libero_goal task 0 as planning uses it: 64x64, agentview only, the "lite" profile."""
    env = LiberoEnv("libero_goal", 0, render_mode="rgb_array")
    yield env
    env.close()


@pytest.fixture(scope="session")
def spatial_env() -> Iterator[LiberoEnv]:
    """libero_spatial task 0 with everything on: wrist view, proprioception, oblong pictures in the "full" profile."""
    env = LiberoEnv("libero_spatial", 0, height=96, width=128, wrist=True, proprio=True, render_profile="full")
    yield env
    env.close()


@pytest.fixture(scope="session")
def reaching_env() -> Iterator[LiberoGoalReachingEnv]:
    """Reach and push in two scenes; it opens with instance 0 and its scene."""
    env = LiberoGoalReachingEnv(manifest="libero_goals_v0")
    yield env
    env.close()
