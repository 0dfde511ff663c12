"""How well a cost ranks plans: its rank correlation with what the plans really come to. No planner is better than that.

    python experiments/cost_correlation.py --manifest libero_goals_dev_v1
    python experiments/train_goal_models.py --run runs/train
    python experiments/cost_correlation.py --manifest libero_goals_dev_v1 --run runs/train

For goal instances of development (never those that results are reported on), plans are sampled and really executed.
Every cost is asked twice: of the future that the world imagines, and of the one that happened, which is a perfect
world's; what the second lacks is the cost's doing, what the first lacks beyond that is the model's. Pixels of what
happened are the simulator's own; latents are the codec's of them.

Spearman's correlation over the plans of an instance, averaged over instances with a bootstrap interval; an instance
whose plans all end within a centimetre of each other decides nothing and is counted apart. A cost that is the same for
all plans correlates by 0. Beside it ``chosen``: what the plan with the lowest cost came to, to be read between the mean
and the best of all plans. Each instance is a line of ``episodes.jsonl``; the same command goes on where it stopped.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from colaworld.adapters import SHIPPED_PRESET
from colaworld.adapters.goal_models import GoalModels, load_goal_models
from colaworld.envs.manifest import Manifest, check_development, load_manifest
from colaworld.experiments.batches import derived_seed
from colaworld.experiments.cli import main
from colaworld.experiments.correlation_table import correlations, table_of
from colaworld.experiments.episode_log import EpisodeLog, write_json
from colaworld.experiments.goal_costs import Costs, Pictures, learned_costs, unlearned_costs
from colaworld.experiments.goal_settings import LiberoPrior
from colaworld.experiments.goal_tasks import GoalInstance, GoalTasks, choose
from colaworld.experiments.plan_outcomes import LiberoSimulation, Played, Simulation, Situation, draw_plans
from colaworld.experiments.planning_world import LoadedWorld, load_world, usual_goal_models
from colaworld.experiments.provenance import file_hash
from colaworld.planning.protocols import World

ROW = "plans"


@dataclass(frozen=True, kw_only=True)
class CorrelationConfig:
    """Rank costs by how well they rank plans."""

    manifest: str
    """Goal instances of development: the shipped libero_goals_dev_v1 or others as make_manifest.py writes them; the
    shipped ones on which results are reported are refused."""
    run: Path | None = None
    """Folder of a training run or of a trained system; the weights that ship when not given."""
    preset: str = SHIPPED_PRESET
    """Which of the presets' shipped weights; not used with --run."""
    goal_models: Path | None = None
    """Folder of train_goal_models.py; those beside --run, or that ship, when not given. Without any only the costs that
    need no learning."""
    categories: tuple[str, ...] = ()
    """Only these task categories; all when not given."""
    instances: tuple[int, ...] = ()
    """Only these instances of the manifest; all when not given."""
    episodes: int | None = 8
    """At most this many instances, taken from the categories in turn."""
    plans: int = 24
    """Sampled plans of each instance."""
    expert_share: float = 0.5
    """Share of the plans that are mixed with the scripted expert's way, by a weight uniform in [0, 1]."""
    horizon: int = 4
    """Environment steps of a plan."""
    last: int | None = None
    """Only the last frames of a plan count in its cost; all when not given, as VP2."""
    blur: float = 4.0
    """Standard deviation, in pixels, of the blurred pixel cost."""
    outcome: Literal["final", "best"] = "final"
    """The distance to the goal after the last step of a plan, or at its best step; both are kept."""
    prior: LiberoPrior = field(default_factory=LiberoPrior)
    """What plans are drawn from."""
    flow_steps: int = 1
    """Steps in which an imagined frame is integrated."""
    flow_std: float = 0.0
    """Noise where that starts; 0 imagines the mean future."""
    guidance: float = 1.0
    """Weight of the actions against no action in the imagination; 1 is off."""
    device: str = "cpu"
    """Where the models run, as PyTorch names it."""
    workers: int = 1
    """Processes with a simulator each."""
    seed: int = 0
    """Of the plans."""
    out: Path = Path("runs/cost_correlation")
    """Results folder; name an old one to go on with it."""

    def __post_init__(self) -> None:
        for name in ("episodes", "horizon", "workers", "last"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be 1 or more, got {value}")
        if self.plans < 3:
            raise ValueError(f"--plans must be 3 or more to be ranked, got {self.plans}")
        if not 0 <= self.expert_share <= 1:
            raise ValueError(f"--expert-share must lie in [0, 1], got {self.expert_share}")


@torch.no_grad()
def judged(
    world: World, costs: Costs, situation: Situation, plans: Tensor, played: Played, generator: torch.Generator
) -> dict[str, dict[str, list[float | None]]]:
    """``{cost: {future: values}}`` of each of ``plans (S, H, A)``; None where a cost is not finite."""
    state = world.start(situation.frames, situation.actions)
    imagined = world.imagine(state, plans, generator)
    count, pictures = len(plans), Pictures()
    flat = rearrange(played.frames, "s h c height width -> (s h) c height width")
    encoded = rearrange(world.encode(flat), "(s h) ... -> s h ...", s=count)
    shown = rearrange(pictures.encode(flat), "(s h) ... -> s h ...", s=count)
    values: dict[str, dict[str, list[float | None]]] = {}
    for name, cost in costs.items():
        objective, target = cost.objective, cost.objective.target(world, situation.goal)
        of = {"imagined": objective(world, imagined, target)}
        if cost.pixels:
            of["true"] = objective(pictures, shown, objective.target(pictures, situation.goal))
        else:
            of["true"] = objective(world, encoded, target)
        values[name] = {future: [_number(each) for each in found.tolist()] for future, found in of.items()}
    return values


def measured(
    config: CorrelationConfig, instance: GoalInstance, world: World, costs: Costs, simulation: Simulation
) -> dict[str, Any]:
    """One line for the log: outcomes and costs of the plans of ``instance``."""
    generator = torch.Generator().manual_seed(derived_seed(config.seed, "plans", instance.index))
    situation = simulation.begin(instance, context=world.context_frames, horizon=config.horizon)
    plans = draw_plans(
        config.prior.prior(), situation.expert, config.plans, expert_share=config.expert_share, generator=generator
    )
    played = simulation.play(instance, situation, plans)
    outcomes = {"final": played.distances[:, -1], "best": played.distances.amin(dim=1)}
    return {
        "row": ROW,
        "instance": instance.index,
        "category": instance.category,
        "scene": instance.scene,
        "seed": config.seed,
        "outcomes": {name: [round(value, 6) for value in found.tolist()] for name, found in outcomes.items()},
        "costs": judged(world, costs, situation, plans, played, generator),
    }


def correlate(
    config: CorrelationConfig,
    tasks: GoalTasks,
    world: World,
    costs_of: Mapping[str, Costs],
    simulation: Simulation,
    settings: Mapping[str, Any],
) -> Path:
    """Measure what is not yet in ``config.out``, write ``correlation.json`` there, print the table; returns its path.

    ``costs_of`` each category; ``settings`` are what the costs depend on besides the flags.
    """
    chosen = choose(tasks, config.categories, config.instances, config.episodes)
    log = EpisodeLog(config.out, {ROW: settings_of(config, settings)})
    jobs = [(instance, (ROW, instance.index, config.seed)) for instance in chosen]
    todo = [instance for instance, key in jobs if key not in log]
    with tqdm(total=len(jobs), initial=len(jobs) - len(todo), unit="instance", smoothing=0) as progress:
        for instance in todo:
            progress.set_postfix_str(f"{instance.category} {instance.index}")
            log.append(measured(config, instance, world, costs_of[instance.category], simulation))
            progress.update()
    records = log.records({key for _, key in jobs})
    entries = correlations(records, config.outcome)
    path = config.out / "correlation.json"
    write_json(path, {"outcome": config.outcome, "settings": settings_of(config, settings), "table": entries})
    print(f"\n{table_of(entries)}\n\noutcome: {config.outcome} distance to the goal; written: {path}")
    return path


def settings_of(config: CorrelationConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the numbers of an instance depend on; a results folder is bound to it."""
    names = ("plans", "expert_share", "horizon", "last", "blur", "flow_steps", "flow_std", "guidance")
    prior = {f"prior.{name}": value for name, value in vars(config.prior).items()}
    return {**settings, **prior, **{name: getattr(config, name) for name in names}}


def check_fits(manifest: Manifest, loaded: LoadedWorld, horizon: int) -> None:
    """Raise ValueError when the world learned from other frames or steps, or reaches less far than the horizon."""
    for name in ("render_profile", "height", "width", "frame_skip"):
        learned, wanted = getattr(loaded, name), getattr(manifest, name)
        if learned is not None and learned != wanted:
            raise ValueError(f"the weights learned from data of {name} {learned!r}, the manifest's is {wanted!r}")
    if horizon > loaded.world.max_horizon:
        raise ValueError(f"--horizon {horizon} is beyond the world's {loaded.world.max_horizon}")


def cost_correlation(config: Annotated[CorrelationConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Rank costs by how well they rank plans."""
    from colaworld.experiments.libero_goal_tasks import LiberoGoalTasks

    manifest = load_manifest(config.manifest)
    check_development(manifest)
    loaded = load_world(
        config.run,
        preset=config.preset,
        device=config.device,
        steps=config.flow_steps,
        std=config.flow_std,
        guidance=config.guidance,
    )
    check_fits(manifest, loaded, config.horizon)
    tasks, codec = LiberoGoalTasks(manifest), loaded.world.system.codec
    categories = sorted({instance.category for instance in tasks.instances})
    plain = unlearned_costs(last=config.last, blur=config.blur)
    folder = config.goal_models or usual_goal_models(config.run, config.preset)
    models = load_goal_models(folder, codec) if folder else GoalModels(about={})
    costs_of = {each: plain | learned_costs(models, each, last=config.last, blur=config.blur) for each in categories}
    learned = file_hash(folder) if folder else None
    settings = {**tasks.identity, "checkpoint": loaded.checkpoint, "goal_models": learned}
    simulation = LiberoSimulation(manifest, workers=config.workers)
    try:
        correlate(config, tasks, loaded.world, costs_of, simulation, settings)
    finally:
        simulation.close()


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


if __name__ == "__main__":
    main(cost_correlation)
