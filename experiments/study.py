"""Train every recipe on one data set and let each plan its way to the goals of one manifest: the tables of a paper.

    python experiments/collect.py --plan play-v1 --out data/play-v1 --workers 2
    python experiments/study.py --data data/play-v1                      # preset tiny: a day on two CPU cores
    python experiments/study.py --data data/play-v1 --preset small --workers 1      # one GPU
    python experiments/study.py --data data/play-v1 --only train         # without the simulator, say on another machine
    python experiments/study.py --data data/play-v1 --only results       # the tables, from what has been played

One codec and one action-free video model, from which every recipe starts with every seed; then the same episodes for
each: CEM and MPPI, beside an inverse model, a random policy, a scripted expert, and the simulator as the world model
with the state's own distance as cost, which says what can be reached, and with the planners' own cost, which says what
a better model could reach. Each part is a command of another script; the
``README.md`` among the results has them, the tables and the curves, ``summary.json`` all numbers.

Kill it at any moment and run the same command: it goes on where it stopped, and writes what has been played. Other
flags for a step that has begun are refused.
"""

import json
import shlex
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from colaworld.adapters.goal_models import DESCRIPTION
from colaworld.adapters.system import load_system
from colaworld.experiments.cli import main
from colaworld.experiments.presets import PresetName
from colaworld.experiments.recipes import RecipeName
from colaworld.experiments.study_page import write_study
from colaworld.experiments.study_results import BASE, CEILING, FLOORS, SIMULATOR, Study
from colaworld.experiments.study_steps import Step, StepsFailed, run_steps

SCRIPTS = Path(__file__).parent
GOAL_MODELS = "goal_models"
GOAL_MODEL_NAMES = ("distance", "progress", "success", "policy")
Part = Literal["train", "play", "results"]


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Flags of the study."""

    data: tuple[Path, ...]
    """What everything is trained on: recordings (experiments/collect.py)."""
    preset: PresetName = "tiny"
    """Sizes of the models."""
    recipes: tuple[RecipeName, ...] = ("cola", "two_stage", "real_actions")
    """What is compared; the first is compared with each of the others and with the simulator."""
    seeds: tuple[int, ...] = (0, 1)
    """Of the trainings; each recipe is trained once with each."""
    manifest: str = "libero_goals_v1"
    """Goal instances that all play."""
    episodes: int = 102
    """Of CEM, the floors and the simulator, taken from the categories in turn."""
    mppi_episodes: int = 30
    """Of MPPI; 0 leaves it out."""
    ceiling_episodes: int = 30
    """Of the simulator with the planners' own cost, whose pictures take time; 0 leaves it out."""
    training: str = ""
    """Further flags of every training, as one word: --training="--joint.steps 4000 --loop.compile"."""
    base_training: str = ""
    """The same of codec and action-free video model."""
    goal_training: str = "--fit-config.hidden 96"
    """The same of the goal models (experiments/train_goal_models.py); as wide as those that ship."""
    planning: str = "--samples 32"
    """Further flags of every search with a learned model. No more candidates than the simulator's yardstick has
    (manifest: 32 in 2 rounds), or it would not say what can be reached."""
    cost: str = ""
    """Flags of the cost that all searches share, with a learned model and in the simulator: --cost="--objective
    distance"."""
    only: tuple[Part, ...] = ("train", "play", "results")
    """Which parts to do."""
    workers: int = 2
    """Commands at once; each gets its share of the cores."""
    runs: Path = Path("runs/study")
    """Where run folders lie."""
    results: Path = Path("results/vp2_libero_v1")
    """Where tables, curves, and every episode's line are kept."""

    def __post_init__(self) -> None:
        for name in ("recipes", "seeds", "only"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"--{name} needs at least one value and none twice, got {list(values)}")
        least = {"episodes": 1, "workers": 1, "mppi_episodes": 0, "ceiling_episodes": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"--{name.replace('_', '-')} must be {bound} or more, got {getattr(self, name)}")

    def trainings(self) -> list[Step]:
        """Codec and action-free video model, the recipes from these, and goal models, which also learn from what the
        first recipe with the first seed imagines; the latents are all recipes' own."""
        data = ("--data", *map(str, self.data))
        base = self.runs / BASE
        first = self._training(
            BASE, "--from-scratch", "--stages", "codec", "pretrain", *shlex.split(self.base_training)
        )
        recipes = [
            self._training(
                f"{recipe}-s{seed}",
                *("--recipe", recipe, "--loop.seed", str(seed), "--init", str(base / "system")),
                *shlex.split(self.training),
                after=(BASE,),
            )
            for seed in self.seeds
            for recipe in self.recipes
        ]
        out, teacher = self.runs / GOAL_MODELS, f"{self.recipes[0]}-s{self.seeds[0]}"
        words = (
            *("--run", self.runs / teacher, *data, "--models", *GOAL_MODEL_NAMES, "--out", out),
            *shlex.split(self.goal_training),
        )
        goals = Step(
            name=GOAL_MODELS,
            command=_script("train_goal_models", *words),
            left=lambda: trained_models(out) >= set(GOAL_MODEL_NAMES),
            after=(teacher,),
        )
        return [first, *recipes, goals]

    def _training(self, name: str, *flags: str, after: tuple[str, ...] = ()) -> Step:
        out = self.runs / name
        command = _script("train_world_model", "--preset", self.preset, *flags, "--data", *self.data, "--out", out)
        if name == BASE:
            return Step(name=name, command=command, left=lambda: trained_to(out / "system") == "pretrain", alone=True)
        return Step(name=name, command=command, left=(out / "evaluation.json").is_file, after=after)

    def plays(self) -> list[Step]:
        """Episodes of every system with every planner, of what plans nothing, and of the simulator."""
        first, goals = self.recipes[0], ("--goal-models", str(self.runs / GOAL_MODELS))
        floors = (
            "--rows",
            "inverse",
            "random",
            "expert",
            "--run",
            str(self.runs / f"{first}-s{self.seeds[0]}"),
            *goals,
        )
        learned = [
            self._play(
                f"{run}-{planner}",
                episodes,
                *("--planner", planner, "--rows", "planner", "--run", str(self.runs / run)),
                *(*goals, *shlex.split(self.cost), *shlex.split(self.planning)),
                after=(run, GOAL_MODELS),
            )
            for planner, episodes in (("cem", self.episodes), ("mppi", self.mppi_episodes))
            for run in (f"{recipe}-s{seed}" for seed in self.seeds for recipe in self.recipes)
            if episodes
        ]
        true = ("--world", "simulator", "--rows", "planner", "--simulator-workers", "1")
        teacher = self.runs / f"{first}-s{self.seeds[0]}"
        same = (*true, "--run", str(teacher), *goals, *shlex.split(self.cost))
        ceiling = self._play(CEILING, self.ceiling_episodes, *same, after=(teacher.name, GOAL_MODELS))
        return [
            self._play(FLOORS, self.episodes, *floors, after=(f"{first}-s{self.seeds[0]}", GOAL_MODELS)),
            *learned,
            self._play(SIMULATOR, self.episodes, *true, "--objective", "state"),
            *([ceiling] if self.ceiling_episodes else []),
        ]

    def _play(self, name: str, episodes: int, *flags: str, after: tuple[str, ...] = ()) -> Step:
        out = self.runs / "plays" / name
        shared = ("--manifest", self.manifest, "--episodes", episodes, "--no-pictures", "--no-inspect", "--out", out)
        return Step(
            name=f"play-{name}",
            command=_script("vp2_eval", *flags, *shared),
            left=lambda: asked_for(out / "summary.json") == episodes,
            after=after,
        )


