"""Score planning as VP2 does: reach goal frames in LIBERO, beside an inverse model that plans nothing, a random policy
and a scripted expert.

    python experiments/vp2_eval.py --planner cem                  # every goal instance, the weights that ship
    python experiments/vp2_eval.py --planner cem --episodes 12    # a quick look
    python experiments/vp2_eval.py --manifest libero_goals_v1 --world simulator --objective state   # true rollouts
    python experiments/vp2_eval.py --help

64x64 frames, 2 context frames, at most 15 environment steps, success by the simulator's state at the best step. Each
finished episode is one line of ``episodes.jsonl`` in the results folder; the same command with ``--out`` that folder
goes on where it stopped.
"""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from colaworld.experiments import cli
from colaworld.experiments.episode_crew import describe_lost, play_all
from colaworld.experiments.episode_log import EpisodeLog, key_of, write_json
from colaworld.experiments.episode_player import Job, Player, pictures_of, player_of, world_of
from colaworld.experiments.goal_episode import Footage
from colaworld.experiments.goal_row_settings import row_settings
from colaworld.experiments.goal_search import check_parts
from colaworld.experiments.goal_settings import USUAL_ROWS, EvalConfig, on_yardstick
from colaworld.experiments.goal_tasks import GoalInstance, GoalTasks, choose
from colaworld.experiments.inspector import title_of, write_report
from colaworld.experiments.inspector_episode import pack, save
from colaworld.experiments.inspector_live import LiveReport
from colaworld.experiments.planning_world import LoadedWorld
from colaworld.experiments.plug_in import shown
from colaworld.experiments.provenance import distinct, git_revision, versions
from colaworld.experiments.report import format_results, paired_tests, success_table

EPISODE_STEPS = 15
"""Environment steps of an episode where the tasks do not say (VP2's)."""


def evaluate(
    config: EvalConfig,
    tasks: GoalTasks,
    get_world: Callable[[], LoadedWorld],
    out: Path,
    make_player: Callable[[EvalConfig], Player] | None = None,
) -> Path:
    """Play what is not yet in ``out``, write tables and pictures there, print the table; returns the path of
    ``summary.json``.

    ``get_world`` is only called when the planner or the inverse model is among the rows. Raises ValueError for
    instances that do not exist, a world trained on other frames than the manifest's, flags that it or its goal models
    cannot serve, and an ``out`` made with other settings; FloatingPointError when planning finds only NaN (what was
    finished stays in ``out``).
    """
    config = replace(config, max_steps=config.max_steps or int(tasks.identity.get("episode_steps", EPISODE_STEPS)))
    revision = git_revision()
    instances = choose(tasks, config.categories, config.instances, config.episodes)
    loaded = get_world() if {"planner", "inverse"} & set(config.rows) else None
    models = loaded.goal_models if loaded else None
    config = config.settled(distance=bool(models and models.distance))
    if loaded:
        config = as_made(with_usual_rows(config, loaded), loaded)
        check_fits(tasks, loaded)
        check_parts(config, loaded)
    settings = row_settings(config, tasks.identity, *((loaded.checkpoint, loaded.goal_hashes) if loaded else (None,)))
    player = Player(config, tasks, loaded)  # what cannot be is said before anything is written
    log = EpisodeLog(out, settings)
    jobs = jobs_of(config, instances)
    todo = [job for job in jobs if job.key not in log]
    print(f"{len(todo)} of {len(jobs)} episodes to play, results in {out}", flush=True)
    keys = {job.key for job in jobs}
    with (
        open_live(config, out, log.records(keys), len(jobs)) as live,
        tqdm(total=len(jobs), initial=len(jobs) - len(todo), unit="episode", smoothing=0) as progress,
    ):
        player.on_step = progress.set_postfix_str
        if live:
            player.on_frame = live.step

        def keep(job: Job, played: tuple[dict[str, Any], Footage]) -> None:
            record, footage = played
            if config.inspect:
                save(out, record, pack(footage))
            if job.row == "planner" and config.pictures:
                record["pictures"] = pictures_of(record, footage, out)
            log.append(record)
            if live:
                live.finished(record)
            progress.update()

        try:
            lost = play_all(
                todo,
                # Another process cannot have what is at hand here, and makes its own.
                partial(make_player, config) if make_player else lambda: player,
                workers=config.workers if make_player else 1,
                ray_address=config.ray if make_player else None,
                gpu=config.device.startswith("cuda"),
                on_record=keep,
                on_wait=lambda running: progress.set_postfix_str("; ".join(job.name for job in running)),
            )
        finally:
            if config.world == "simulator" and loaded:
                loaded.world.close()
    order = {job.key: number for number, job in enumerate(jobs)}  # whoever was faster, the summary is the same
    records = sorted(log.records(keys), key=lambda record: order[key_of(record)])
    path = finish(config, settings, revision, records, out)
    if lost:
        sys.exit(f"error: {describe_lost(lost)}; the same command with --out {out} tries again")
    return path


