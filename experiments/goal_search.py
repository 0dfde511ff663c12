"""The search that the flags describe, put together: world, planner, objective, prior, proposals, and how planned codes
are acted on.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from colaworld.experiments.goal_objectives import make_objective
from colaworld.experiments.goal_planners import code_prior, make_planner, search_prior
from colaworld.experiments.goal_settings import EvalConfig, parts_of_rows
from colaworld.experiments.planning_world import LoadedWorld
from colaworld.planning.mpc import MPC
from colaworld.planning.protocols import Propose, World

if TYPE_CHECKING:  # networks are slow to import, and most searches have none of these
    from colaworld.adapters.goal_models import GoalModels
    from colaworld.experiments.goal_pairs import GoalFrames


def make_mpc(
    config: EvalConfig,
    world: World,
    *,
    models: GoalModels | None = None,
    category: str = "",
    propose: Propose | None = None,
) -> MPC:
    """The planner as the flags describe it, for goals of ``category``.

    ValueError naming a flag that ``world`` or the goal ``models`` cannot serve.
    """
    coding: dict[str, Any] = {"prior": search_prior(config)}
    if config.planner == "codes":
        world, coding = coded(config, world, models)
    searched = ability(world, "with_gradients", "--planner gradient")() if config.planner == "gradient" else world
    final = ability(world, "refined", "--final-steps")(config.final_steps) if config.final_steps else None
    return MPC(
        searched,
        make_planner(config),
        make_objective(config, models, category, world),
        config=config.mpc(),
        propose=propose,
        final_world=final,
        **coding,
    )


def coded(config: EvalConfig, world: World, models: GoalModels | None) -> tuple[World, dict[str, Any]]:
    """``world`` by codes, and what ``MPC`` needs besides to plan and act there. ValueError without codes, or without an
    inverse adapter for them.
    """
    from colaworld.experiments.code_actions import CodeActions

    system = ability(world, "system", "--planner codes")
    if not system.bottleneck.codes:
        raise ValueError("--planner codes: a system with a continuous bottleneck has no codes; search real actions")
    if models is None:
        raise ValueError("--planner codes needs goal models with an inverse adapter, to act: train_goal_models.py")
    acts = CodeActions(models.inverse_of(system), system.bottleneck, world.encode)
    by_codes = world.by_codes()
    prior = code_prior(config, sizes=tuple(by_codes.code_sizes), rest_codes=acts.rest_codes, usage=acts.usage)
    return by_codes, {"prior": prior, "to_action": acts, "rest_action": acts.rest_action}


def make_propose(config: EvalConfig, world: World, models: GoalModels | None) -> Propose | None:
    """Who proposes candidates; None for nobody. Recordings are only read when the first plan asks for them.

    ValueError where something that it takes is not there.
    """
    if config.propose == "none":
        return None
    from colaworld.experiments.goal_proposals import IdmProposal, NearestProposal, PolicyProposal

    if config.propose == "policy":
        return PolicyProposal(models.part("policy"), world.encode)
    system, codes = ability(world, "system", f"--propose {config.propose}"), config.planner == "codes"
    if config.propose == "idm":
        return IdmProposal(system, world.encode, codes=codes, models=models)
    for path in config.proposal_data:
        if not path.exists():
            raise FileNotFoundError(f"--proposal-data: there is no {path}")

    @cache
    def nearest() -> NearestProposal:
        table = recorded(config, system)
        return NearestProposal(table, world.encode, system=system if codes else None)

    return lambda frames, goal, horizon: nearest()(frames, goal, horizon)


def recorded(config: EvalConfig, system: Any) -> GoalFrames:
    """The training trajectories that segments are proposed from, encoded. ValueError for frames of another size or
    steps of another length than the system's.
    """
    from colaworld.envs.demos import ClipDataset, starter_path
    from colaworld.experiments.adapter_choices import check_fits
    from colaworld.experiments.goal_pairs import tabulate_goals

    print("--propose nearest: encoding recordings", flush=True)
    data = ClipDataset(config.proposal_data or (starter_path(),), length=2, split="train")
    check_fits(config.run or config.preset, system, data)
    return tabulate_goals(system.codec, data.episodes)


def check_parts(config: EvalConfig, loaded: LoadedWorld) -> None:
    """Raise ValueError for a flag that the goal models at hand do not serve, or a horizon beyond the world's."""
    for part, flag in parts_of_rows(config).items():
        if loaded.goal_models is None:
            raise ValueError(
                f"{flag} needs goal models, and this world has none: train them with train_goal_models.py, or name "
                "their folder with --goal-models"
            )
        try:
            loaded.goal_models.part(part)
        except ValueError as error:
            raise ValueError(f"{flag}: {error}") from error
    if "planner" in config.rows and config.horizon > loaded.world.max_horizon:
        raise ValueError(f"--horizon {config.horizon} is beyond the world's {loaded.world.max_horizon}")


def ability(world: World, name: str, flag: str) -> Any:
    """The attribute ``name`` that not every world has; ValueError naming the flag that needs it."""
    found = getattr(world, name, None)
    if found is None:
        raise ValueError(f"{flag} needs a trained system as the world; {type(world).__name__} has no {name}")
    return found