def _script(name: str, *words: object) -> tuple[str, ...]:
    return (sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, words))


def trained_to(system: Path) -> str | None:
    """The last stage of a saved system; None where there is none."""
    path = system / "system.json"
    return load_system(system).info.stage if path.is_file() else None


def trained_models(folder: Path) -> set[str]:
    """Which goal models a folder holds."""
    path = folder / DESCRIPTION
    return set(json.loads(path.read_text())["parts"]) if path.is_file() else set()


def asked_for(summary: Path) -> int | None:
    """``--episodes`` of a finished ``vp2_eval.py``; None where it has not finished."""
    return json.loads(summary.read_text())["config"]["episodes"] if summary.is_file() else None


def study(config: Annotated[StudyConfig, tyro.conf.arg(name="")]) -> None:
    """Train, play, and write the tables."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its commands end with it
    for path in config.data:
        if not path.exists():
            raise ValueError(
                f"--data: there is no {path}; experiments/collect.py --plan play-v1 --out {path} records it"
            )
    trainings, plays = config.trainings(), config.plays()
    steps = [*(trainings if "train" in config.only else ()), *(plays if "play" in config.only else ())]
    chosen = {step.name for step in steps}
    for step in trainings:
        needs = [each.name for each in steps if step.name in each.after]
        if step.name not in chosen and needs and not step.left():
            raise ValueError(f"{config.runs / step.name} has not been trained, which {needs[0]} needs: --only train")
    steps = [replace(step, after=tuple(name for name in step.after if name in chosen)) for step in steps]
    failure: StepsFailed | None = None
    if steps:
        try:
            run_steps(steps, config.runs / "logs", config.workers)
        except StepsFailed as error:
            failure = error
    if "results" in config.only and not (failure and not played(config)):
        commands = [shown(step) for step in (*trainings, *plays)]
        print(
            f"results: {write_study(Study.read(config.runs, config.recipes, config.seeds), config.results, commands)}"
        )
    if failure is not None:
        sys.exit(f"error: {failure}")


def played(config: StudyConfig) -> bool:
    """Whether there is a play to write of."""
    return any((config.runs / "plays").glob("*/episodes.jsonl"))


def shown(step: Step) -> str:
    """A step's command as a user would type it in the repository's root."""
    script = Path(step.command[1])
    return shlex.join(["python", f"{script.parent.name}/{script.name}", *step.command[2:]])


if __name__ == "__main__":
    main(study)
