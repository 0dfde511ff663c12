"""The planner and the first distribution that the flags of ``goal_settings.EvalConfig`` stand for."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Literal, get_args

from colaworld.experiments.plug_in import is_spec
from colaworld.experiments.plugged_flags import plugged_planner
from colaworld.planning.cem import CEM
from colaworld.planning.codes import CodePrior
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.gradient import GradientPlanner
from colaworld.planning.icem import ICEM
from colaworld.planning.mppi import MPPI
from colaworld.planning.protocols import Planner
from colaworld.planning.random_shooting import RandomShooting
from colaworld.planning.signs import SignedPrior

if TYPE_CHECKING:  # the flags import this file to be checked by it
    from colaworld.experiments.goal_settings import EvalConfig

PlannerName = Literal["cem", "icem", "mppi", "gradient", "random_shooting", "codes"]
GRIPPER = 6
"""Which of LIBERO's seven actions commands the gripper."""
ICEM_EXPONENT = 2.0
"""Colour of iCEM's noise where the flags do not say."""


def make_planner(config: EvalConfig) -> Planner:
    """The planner that the flags name or plug in; raises ValueError for an empty budget."""
    if is_spec(config.planner):
        return plugged_planner(config)
    budget = {"samples": config.samples, "iterations": config.iterations}
    if config.planner in ("cem", "codes"):
        return CEM(**budget, elite_fraction=config.elite_fraction, returns=config.execute)
    if config.planner == "icem":
        return ICEM(
            **budget,
            elite_fraction=config.elite_fraction,
            returns=config.execute,
            keep_elites=config.keep_elites,
            shrink_population=config.shrink_population,
        )
    if config.planner == "mppi":
        return MPPI(**budget, gamma=config.gamma, normalise=config.normalise)
    if config.planner == "gradient":
        return GradientPlanner(**budget, learning_rate=config.learning_rate)
    if config.planner != "random_shooting":
        raise ValueError(f"unknown planner {config.planner!r}; known: {', '.join(get_args(PlannerName))}")
    return RandomShooting(**budget)


def search_prior(config: EvalConfig) -> ActionPrior:
    """The first distribution of every search over real actions (the random policy's is ``config.prior.prior()``)."""
    prior = config.prior.prior()
    exponent = config.noise_exponent
    if exponent is None and config.planner == "icem":
        exponent = ICEM_EXPONENT
    if exponent is not None:
        prior = replace(prior, beta=0.0, exponent=exponent)
    if config.gripper == "gaussian":
        return prior
    return SignedPrior(**asdict(prior), signed=(GRIPPER,), persistence=config.gripper_persistence)


def code_prior(
    config: EvalConfig,
    *,
    sizes: tuple[int, ...],
    rest_codes: tuple[int, ...],
    usage: tuple[tuple[float, ...], ...] | None = None,
) -> CodePrior:
    """The first distribution of every search of ``--planner codes`` in a world of ``sizes`` codes, of which
    ``rest_codes`` stand for doing nothing; as frequent as in ``usage``, where that is known.
    """
    return CodePrior(sizes=sizes, rest_codes=rest_codes, usage=usage, smoothing=config.code_smoothing)
