"""Train every recipe on one data set and let each plan its way to the goals of one manifest: the tables of a paper.

    python experiments/collect.py --plan play-v1 --out data/play-v1 --workers 2
    python experiments/study.py --data data/play-v1                      # preset tiny_conv: hours on two CPU cores
    python experiments/study.py --data data/play-v1 --base adapters/weights/tiny_conv/pretrained   # from what ships
    python experiments/study.py --data data/play-v1 --preset small --workers 1      # one GPU
    python experiments/study.py --data data/play-v1 --only train         # without the simulator, say on another machine
    python experiments/study.py --data data/play-v1 --only results       # the tables, from what has been played

One codec and one action-free video model, from which every recipe starts with every seed; then the same episodes for
each: CEM and MPPI, beside an inverse model, a random policy, a scripted expert, and the simulator as the world model
with the state's own distance as cost, which says what can be reached, and with the planners' own cost, which says what
a better model could reach. How well each cost ranks plans is measured beside it, on goals of development. Each part is
a command of another script; the ``README.md`` among the results has them, the tables and the curves,
``summary.json`` all numbers.

Kill it at any moment and run the same command: it goes on where it stopped, and writes what has been played. Other
flags for a step that has begun are refused. What ``--results`` holds of the same commands is not played again, in a
fresh clone neither, and a system whose plays are all there is not trained again.
"""

import json
import shlex
import signal
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from colaworld.envs.manifest import load_manifest
from colaworld.experiments.cli import main
from colaworld.experiments.encode_latents import EncodeConfig
from colaworld.experiments.goal_settings import on_yardstick
from colaworld.experiments.study_config import StudyConfig, shown
from colaworld.experiments.study_kept import needed_for, restore, same, still_needed, under_way
from colaworld.experiments.study_page import write_study
from colaworld.experiments.study_reads import evaluation, rolled_out, trained_models, trained_to
from colaworld.experiments.study_results import CODEC, METRICS, Study
from colaworld.experiments.study_steps import Step, StepsFailed, run_steps
from colaworld.experiments.train_config import TrainConfig, preset_defaults


def check_base(config: StudyConfig) -> None:
    """ValueError when what ``--base`` names is not what a study starts from."""
    if (stage := trained_to(config.base)) != "pretrain":
        found = "holds no system" if stage is None else f"has been trained to stage {stage!r}"
        raise ValueError(f"--base {config.base}: {found}; a study starts from one of stage 'pretrain'")
    if config.rollouts is not None and "distance" not in trained_models(config.reader):
        raise ValueError(f"--base {config.base}: --rollouts reads a distance, and {config.reader} has none")


def check_encoded(config: StudyConfig) -> None:
    """ValueError naming a training that asks more of encoded data than they hold, before hours are spent on them."""
    crops = tyro.cli(EncodeConfig, args=shlex.split(config.encoding))
    allowed = {0, crops.crop_pixels} if crops.crops else {0}
    for step in config.trainings():
        if Path(step.command[1]).stem != "train_world_model" or step.name == CODEC:
            continue
        run = tyro.cli(TrainConfig, default=preset_defaults(config.preset), args=step.command[2:])
        if run.recipe == "two_stage" and run.lam_output == "pixel":
            raise ValueError(f"--encoded: {step.name} is to predict pictures (--lam-output pixel)")
        for stage in run.run_stages():
            if (shift := run.stage(stage).shift) not in allowed:
                flag = "--joint" if stage in ("lam", "world") else f"--{stage}"
                wanted = " or ".join(map(str, sorted(allowed)))
                raise ValueError(f"--encoded: {step.name} has {flag}.shift {shift}, its data allow {wanted}")
    if config.rollouts is not None and (shift := rolled_out(config.rollouts).shift) not in allowed:
        wanted = " or ".join(map(str, sorted(allowed)))
        raise ValueError(f"--encoded: --rollouts has --shift {shift}, its data allow {wanted}")


def study(config: Annotated[StudyConfig, tyro.conf.arg(name="")]) -> None:
    """Train, play, and write the tables."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its commands end with it
    for path in config.data:
        if not path.exists():
            raise ValueError(
                f"--data: there is no {path}; experiments/collect.py --plan play-v1 --out {path} records it"
            )
    if config.base is not None:
        check_base(config)
    if config.encoded:
        check_encoded(config)
    if "play" in config.only and config.ceiling_episodes:  # it would be refused hours later
        on_yardstick(evaluation(f"--world simulator {config.cost}"), load_manifest(config.manifest))
    trainings, plays = config.trainings(), config.plays()
    everything, rolled = [*trainings, *plays], config.rollouts is not None
    summary = config.results / "summary.json"
    told = json.loads(summary.read_text()) if summary.is_file() else {}
    kept, logs = same(everything, told.get("finished", []), shown), config.runs / "logs"
    begun = under_way(everything, told.get("commands", []), kept, shown)
    if restored := restore(config.results, config.runs, kept, begun=begun, rolled=rolled):
        print(f"from {config.results}: {', '.join(restored)}")
        remember([step for step in everything if step.name in kept | begun], logs)
    there = needed_for(everything, [step.name for step in everything if step.left()])
    for step in everything:
        if step.name in there:  # also what is gone by now, where something was made of it
            step.check_command(logs)
    if "play" in config.only:
        trainings = still_needed(trainings, plays)
    steps = [*(trainings if "train" in config.only else ()), *(plays if "play" in config.only else ())]
    chosen = {step.name for step in steps}
    for step in trainings:
        needs = [each.name for each in steps if step.name in each.after]
        if step.name not in chosen and needs and not step.left():
            raise ValueError(f"{step.name} has not been trained, which {needs[0]} needs: --only train")
    steps = [replace(step, after=tuple(name for name in step.after if name in chosen)) for step in steps]
    failure: StepsFailed | None = None
    if steps:
        try:
            run_steps(steps, logs, config.workers)
        except StepsFailed as error:
            failure = error
    if "results" in config.only and not (failure and not played(config)):
        there = kept | needed_for(everything, [step.name for step in everything if step.left()])
        finished = [shown(step) for step in everything if step.name in there]
        commands = [shown(step) for step in everything if step.name in there or has_begun(config, step)]
        told = {name: config.results / f"{name}_{METRICS}" for name in kept}
        read = Study.read(config.runs, config.recipes, config.seeds, rolled=rolled, kept=told)
        print(f"results: {write_study(read, config.results, commands, finished)}")
    if failure is not None:
        sys.exit(f"error: {failure}")


def played(config: StudyConfig) -> bool:
    """Whether there is a play to write of."""
    return any((config.runs / "plays").glob("*/episodes.jsonl"))


def remember(steps: Iterable[Step], logs: Path) -> None:
    """That these are what was run, where nothing else is known."""
    logs.mkdir(parents=True, exist_ok=True)
    for step in steps:
        if not (logs / f"{step.name}.json").is_file():
            step.remember_command(logs)


def has_begun(config: StudyConfig, step: Step) -> bool:
    """Whether a step's command has been run, here or as part of an earlier study in the same folder."""
    episodes = config.runs / "plays" / step.name.removeprefix("play-") / "episodes.jsonl"
    return episodes.is_file() or step.ran(config.runs / "logs")


if __name__ == "__main__":
    main(study)
