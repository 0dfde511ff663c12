"""One episode of ``vp2_eval.py``, and the player that a process makes for itself from the flags: tasks, world and
policies."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from colaworld.experiments.episode_log import Key
from colaworld.experiments.goal_episode import Footage, run_episode
from colaworld.experiments.goal_policies import ExpertPolicy, PlannerPolicy, Policy, RandomPolicy
from colaworld.experiments.goal_search import make_mpc, make_propose
from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.goal_tasks import GoalInstance, GoalTasks, Simulated
from colaworld.experiments.planning_world import LoadedWorld, load_world, usual_goal_models
from colaworld.experiments.plug_in import is_spec
from colaworld.experiments.plugged_flags import plugged_world
from colaworld.experiments.report import write_pictures

OnFrame = Callable[[Mapping[str, Any], Footage], Any]
"""Told what is known of an episode, and what was seen in it so far."""


class Job(NamedTuple):
    """One episode to play."""

    instance: GoalInstance
    row: str
    seed: int

    @property
    def key(self) -> Key:
        """As the log knows it."""
        return self.row, self.instance.index, self.seed

    @property
    def name(self) -> str:
        """As people read it."""
        return f"{self.instance.category} {self.instance.index}, {self.row}, seed {self.seed}"

    @property
    def scene(self) -> str:
        """Of the instance."""
        return self.instance.scene


class Player:
    """Tasks, world and policies with which a process plays one episode after another."""

    def __init__(
        self,
        config: EvalConfig,
        tasks: GoalTasks,
        loaded: LoadedWorld | None,
        on_step: Callable[[str], Any] = lambda text: None,
        on_frame: OnFrame = lambda episode, footage: None,
    ) -> None:
        self.config, self.tasks, self.on_step, self.on_frame = config, tasks, on_step, on_frame
        self.policies = make_policies(config, tasks, loaded)

    def __call__(self, job: Job) -> tuple[dict[str, Any], Footage]:
        """One episode as a record for the log, and what was seen."""
        return play(job, self.policies[job.row](job.instance), self.config, self.tasks, self.on_step, self.on_frame)


def player_of(config: EvalConfig) -> Player:
    """A player on LIBERO, from nothing but the flags: what each process makes for itself."""
    from colaworld.experiments.libero_goal_tasks import LiberoGoalTasks

    tasks = LiberoGoalTasks(config.manifest, max_steps=config.max_steps)
    return Player(config, tasks, world_of(config) if {"planner", "inverse"} & set(config.rows) else None)


def play(
    job: Job,
    policy: Policy,
    config: EvalConfig,
    tasks: GoalTasks,
    on_step: Callable[[str], Any],
    on_frame: OnFrame = lambda episode, footage: None,
) -> tuple[dict[str, Any], Footage]:
    """One episode as a record for the log, and what was seen."""
    instance, episode = job.instance, describe(job, config)
    outcome, footage = run_episode(
        tasks.open(instance),
        policy,
        seed=episode_seed(job),
        max_steps=config.max_steps,
        on_step=lambda step: on_step(f"{job.name}, step {step + 1}/{config.max_steps}"),
        on_frame=lambda footage: on_frame(episode, footage),
    )
    record = {
        **episode,
        **asdict(outcome),
        "simulator": tasks.simulator(instance) if isinstance(tasks, Simulated) else None,
    }
    return record, footage


def describe(job: Job, config: EvalConfig) -> dict[str, Any]:
    """What is known of an episode before it is played."""
    return {
        "row": job.row,
        "planner": config.planner if job.row == "planner" else None,
        "instance": job.instance.index,
        "category": job.instance.category,
        "scene": job.instance.scene,
        "seed": job.seed,
    }


def pictures_of(record: dict[str, Any], footage: Footage, out: Path) -> dict[str, str]:
    """Write an episode's strip and film; their file names."""
    result = "reached" if record["success"] else "missed"
    distances = f"{100 * record['start_distance']:.1f} cm away, closest {100 * record['best_distance']:.1f} cm"
    what = f"{record['category']} {record['instance']}"
    title = f"{what} ({record['scene']}), {record['planner']}: {result}, {distances}"
    name = f"{record['category']}_{record['instance']:03d}_seed{record['seed']}"
    return write_pictures(footage, out / "pictures", name, title=title)


def make_policies(
    config: EvalConfig, tasks: GoalTasks, loaded: LoadedWorld | None
) -> dict[str, Callable[[GoalInstance], Policy]]:
    """For each row, how to get its policy for an instance."""
    prior = config.prior.prior()
    random = RandomPolicy(prior, steps=config.max_steps, zero_actions=1, kind=config.random_policy)
    makers: dict[str, Callable[[GoalInstance], Policy]] = {
        "random": lambda instance: random,
        "expert": lambda instance: ExpertPolicy(lambda: tasks.expert(instance)),
    }
    if "inverse" in config.rows:
        from colaworld.experiments.inverse_policy import InversePolicy

        world, policy = loaded.world, loaded.goal_models.part("policy")
        inverse = InversePolicy(policy, world.encode, zero_actions=world.context_frames - 1)
        makers["inverse"] = lambda instance: inverse
    if "planner" in config.rows:
        world, models = loaded.world, loaded.goal_models
        propose = make_propose(config, world, models)
        planners = {
            category: PlannerPolicy(make_mpc(config, world, models=models, category=category, propose=propose))
            for category in dict.fromkeys(instance.category for instance in tasks.instances)
        }

        def planner_for(instance: GoalInstance) -> Policy:
            if config.world == "simulator":  # it has to know which simulator is meant
                world.look(tasks.open(instance).unwrapped)
            return planners[instance.category]

        makers["planner"] = planner_for
    return makers


def episode_seed(job: Job) -> int:
    """Its own stream of chance for every episode, whatever else is run or left out."""
    return int(np.random.SeedSequence([job.seed, job.instance.index, *job.row.encode()]).generate_state(1)[0])


def world_of(config: EvalConfig) -> LoadedWorld:
    """The trained system that the flags name, the simulator (seen through that system's codec, if the cost needs its
    latents), or what is plugged in."""
    if is_spec(config.world):
        return plugged_world(config)
    if config.world == "simulator":
        from colaworld.experiments.simulator_world import SimulatorWorld

        if config.objective in ("usual", "pixel", "state") or is_spec(config.objective):
            sees = "state" if config.objective == "state" else "pixels"
            world = SimulatorWorld(sees=sees, workers=config.simulator_workers)
            return LoadedWorld(world=world, checkpoint="simulator")
        loaded = learned_world(config)
        return replace(
            loaded, world=SimulatorWorld(sees="latents", workers=config.simulator_workers, coder=loaded.world)
        )
    return learned_world(config)


def learned_world(config: EvalConfig) -> LoadedWorld:
    """The trained system that the flags name, with its goal models."""
    from colaworld.models.engine import EngineConfig

    engine = EngineConfig(
        dtype=config.dtype,
        compile=config.compile,
        max_memory_mib=config.max_memory_mib,
        common_noise=config.common_noise,
    )
    return load_world(
        config.run,
        preset=config.preset,
        device=config.device,
        steps=config.flow_steps,
        std=config.flow_std,
        guidance=config.guidance,
        snap=config.adapter_snap,
        engine=engine,
        goal_models=config.goal_models or usual_goal_models(config.run, config.preset),
    )