def open_live(
    config: EvalConfig, out: Path, records: list[dict[str, Any]], total: int
) -> AbstractContextManager[LiveReport | None]:
    """The inspector's page on the loopback address, if it is wanted; its address is printed."""
    if not config.live:
        return nullcontext()
    live = LiveReport(out, title=title_of(out), records=records, total=total, port=config.live_port)
    print(f"live report: {live.url}", flush=True)
    return live


def jobs_of(config: EvalConfig, instances: Sequence[GoalInstance]) -> list[Job]:
    """Every episode of the rows; rows without chance are played once."""
    return [
        Job(instance, row, seed)
        for instance in instances
        for row in config.rows
        for seed in (config.seeds[:1] if row in ("inverse", "expert") else config.seeds)
    ]


def with_usual_rows(config: EvalConfig, loaded: LoadedWorld) -> EvalConfig:
    """Without the inverse model's row, where the flags do not choose and there is no such model."""
    if config.rows != USUAL_ROWS or (loaded.goal_models and loaded.goal_models.policy):
        return config
    print("no goal models for this world: the row inverse is left out", flush=True)
    return replace(config, rows=tuple(row for row in USUAL_ROWS if row != "inverse"))


def as_made(config: EvalConfig, loaded: LoadedWorld) -> EvalConfig:
    """Without an ``adapter_snap`` that says what the adapter does anyway: a folder is the same with it and without."""
    adapter = getattr(loaded.world, "adapter", None)
    if adapter is None or config.adapter_snap != adapter.config.snap:
        return config
    return replace(config, adapter_snap=None)


def check_fits(tasks: GoalTasks, loaded: LoadedWorld) -> None:
    """Raise ValueError when the manifest's frames or steps are not like those that the weights learned from."""
    for name in ("render_profile", "height", "width", "frame_skip"):
        learned, wanted = getattr(loaded, name), tasks.identity.get(name)
        if learned is not None and wanted is not None and learned != wanted:
            raise ValueError(f"the weights learned from data of {name} {learned!r}, the manifest's is {wanted!r}")


def finish(
    config: EvalConfig, settings: dict[str, Any], revision: str | None, records: list[dict[str, Any]], out: Path
) -> Path:
    """Compute the tables from the log's records, write ``summary.json``, print."""
    table = success_table(records)
    tests = [*paired_tests(records, "planner", "random"), *paired_tests(records, "planner", "inverse")]
    summary = {
        "table": table,
        "mcnemar": tests,
        "seeds": list(config.seeds),
        "settings": settings,
        "config": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()},
        "versions": versions(),
        "simulators": distinct(record.get("simulator") for record in records),
        "git_revision": revision,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    path = out / "summary.json"
    write_json(path, summary)
    parts = (config.planner,) if config.world == "learned" else (config.planner, config.world, config.objective)
    name = ", ".join(shown(part) for part in parts)
    print(f"\n{format_results(table, tests, name)}\n\nsummary: {path}")
    if config.inspect:
        report = write_report(out, records, title=title_of(out), max_megabytes=config.report_megabytes)
        print(f"every plan beside what happened: {report}")
    if (out / "pictures").is_dir():
        print(f"pictures and films (goal, imagined, executed): {out / 'pictures'}")
    return path


def results_folder(config: EvalConfig) -> Path:
    """``--out``, or a new one named after the planner and the time."""
    name = shown(config.planner).replace(":", "-")
    return config.out or Path("runs/vp2_eval") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def vp2_eval(config: Annotated[EvalConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Plan to goal frames in LIBERO and score it beside policies that plan nothing."""
    # LIBERO is slow to import; a wrong flag should not have to wait for it.
    from colaworld.experiments.libero_goal_tasks import LiberoGoalTasks

    out = results_folder(config)
    tasks = LiberoGoalTasks(config.manifest, max_steps=config.max_steps)
    if config.world == "simulator" and config.yardstick:
        config = on_yardstick(config, tasks.manifest)
        print(f"settings of the yardstick of {tasks.manifest.name}: {json.dumps(tasks.manifest.yardstick)}")
    config = replace(config, out=out)
    try:
        apart = config.ray is not None or (config.workers or 1) > 1
        evaluate(config, tasks, lambda: world_of(config), out, player_of if apart else None)
    finally:
        tasks.close()


if __name__ == "__main__":
    cli.main(vp2_eval)
