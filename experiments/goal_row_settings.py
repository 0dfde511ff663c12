"""What the episodes of each row of the table depend on: a results folder is bound to it, goes on only with the same.

Only flags that are read are in it, and newer ones only where they are not as they used to be, so that folders from
before there were any stay what they are.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from colaworld.experiments.goal_planners import make_planner, search_prior
from colaworld.experiments.goal_settings import EvalConfig, parts_of_planner
from colaworld.experiments.plug_in import is_spec, shown
from colaworld.experiments.plugged_flags import identities


def row_settings(
    config: EvalConfig,
    tasks_identity: Mapping[str, Any],
    checkpoint: str | None,
    goal_models: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """For each row, everything that its episodes depend on; ``goal_models`` are the hashes of their parts."""
    config = config.settled(distance=False)
    shared = {**tasks_identity, "max_steps": config.max_steps}
    hashes = goal_models or {}
    prior = {f"prior.{name}": value for name, value in asdict(config.prior).items()}
    planning = {
        "planner": shown(config.planner) if is_spec(config.planner) else asdict(make_planner(config)),
        "objective": shown(config.objective),
        "last": config.last,
        "mpc": mpc_settings(config),
        "flow": {"steps": config.flow_steps, "std": config.flow_std, "guidance": config.guidance},
        "checkpoint": checkpoint,
    }
    planning |= search_settings(config) | objective_settings(config) | engine_settings(config)
    if config.adapter_snap is not None:
        planning |= {"adapter_snap": config.adapter_snap}
    if plugged := identities(config):
        planning |= {"plugged_in": plugged}
    if config.world == "simulator":
        planning |= {"world": config.world}
    parts = {part: hashes.get(part) for part in parts_of_planner(config)}
    if parts:
        planning |= {"goal_models": parts}
    settings = {
        "planner": {**shared, **prior, **planning},
        "inverse": {**shared, "checkpoint": checkpoint, "goal_models": {"policy": hashes.get("policy")}},
        "random": {**shared, **prior, "random_policy": config.random_policy},
        "expert": shared,
    }
    return {row: settings[row] for row in config.rows}


def mpc_settings(config: EvalConfig) -> dict[str, Any]:
    """Of the receding horizon, what changes results: not how many candidates fit in memory at once."""
    settings = asdict(config.mpc())
    unread = {"max_batch": None}  # its value is part of older folders
    for name, read in (("budget_seconds", config.budget_seconds), ("finalists", config.final_steps)):
        if read is None:
            del settings[name]
    return {**settings, **unread}


def search_settings(config: EvalConfig) -> dict[str, Any]:
    """What is searched and how, beyond a planner over the prior's Gaussian."""
    settings: dict[str, Any] = {}
    if config.planner in ("codes", "gradient", "icem"):
        settings |= {"search": config.planner}
    if config.propose != "none":
        settings |= {"propose": config.propose}
    if config.propose == "nearest":
        settings |= {"proposal_data": [str(path) for path in config.proposal_data] or ["starter"]}
    if config.final_steps is not None:
        settings |= {"final_steps": config.final_steps}
    if config.planner == "codes":
        # "read": off the frames before a plan; older folders took the codes that were planned there
        return {**settings, "code_smoothing": config.code_smoothing, "codes_before": "read"}
    prior = search_prior(config)
    if prior.exponent:
        settings |= {"noise_exponent": prior.exponent}
    elif config.noise_exponent is not None:
        settings |= {"noise_exponent": 0.0}
    if config.gripper == "sign":
        settings |= {"gripper": config.gripper, "gripper_persistence": config.gripper_persistence}
    return settings


def objective_settings(config: EvalConfig) -> dict[str, Any]:
    """Blur and weights, where the objective has them."""
    settings: dict[str, Any] = {}
    if config.objective in ("pixel", "sum", "vp2"):
        settings |= {"blur": config.blur}
    if config.objective == "sum":
        settings |= {"pixel_weight": config.pixel_weight, "latent_weight": config.latent_weight}
        learned = {f"{name}_weight": config.weights()[name] for name in ("distance", "progress", "success")}
        settings |= {name: weight for name, weight in learned.items() if weight}
    return settings


def engine_settings(config: EvalConfig) -> dict[str, Any]:
    """Of the imagination engine, what changes numbers (a compiled one rounds otherwise) and is not the default."""
    values = {"dtype": config.dtype, "compile": config.compile, "common_noise": config.common_noise}
    usual = EvalConfig()
    changed = {name: value for name, value in values.items() if value != getattr(usual, name)}
    return {"engine": changed} if changed else {}
