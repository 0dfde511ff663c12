"""Score planning as VP2 does: reach goal frames in LIBERO, beside a random policy and a scripted expert.

    python experiments/vp2_eval.py --planner cem                  # every goal instance, the weights that ship
    python experiments/vp2_eval.py --planner cem --episodes 12    # a quick look
    python experiments/vp2_eval.py --help

64x64 frames, 2 context frames, at most 15 environment steps, success by the simulator's state at the best step. Each
finished episode is one line of ``episodes.jsonl`` in the results folder; the same command with ``--out`` that folder
goes on where it stopped.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from tqdm import tqdm

from colaworld.experiments import cli
from colaworld.experiments.episode_log import EpisodeLog, Key, write_json
from colaworld.experiments.goal_episode import run_episode
from colaworld.experiments.goal_policies import ExpertPolicy, PlannerPolicy, Policy, RandomPolicy
from colaworld.experiments.goal_settings import EvalConfig, make_objective, make_planner, row_settings
from colaworld.experiments.goal_tasks import GoalInstance, GoalTasks, choose
from colaworld.experiments.planning_world import LoadedWorld, load_world
from colaworld.experiments.provenance import git_revision, versions
from colaworld.experiments.report import format_results, paired_tests, success_table, write_pictures
from colaworld.planning.mpc import MPC


def evaluate(config: EvalConfig, tasks: GoalTasks, get_world: Callable[[], LoadedWorld], out: Path) -> Path:
    """Play what is not yet in ``out``, write tables and pictures there, print the table; returns the path of
    ``summary.json``.

    ``get_world`` is only called when the planner is among the rows. Raises ValueError for instances that do not
    exist, a world trained on other frames than the manifest's, and an ``out`` made with other settings;
    FloatingPointError when planning finds only NaN (what was finished stays in ``out``).
    """
    instances = choose(tasks, config.categories, config.instances, config.episodes)
    loaded = get_world() if "planner" in config.rows else None
    check_fits(tasks, loaded)
    settings = row_settings(config, dict(tasks.identity), loaded.checkpoint if loaded else None)
    policies = make_policies(config, tasks, loaded)
    log = EpisodeLog(out, settings)
    jobs = [
        Job(instance, row, seed)
        for instance in instances
        for row in config.rows
        for seed in (config.seeds[:1] if row == "expert" else config.seeds)
    ]
    todo = [job for job in jobs if job.key not in log]
    print(f"{len(todo)} of {len(jobs)} episodes to play, results in {out}", flush=True)
    with tqdm(total=len(jobs), initial=len(jobs) - len(todo), unit="episode", smoothing=0) as progress:
        for job in todo:
            log.append(play(job, policies[job.row](job.instance), config, tasks, out, progress))
            progress.update()
    return finish(config, settings, log.records({job.key for job in jobs}), out)


class Job(NamedTuple):
    """One episode to play."""

    instance: GoalInstance
    row: str
    seed: int

    @property
    def key(self) -> Key:
        """As the log knows it."""
        return self.row, self.instance.index, self.seed


def play(job: Job, policy: Policy, config: EvalConfig, tasks: GoalTasks, out: Path, progress: tqdm) -> dict[str, Any]:
    """One episode as a record for the log, its pictures written."""
    instance = job.instance
    label = f"{instance.category} {instance.index}, {job.row}"
    outcome, footage = run_episode(
        tasks.open(instance),
        policy,
        seed=episode_seed(job),
        max_steps=config.max_steps,
        on_step=lambda step: progress.set_postfix_str(f"{label}, step {step + 1}/{config.max_steps}"),
    )
    record = {
        "row": job.row,
        "planner": config.planner if job.row == "planner" else None,
        "instance": instance.index,
        "category": instance.category,
        "scene": instance.scene,
        "seed": job.seed,
        **asdict(outcome),
    }
    if job.row == "planner" and config.pictures:
        result = "reached" if outcome.success else "missed"
        distances = f"{100 * outcome.start_distance:.1f} cm away, closest {100 * outcome.best_distance:.1f} cm"
        title = f"{instance.category} {instance.index} ({instance.scene}), {config.planner}: {result}, {distances}"
        name = f"{instance.category}_{instance.index:03d}_seed{job.seed}"
        record["pictures"] = write_pictures(footage, out / "pictures", name, title=title)
    return record


def make_policies(
    config: EvalConfig, tasks: GoalTasks, loaded: LoadedWorld | None
) -> dict[str, Callable[[GoalInstance], Policy]]:
    """For each row, how to get its policy for an instance."""
    prior = config.prior.prior()
    context = loaded.world.context_frames if loaded else 2
    random = RandomPolicy(prior, steps=config.max_steps, zero_actions=context - 1, kind=config.random_policy)
    makers: dict[str, Callable[[GoalInstance], Policy]] = {
        "random": lambda instance: random,
        "expert": lambda instance: ExpertPolicy(lambda: tasks.expert(instance)),
    }
    if loaded:
        mpc = MPC(loaded.world, make_planner(config), make_objective(config), prior=prior, config=config.mpc())
        planner = PlannerPolicy(mpc)
        makers["planner"] = lambda instance: planner
    return makers


def check_fits(tasks: GoalTasks, loaded: LoadedWorld | None) -> None:
    """Raise ValueError when the manifest's frames or steps are not like those that the weights learned from."""
    for name in ("render_profile", "height", "width", "frame_skip"):
        learned, wanted = getattr(loaded, name, None), tasks.identity.get(name)
        if learned is not None and wanted is not None and learned != wanted:
            raise ValueError(f"the weights learned from data of {name} {learned!r}, the manifest's is {wanted!r}")


def episode_seed(job: Job) -> int:
    """Its own stream of chance for every episode, whatever else is run or left out."""
    return int(np.random.SeedSequence([job.seed, job.instance.index, *job.row.encode()]).generate_state(1)[0])


def finish(config: EvalConfig, settings: dict[str, Any], records: list[dict[str, Any]], out: Path) -> Path:
    """Compute the tables from the log's records, write ``summary.json``, print."""
    table = success_table(records)
    tests = paired_tests(records, "planner", "random")
    summary = {
        "table": table,
        "mcnemar": tests,
        "seeds": list(config.seeds),
        "settings": settings,
        "config": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()},
        "versions": versions(),
        "git_revision": git_revision(),
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    path = out / "summary.json"
    write_json(path, summary)
    print(f"\n{format_results(table, tests, config.planner)}\n\nsummary: {path}")
    if (out / "pictures").is_dir():
        print(f"pictures and films (goal, imagined, executed): {out / 'pictures'}")
    return path


def world_of(config: EvalConfig) -> LoadedWorld:
    """The trained system that the flags name."""
    return load_world(
        config.run,
        preset=config.preset,
        device=config.device,
        steps=config.flow_steps,
        std=config.flow_std,
        guidance=config.guidance,
    )


def vp2_eval(config: Annotated[EvalConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Plan to goal frames in LIBERO and score it beside a random policy and a scripted expert."""
    # LIBERO is slow to import; a wrong flag should not have to wait for it.
    from colaworld.experiments.libero_goal_tasks import LiberoGoalTasks

    out = config.out or Path("runs/vp2_eval") / f"{config.planner}-{datetime.now():%Y%m%d-%H%M%S}"
    config = replace(config, out=out)
    tasks = LiberoGoalTasks(config.manifest, max_steps=config.max_steps)
    try:
        evaluate(config, tasks, lambda: world_of(config), out)
    finally:
        tasks.close()


if __name__ == "__main__":
    cli.main(vp2_eval)
