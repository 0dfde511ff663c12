"""Flags of ``vp2_eval.py``, each with its meaning, and the planner, objective and action prior that they stand for.

Defaults fit two CPU cores. VP2's own numbers: ``--planner mppi --samples 200 --iterations 1 --horizon 10 --gamma 0.05
--no-normalise --blur 0``, or ``--planner cem --samples 200 --iterations 3 --elite-fraction 0.05 --horizon 10 --blur 0``.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from colaworld.planning.cem import CEM
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.mpc import MPCConfig
from colaworld.planning.mppi import MPPI
from colaworld.planning.objectives import LatentGoal, PixelGoal, WeightedSum
from colaworld.planning.protocols import Objective, Planner
from colaworld.planning.random_shooting import RandomShooting

Row = Literal["planner", "random", "expert"]


@dataclass(frozen=True, kw_only=True)
class LiberoPrior:
    """What planner and random policy believe of a LIBERO action before looking: mean 0, bounds [-1, 1], and these
    spreads.
    """

    std_position: float = 0.5
    """Standard deviation of the three position deltas (1 asks for 5 cm per control step)."""
    std_rotation: float = 0.0
    """Standard deviation of the three rotation deltas; 0 keeps the gripper pointing as it does."""
    std_gripper: float = 0.5
    """Standard deviation of the gripper command (its sign opens or closes)."""
    beta: float = 0.5
    """Correlation of the noise from one step to the next, as in VP2; 0 for independent steps."""

    def prior(self) -> ActionPrior:
        """Over ``(7,)``: x, y, z, three rotations, gripper."""
        std = (self.std_position,) * 3 + (self.std_rotation,) * 3 + (self.std_gripper,)
        return ActionPrior(mean=(0.0,) * 7, std=std, low=(-1.0,) * 7, high=(1.0,) * 7, beta=self.beta)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Plan to goal frames in LIBERO and score it. Raises ValueError naming a flag that cannot be."""

    planner: Literal["cem", "mppi", "random_shooting"] = "cem"
    """How actions are searched."""
    run: Path | None = None
    """Folder of a training run or of a trained system; the weights that ship when not given."""
    preset: str = "tiny"
    """Which of the presets' shipped weights; not used with --run."""
    manifest: str | None = None
    """Goal instances: a shipped manifest's name or a path; the default manifest when not given."""
    instances: tuple[int, ...] = ()
    """Only these instances of the manifest; all when not given."""
    categories: tuple[str, ...] = ()
    """Only these task categories (reach, push); all when not given."""
    episodes: int | None = None
    """At most this many instances, taken from the categories in turn; all when not given."""
    rows: tuple[Row, ...] = ("planner", "random", "expert")
    """Rows of the table: the planner, a random policy, the scripted expert."""
    seeds: tuple[int, ...] = (0,)
    """Each instance is played once for each seed (the expert, which knows no chance, only for the first)."""
    samples: int = 64
    """Candidate action sequences per iteration."""
    iterations: int = 2
    """Rounds of candidates per plan."""
    horizon: int = 4
    """Environment steps that are imagined (VP2: 10)."""
    elite_fraction: float = 0.1
    """Share of the candidates that CEM refits to (VP2: 0.05)."""
    gamma: float = 5.0
    """MPPI's inverse temperature (VP2: 0.05 on summed pixel error, with --no-normalise)."""
    normalise: bool = True
    """Whether MPPI divides costs by their standard deviation."""
    objective: Literal["latent", "pixel", "sum"] = "pixel"
    """Squared distance to the goal frame in the codec's latents, in pixels (VP2), or their weighted sum."""
    blur: float = 4.0
    """Pixels are compared after smoothing by a Gaussian of this many pixels (VP2: 0): sharp ones tell little about how far an
    arm is from a goal that it does not overlap."""
    pixel_weight: float = 1.0
    """Weight of the pixel term of --objective sum."""
    latent_weight: float = 1.0
    """Weight of the latent term of --objective sum."""
    last: int | None = None
    """Only the last frames of a plan count; all when not given, as VP2."""
    max_batch: int | None = None
    """At most this many candidates are imagined at once, to save memory; all when not given."""
    shrink: bool = False
    """Whether the horizon shrinks to the steps that are left."""
    flow_steps: int = 1
    """Steps in which an imagined frame is integrated."""
    flow_std: float = 0.0
    """Noise where that starts; 0 imagines the mean future."""
    guidance: float = 1.0
    """Weight of the actions against no action in the imagination; 1 is off (paper: 4)."""
    device: str = "cpu"
    """Where the models run, as PyTorch names it: cpu, cuda, cuda:1."""
    warm_start: bool = True
    """Whether each search begins around the last plan, shifted."""
    max_steps: int = 15
    """Environment steps per episode."""
    prior: LiberoPrior = field(default_factory=LiberoPrior)
    """The first distribution of every search, and the random policy's."""
    random_policy: Literal["gaussian", "uniform"] = "gaussian"
    """The random row draws from the planner's prior, or uniformly inside the bounds."""
    out: Path | None = None
    """Results folder; name an old one to go on with it. A new one in runs/vp2_eval when not given."""
    pictures: bool = True
    """Whether strips and films of the planner's episodes are written."""

    def __post_init__(self) -> None:
        for name in ("horizon", "max_steps", "episodes", "max_batch", "flow_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
        for name in ("rows", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"--{name} needs at least one value and none twice, got {list(values)}")
        if min(self.seeds) < 0:
            raise ValueError(f"--seeds must be 0 or more, got {min(self.seeds)}")
        make_planner(self)
        make_objective(self)
        self.prior.prior()

    def mpc(self) -> MPCConfig:
        """Of the receding horizon."""
        return MPCConfig(
            horizon=self.horizon,
            max_batch=self.max_batch,
            warm_start=self.warm_start,
            episode_steps=self.max_steps if self.shrink else None,
        )


def make_planner(config: EvalConfig) -> Planner:
    """The planner that the flags name; raises ValueError for an empty budget."""
    if config.planner == "cem":
        return CEM(samples=config.samples, iterations=config.iterations, elite_fraction=config.elite_fraction)
    if config.planner == "mppi":
        return MPPI(
            samples=config.samples, iterations=config.iterations, gamma=config.gamma, normalise=config.normalise
        )
    return RandomShooting(samples=config.samples, iterations=config.iterations)


def make_objective(config: EvalConfig) -> Objective:
    """The objective that the flags name."""
    pixel, latent = PixelGoal(last=config.last, blur=config.blur), LatentGoal(last=config.last)
    if config.objective == "pixel":
        return pixel
    if config.objective == "latent":
        return latent
    return WeightedSum(terms=(pixel, latent), weights=(config.pixel_weight, config.latent_weight))


def row_settings(
    config: EvalConfig, tasks_identity: dict[str, Any], checkpoint: str | None
) -> dict[str, dict[str, Any]]:
    """For each row, everything that its episodes depend on; a run folder is bound to it."""
    shared = {**tasks_identity, "max_steps": config.max_steps}
    prior = {f"prior.{name}": value for name, value in asdict(config.prior).items()}
    planning = {
        "planner": asdict(make_planner(config)),
        "objective": config.objective,
        "last": config.last,
        # How many candidates fit in memory at once changes no result.
        "mpc": asdict(replace(config.mpc(), max_batch=None)),
        "flow": {"steps": config.flow_steps, "std": config.flow_std, "guidance": config.guidance},
        "checkpoint": checkpoint,
    }
    if config.objective != "latent":
        planning |= {"blur": config.blur}
    if config.objective == "sum":
        planning |= {"pixel_weight": config.pixel_weight, "latent_weight": config.latent_weight}
    settings = {
        "planner": {**shared, **prior, **planning},
        "random": {**shared, **prior, "random_policy": config.random_policy},
        "expert": shared,
    }
    return {row: settings[row] for row in config.rows}
