"""What a study's folder of results has kept of plays and evaluations, back into its folder of runs: so it goes on in a
fresh clone, where what has been played is not played again.
"""

import json
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from colaworld.envs.whole_file import whole_file
from colaworld.experiments.episode_log import write_json
from colaworld.experiments.study_results import CORRELATION, CORRELATIONS, EVALUATION, ROLLOUTS
from colaworld.experiments.study_steps import Step

SUMMARY, EPISODES = "summary.json", "episodes.jsonl"


def same(steps: Sequence[Step], known: Collection[str], shown: Callable[[Step], str]) -> set[str]:
    """The steps whose command, as ``shown``, and those of all that they wait for are among the ``known``: what another
    study has kept under the same name is not this one's."""
    named = {step.name: step for step in steps}
    return {
        name for name in named if all(shown(named[each]) in known for each in needed_for(steps, (name,)))
    }


def under_way(
    steps: Sequence[Step], begun: Collection[str], done: Collection[str], shown: Callable[[Step], str]
) -> set[str]:
    """The steps whose command, as ``shown``, is among those ``begun`` and which waited for nothing but the ``done``."""
    return {step.name for step in steps if shown(step) in begun and set(step.after) <= set(done)}


def needed_for(steps: Sequence[Step], names: Collection[str]) -> set[str]:
    """``names`` and all that they waited for, by their names."""
    named, found, waiting = {step.name: step for step in steps}, set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in named and name not in found:
            found.add(name)
            waiting += named[name].after
    return found


def restore(
    results: Path, runs: Path, steps: Collection[str], *, begun: Collection[str] = (), rolled: bool
) -> list[str]:
    """Copy plays, evaluations and correlations of ``steps`` that ``runs`` lacks, and of plays that have ``begun`` the
    episodes, with which they go on; their names. ``rolled``: of systems that went on on their rollouts."""
    found = []
    summary = results / SUMMARY
    told = json.loads(summary.read_text()) if summary.is_file() else {"correlations": {}, "settings": {}}
    for path in sorted(results.glob(f"*_{EPISODES}")):
        name = path.name.removesuffix(f"_{EPISODES}")
        settings = {row: of for key, of in told["settings"].items() for side, row in [key.split("/")] if side == name}
        folder = runs / "plays" / name
        if f"play-{name}" in begun and f"play-{name}" not in steps and settings and not folder.exists():
            folder.mkdir(parents=True)
            write_json(folder / "run.json", {"rows": settings})
            _copy(path, folder / EPISODES)
            found.append(f"{name} as far as it got")
    for path in sorted(results.glob(f"*_{SUMMARY}")):
        name = path.name.removesuffix(f"_{SUMMARY}")
        folder = runs / "plays" / name
        if f"play-{name}" in steps and not folder.exists():
            folder.mkdir(parents=True)
            settings = json.loads(path.read_text())["settings"]
            _copy(results / f"{name}_{EPISODES}", folder / EPISODES)
            write_json(folder / "run.json", {"rows": settings})  # so that vp2_eval.py goes on there with more episodes
            _copy(path, folder / SUMMARY)  # last: it says that the rest is there
            found.append(name)
    for path in sorted(results.glob(f"*_{EVALUATION}")):
        name = path.name.removesuffix(f"_{EVALUATION}")
        written = (runs / ROLLOUTS if rolled else runs) / name / EVALUATION
        if (f"evaluation-{name}" if rolled else name) in steps and not written.exists():
            _copy(path, written)
            found.append(f"evaluation of {name}")
    for name, of in told["correlations"].items():
        written = runs / CORRELATIONS / name / CORRELATION
        if f"correlation-{name}" in steps and not written.exists():
            written.parent.mkdir(parents=True, exist_ok=True)
            write_json(written, of)
            found.append(f"correlation of {name}")
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as partial:
        shutil.copyfile(source, partial)


def still_needed(trainings: Sequence[Step], plays: Sequence[Step]) -> list[Step]:
    """Of the trainings those that a play, or an evaluation, that has not finished waits for."""
    named = {step.name: step for step in (*trainings, *plays)}
    waiting = [step for step in named.values() if not step.left() and (step in plays or "evaluation" in step.name)]
    needed = needed_for(list(named.values()), [step.name for step in waiting])
    return [step for step in trainings if step.name in needed]
