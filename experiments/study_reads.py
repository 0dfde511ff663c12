"""What a study reads: the flags that it hands on, as their scripts will, and what its steps have left."""

import json
import shlex
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import tyro

from colaworld.adapters.goal_models import DESCRIPTION
from colaworld.adapters.system import load_system
from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.train_rollouts import ACCOUNT, RolloutTraining


def evaluation(flags: str) -> EvalConfig:
    """``vp2_eval.py``'s flags, read; SystemExit (2) names one that it does not have."""
    return tyro.cli(tyro.conf.OmitArgPrefixes[EvalConfig], args=shlex.split(flags))


def rolled_out(flags: str) -> RolloutTraining:
    """``train_rollouts.py``'s flags, read; SystemExit (2) names one that it does not have."""
    return tyro.cli(RolloutTraining, args=shlex.split(flags))


def own_of_rollouts(flags: str) -> list[str]:
    """Which of ``train_rollouts.py``'s flags these set that a study itself decides."""
    said, usual = rolled_out(flags), RolloutTraining()
    found = [f"--{name}" for name in ("run", "out", "data", "reader") if getattr(said, name) != getattr(usual, name)]
    return found + (["--loop.seed"] if said.loop.seed != usual.loop.seed else [])


def changed(flags: str) -> set[str]:
    """Which of ``vp2_eval.py``'s flags these set to something that is not the default."""
    usual, said = asdict(EvalConfig()), asdict(evaluation(flags))
    return {name for name, value in said.items() if value != usual[name]}


def trained_to(system: Path) -> str | None:
    """The last stage of a saved system; None where there is none."""
    path = system / "system.json"
    return load_system(system).info.stage if path.is_file() else None


def held_to_rollouts(system: Path) -> bool:
    """Whether a folder holds a system that has finished its training on rollouts."""
    path = system / "system.json"
    return path.is_file() and ACCOUNT in json.loads(path.read_text())


def trained_models(folder: Path) -> set[str]:
    """Which goal models a folder holds."""
    path = folder / DESCRIPTION
    return set(json.loads(path.read_text())["parts"]) if path.is_file() else set()


def asked_for(summary: Path) -> int | None:
    """``--episodes`` of a ``vp2_eval.py`` that has played them all; None where some are still to be played, or were
    lost."""
    if not summary.is_file():
        return None
    told = json.loads(summary.read_text())
    asked, played = told["config"]["episodes"], Counter()
    for each in told["table"]:
        played[each["row"]] += each["episodes"] if each["category"] != "all" else 0
    return asked if all(played[row] >= asked for row in told["config"]["rows"]) else None
