"""The flags of a study (``study.py``) and the steps that they make: one command of another script each."""

import functools
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from colaworld.adapters import SHIPPED_PRESET
from colaworld.envs.encoded import INDEX
from colaworld.experiments.goal_settings import parts_of_planner
from colaworld.experiments.planning_world import goal_models_beside
from colaworld.experiments.presets import PresetName
from colaworld.experiments.recipes import RECIPES, RecipeName
from colaworld.experiments.study_reads import (
    asked_for,
    changed,
    evaluation,
    held_to_rollouts,
    own_of_rollouts,
    trained_models,
    trained_to,
)
from colaworld.experiments.study_results import (
    BASE,
    CEILING,
    CODEC,
    CORRELATION,
    CORRELATIONS,
    ENCODED,
    FLOORS,
    ROLLOUTS,
    SIMULATOR,
    SNAPPED,
)
from colaworld.experiments.study_steps import Step

SCRIPTS = Path(__file__).parent
GOAL_MODEL_NAMES = ("distance", "progress", "success", "policy", "inverse")
OWN_FLAGS = frozenset(("planner", "world", "run", "rows", "manifest", "episodes", "goal_models", "adapter_snap", "out"))
"""Of ``vp2_eval.py``: what a study itself decides."""
COST_FLAGS = frozenset(
    (
        *("objective", "pixel_weight", "latent_weight", "distance_weight", "progress_weight", "success_weight"),
        *("blur", "last"),
    )
)
"""Of ``vp2_eval.py``: what a plan costs, whoever imagines it."""
Part = Literal["train", "play", "results"]


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Flags of the study."""

    data: tuple[Path, ...]
    """What everything is trained on: recordings (experiments/collect.py)."""
    preset: PresetName = SHIPPED_PRESET
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
    snapped_episodes: int = 0
    """Of CEM once more with the adapter's answers snapped to codes, the paper's way, by the recipes that have codes; 0
    leaves it out."""
    ceiling_episodes: int = 30
    """Of the simulator with the planners' own cost, whose pictures take time; 0 leaves it out."""
    correlation_manifest: str = "libero_goals_dev_v1"
    """Goals of development, on which costs are ranked by how they rank plans (experiments/cost_correlation.py)."""
    correlation_episodes: int = 16
    """Of these, for each recipe with the first seed; 0 leaves it out."""
    training: str = ""
    """Further flags of every training, as one word: --training="--joint.steps 4000 --loop.compile"."""
    base_training: str = ""
    """The same of codec and action-free video model."""
    base: Path | None = None
    """A system whose codec and action-free video model everything starts from, and with --rollouts the distance among
    the goal models beside it: none of these is trained then. adapters/weights/tiny_conv/pretrained ships."""
    codec_init: Path | None = None
    """With --encoded: a system whose codec the codec's training goes on with, of another preset, say; a fresh one when
    not given."""
    goal_training: str = "--fit-config.hidden 96"
    """The same of the goal models (experiments/train_goal_models.py); as wide as those that ship. The first recipe's
    with the first seed are all of them; the others' are what --cost reads, each taught on what its own system imagines,
    or they would judge another's pictures."""
    rollouts: str | None = None
    """Every trained system goes on on its own rollouts before it plays (experiments/train_rollouts.py), read by a
    distance that learned from recorded frames; further flags of that, --rollouts="" for none. They do not when not
    given."""
    reader_training: str = "--fit-config.steps 5000"
    """Flags of that reader's training (experiments/train_goal_models.py)."""
    judge: Literal["own", "reader"] = "own"
    """Whose distance --cost reads: own, that of goal models of the system that plays, taught also on what it imagines;
    or reader, the one that learned from recorded frames alone, the same for every row (--rollouts)."""
    planning: str = "--samples 18 --elite-fraction 0.25 --horizon 5 --replan-every 1"
    """Further flags of every search with a learned model: no more candidates in an episode than the simulator's
    yardstick in the manifest has (32 x 2 every second step), or that would not say what can be reached."""
    cost: str = ""
    """Flags of the cost that all searches share, with a learned model and in the simulator: --cost="--objective
    distance"; pixels when not given."""
    encoded: bool = False
    """Encode the data once with the trained codec (experiments/encode_latents.py): all later stages then learn from
    latents, and spare themselves the codec at every step."""
    encoding: str = ""
    """Further flags of that: --encoding="--crops 4", for stages with a shift."""
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
        some = ("mppi_episodes", "snapped_episodes", "ceiling_episodes", "correlation_episodes")
        for name, bound in {"episodes": 1, "workers": 1, **dict.fromkeys(some, 0)}.items():
            if getattr(self, name) < bound:
                raise ValueError(f"--{name.replace('_', '-')} must be {bound} or more, got {getattr(self, name)}")
        for flag, value in (("--encoding", self.encoding), ("--codec-init", self.codec_init)):
            if value and not self.encoded:
                raise ValueError(f"{flag} {str(value)!r} is of --encoded")
        if self.base is not None:
            own = {"--codec-init": self.codec_init, "--base-training": self.base_training}
            if given := [f"{flag} {str(value)!r}" for flag, value in own.items() if value]:
                raise ValueError(f"{given[0]} is of what --base {self.base} stands for")
        if wrong := own_of_rollouts(self.rollouts or ""):
            raise ValueError(f"--rollouts {self.rollouts!r}: {wrong[0]} is what the study itself decides")
        search, cost = changed(self.planning), changed(self.cost)
        if wrong := sorted(search & COST_FLAGS):
            raise ValueError(f"--planning {self.planning!r}: {wrong[0]} is of --cost, which the simulator's row shares")
        if wrong := sorted(search & OWN_FLAGS):
            raise ValueError(f"--planning {self.planning!r}: {wrong[0]} is what the study itself decides")
        if wrong := sorted(cost - COST_FLAGS):
            raise ValueError(f"--cost {self.cost!r}: {wrong[0]} is of --planning, or of no cost")
        if self.judge == "reader":
            self._check_reader()

    def _check_reader(self) -> None:
        """ValueError when the reader cannot judge: it does not come to be, or knows less than is asked."""
        if self.rollouts is None:
            raise ValueError("--judge reader: without --rollouts there is no reader")
        for flag, flags in (("--cost", self.cost), ("--planning", self.planning)):
            for part, asked in parts_of_planner(evaluation(flags)).items():
                if part != "distance":
                    raise ValueError(f"--judge reader knows a distance alone, and {flag} has {asked}")

    def trainings(self) -> list[Step]:
        """Codec and action-free video model, the recipes from these, and goal models, which also learn from what their
        own system imagines."""
        seen = ("--data", str(self.runs / ENCODED)) if self.encoded else ("--data", *map(str, self.data))
        first = self._first(seen)
        ready = tuple(step.name for step in first[-1:])
        if self.rollouts is not None and self.base is None:  # all wait for it
            base_only = ("distance",), self.reader_training
            first.append(self._goal_models("reader", self.runs / BASE, *base_only, after=BASE))
        each = []  # one system is whole before the next begins: it can play meanwhile
        for seed in self.seeds:
            for recipe in self.recipes:
                name = f"{recipe}-s{seed}"
                start = self.base or self.runs / BASE / "system"
                flags = ("--recipe", recipe, "--loop.seed", str(seed), "--init", str(start))
                each.append(self._training(name, *flags, *shlex.split(self.training), *seen, after=ready))
                each += [] if self.rollouts is None else self._rolled(name, seen)
                each += self._goals_of(name)
        return [*first, *each]

    def _first(self, seen: tuple[str, ...]) -> list[Step]:
        """What every recipe starts from: the last of these steps is what they wait for."""
        data, said = ("--data", *map(str, self.data)), shlex.split(self.base_training)
        codec, encoded = self.runs / CODEC, self.runs / ENCODED
        encoding = Step(
            name=ENCODED,
            command=_script(
                "encode_latents", "--init", self.base or codec, *data, *shlex.split(self.encoding), "--out", encoded
            ),
            left=(encoded / INDEX).is_file,
            after=() if self.base else (CODEC,),
        )
        if self.base is not None:
            return [encoding] if self.encoded else []
        if not self.encoded:
            whole = ("--from-scratch", "--stages", "codec", "pretrain", *said, *data)
            return [self._training(BASE, *whole, to="pretrain")]
        start = ("--init", str(self.codec_init)) if self.codec_init else ("--from-scratch",)
        pretrain = ("--init", str(codec / "system"), "--stages", "pretrain", *said, *seen)
        return [
            self._training(CODEC, *start, "--stages", "codec", *said, *data, to="codec"),
            encoding,
            self._training(BASE, *pretrain, to="pretrain", after=(ENCODED,)),
        ]

    @property
    def reader(self) -> Path:
        """The folder of the distance that learned from recorded frames alone."""
        return goal_models_beside(self.base or self.runs / BASE)

    def _goals_of(self, name: str) -> list[Step]:
        """Goal models of a system: the first's are all that no reader stands in for, others' what planning reads."""
        wanted = set(parts_of_planner(evaluation(self.cost)))
        if name == f"{self.recipes[0]}-s{self.seeds[0]}":
            wanted = set(GOAL_MODEL_NAMES) - ({"inverse"} if self.recipes[0] == "real_actions" else set())
        wanted -= {"distance"} if self.judge == "reader" else set()
        names = tuple(each for each in GOAL_MODEL_NAMES if each in wanted)
        made = self.made_by(name)
        models = self._goal_models(f"goals-{name}", self.system(name), names, self.goal_training, after=made)
        return [models] if names else []

    def _rolled(self, name: str, seen: tuple[str, ...]) -> list[Step]:
        """A system's training on its rollouts, and its evaluation after that."""
        out, seed = self.system(name), name.rpartition("-s")[2]
        said = ("--reader", self.reader, "--loop.seed", seed, *shlex.split(self.rollouts or ""))
        return [
            Step(
                name=self.made_by(name),
                command=_script("train_rollouts", "--run", self.runs / name, *said, *seen, "--out", out),
                left=lambda: held_to_rollouts(out / "system"),
                after=(name, *self._waits_for_reader()),
            ),
            Step(
                name=f"evaluation-{name}",
                command=_script("evaluate", "--run", out, *seen, "--out", out),
                left=(out / "evaluation.json").is_file,
                after=(self.made_by(name),),
            ),
        ]

    def _waits_for_reader(self) -> tuple[str, ...]:
        return () if self.base else ("reader",)

    def system(self, name: str) -> Path:
        """The folder of the run that ends with the system that plays as ``name``."""
        return self.runs / name if self.rollouts is None else self.runs / ROLLOUTS / name

    def made_by(self, name: str) -> str:
        """The step that leaves that system."""
        return name if self.rollouts is None else f"{ROLLOUTS}-{name}"

    def _goal_models(self, name: str, run: Path, names: tuple[str, ...], flags: str, *, after: str) -> Step:
        """Goal models ``names``, beside the system of ``run``. Pictures are encoded anew: recordings have what teaches
        them."""
        out, data = goal_models_beside(run), ("--data", *map(str, self.data))
        words = ("--run", run, *data, "--models", *names, *shlex.split(flags))
        return Step(
            name=name,
            command=_script("train_goal_models", *words),
            left=lambda: trained_models(out) >= set(names),
            after=(after,),
        )

    def _training(self, name: str, *flags: str, after: tuple[str, ...] = (), to: str | None = None) -> Step:
        """A run of ``train_world_model.py``: of a recipe, or alone on all cores ``to`` a stage that recipes need."""
        out = self.runs / name
        command = _script("train_world_model", "--preset", self.preset, *flags, "--out", out)
        if to is not None:
            there = functools.partial(trained_to, out / "system")
            return Step(name=name, command=command, left=lambda: there() == to, after=after, alone=True)
        return Step(name=name, command=command, left=(out / "evaluation.json").is_file, after=after)

    def plays(self) -> list[Step]:
        """Episodes of every system with every planner, of what plans nothing, and of the simulator."""
        first = f"{self.recipes[0]}-s{self.seeds[0]}"
        goals = {step.name for step in self.trainings() if step.name.startswith("goals-")}
        judge = self._judge()
        pixels = ("--objective", "pixel") if evaluation(self.cost).objective == "usual" else ()
        cost = (*shlex.split(self.cost), *pixels, *judge)

        def needs(run: str) -> tuple[str, ...]:
            read = self._waits_for_reader() if judge else {f"goals-{run}"} & goals
            return (self.made_by(run), *read)

        searches = {"cem": ("cem", self.episodes), "mppi": ("mppi", self.mppi_episodes)}
        searches |= {SNAPPED: ("cem", self.snapped_episodes)}
        learned = [
            self._play(
                f"{recipe}-s{seed}-{name}",
                episodes,
                *("--planner", planner, "--rows", "planner", "--run", self.system(f"{recipe}-s{seed}")),
                *(*cost, *shlex.split(self.planning), *(("--adapter-snap", "True") if name == SNAPPED else ())),
                after=needs(f"{recipe}-s{seed}"),
            )
            for name, (planner, episodes) in searches.items()
            for seed in self.seeds
            for recipe in self.recipes
            if episodes and (name != SNAPPED or RECIPES[recipe].has_codes)
        ]
        true = ("--world", "simulator", "--rows", "planner", "--simulator-workers", "1")
        floors = ("--rows", "inverse", "random", "expert", "--run", self.system(first))
        ceiling = self._play(
            CEILING, self.ceiling_episodes, *true, "--run", self.system(first), *cost, after=needs(first)
        )
        return [
            self._play(FLOORS, self.episodes, *floors, after=(self.made_by(first), f"goals-{first}")),
            *learned,
            self._play(SIMULATOR, self.episodes, *true, "--objective", "state"),
            *([ceiling] if self.ceiling_episodes else []),
            *(self._correlation(f"{recipe}-s{self.seeds[0]}", needs) for recipe in self._ranked()),
        ]

    def _judge(self) -> tuple[str, ...]:
        return () if self.judge == "own" else ("--goal-models", str(self.reader))

    def _ranked(self) -> tuple[str, ...]:
        return self.recipes if self.correlation_episodes else ()

    def _correlation(self, run: str, needs: Callable[[str], tuple[str, ...]]) -> Step:
        out, cost, search = self.runs / CORRELATIONS / run, evaluation(self.cost), evaluation(self.planning)
        words = (
            *("--manifest", self.correlation_manifest, "--episodes", self.correlation_episodes),
            *("--run", self.system(run), "--horizon", search.horizon, "--blur", cost.blur),
            *(() if cost.last is None else ("--last", cost.last)),
            *self._judge(),
            *("--out", out),
        )
        return Step(
            name=f"correlation-{run}",
            command=_script("cost_correlation", *words),
            left=(out / CORRELATION).is_file,
            after=needs(run),
        )

    def _play(self, name: str, episodes: int, *flags: object, after: tuple[str, ...] = ()) -> Step:
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


def shown(step: Step) -> str:
    """A step's command as a user would type it in the repository's root."""
    script = Path(step.command[1])
    return shlex.join(["python", f"{script.parent.name}/{script.name}", *step.command[2:]])
