"""What ``--world``, ``--planner`` and ``--objective`` of ``vp2_eval.py`` stand for where they name somebody's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from colaworld.experiments.planning_world import LoadedWorld
from colaworld.experiments.plug_in import PluggedIn, assemble, is_spec, plug_in
from colaworld.planning.protocols import Objective, Planner, World

if TYPE_CHECKING:  # the flags import this file to be checked by it
    from colaworld.experiments.goal_settings import EvalConfig

FLAGS = ("world", "planner", "objective")


def check_flags(config: EvalConfig) -> None:
    """Raise ValueError for arguments of something that is not plugged in."""
    for flag in FLAGS:
        words = getattr(config, f"{flag}_kwargs")
        if words and not is_spec(getattr(config, flag)):
            raise ValueError(f"--{flag}-kwargs {' '.join(words)} is for --{flag} module:factory")


def offers(config: EvalConfig, flag: str) -> dict[str, Any]:
    """Flags that a factory gets if it has parameters of their names."""
    if flag == "world":
        return {"device": config.device}
    if flag == "planner":
        return {"samples": config.samples, "iterations": config.iterations}
    return {"last": config.last, "blur": config.blur}


def identities(config: EvalConfig) -> dict[str, dict[str, Any]]:
    """By flag, what is plugged in, for the settings that a results folder is bound to."""
    return {flag: _assembled(config, flag).identity for flag in FLAGS if is_spec(getattr(config, flag))}


def plugged_world(config: EvalConfig) -> LoadedWorld:
    """The world, examined and ready to plan in. Raises PlugInError.

    Its attributes ``render_profile``, ``height``, ``width`` and ``frame_skip``, where it has them, say what frames and
    steps it learned from.
    """
    plugged = plug_in(config.world, config.world_kwargs, kind="world", **offers(config, "world"))
    seen = {name: getattr(plugged.made, name, None) for name in ("render_profile", "height", "width", "frame_skip")}
    checkpoint = plugged.identity["checkpoint"] or plugged.identity["source"]
    return LoadedWorld(world=plugged.made, checkpoint=checkpoint, **seen)


def plugged_planner(config: EvalConfig) -> Planner:
    """The planner, examined. Raises PlugInError."""
    return plug_in(config.planner, config.planner_kwargs, kind="planner", **offers(config, "planner")).made


def plugged_objective(config: EvalConfig, world: World) -> Objective:
    """The objective, examined in latents of ``world``. Raises PlugInError."""
    offered = offers(config, "objective")
    return plug_in(config.objective, config.objective_kwargs, kind="objective", world=world, **offered).made


def _assembled(config: EvalConfig, flag: str) -> PluggedIn:
    return assemble(getattr(config, flag), getattr(config, f"{flag}_kwargs"), **offers(config, flag))
