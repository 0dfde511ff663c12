"""Flags of ``vp2_eval.py``, each with its meaning, and what of the goal models they ask for.

What they stand for is made elsewhere: planner and prior in ``goal_planners``, the objective in ``goal_objectives``,
proposals in ``goal_proposals``.

Defaults are those of the first table in the README. VP2's own numbers: ``--planner mppi --samples 200 --iterations 1
--horizon 10 --gamma 0.05 --no-normalise --objective pixel --blur 0``, or ``--planner cem --samples 200 --iterations 3
--elite-fraction 0.05 --horizon 10 --objective pixel --blur 0`` (``planning/cem.py`` says how its CEM differs).
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from colaworld.adapters import SHIPPED_PRESET
from colaworld.envs.manifest import Manifest
from colaworld.experiments.goal_planners import PlannerName, code_prior, make_planner, search_prior
from colaworld.experiments.plug_in import is_spec
from colaworld.experiments.plugged_flags import check_flags
from colaworld.planning.distributions import ActionPrior
from colaworld.planning.mpc import MPCConfig
from colaworld.planning.objectives import PixelGoal

Row = Literal["planner", "inverse", "random", "expert"]
USUAL_ROWS: tuple[Row, ...] = ("planner", "inverse", "random", "expert")
ObjectiveName = Literal["usual", "latent", "pixel", "distance", "progress", "success", "vp2", "sum", "state"]
TermName = Literal["pixel", "latent", "distance", "progress", "success"]
"""What may be a term of a sum."""
ProposalName = Literal["none", "policy", "nearest", "idm"]


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

    planner: str = "cem"
    """How actions are searched: cem; icem (coloured noise, elites go on, a shrinking population); mppi; gradient
    (descent through the learned world, --samples restarts); random_shooting; codes (CEM over the codes themselves,
    acted on through the adapter's inverse); or your own, module:factory or path/to/file.py:factory."""
    planner_kwargs: tuple[str, ...] = ()
    """Arguments of your own planner's factory: key=value ..., or one JSON object."""
    world: str = "learned"
    """What imagines: learned, a trained system; simulator, true rollouts from the present state, the yardstick (costs
    that read latents see them through the codec of --run); or your own, module:factory or path/to/file.py:factory."""
    world_kwargs: tuple[str, ...] = ()
    """Arguments of your own world's factory: key=value ..., or one JSON object."""
    yardstick: bool = True
    """Whether --world simulator takes the settings that the manifest was frozen with; off: these flags."""
    workers: int | None = None
    """Episodes played at once, each by a process with tasks and world of its own, or by an actor with --ray. When not
    given, 1 (this process), or as many as the Ray cluster has CPUs. Results do not depend on it."""
    ray: str | None = None
    """Play on a Ray cluster: auto, host:port, ray://host:port, or local for one on this machine."""
    simulator_workers: int = 2
    """Processes that each --world simulator rolls candidates out in."""
    run: Path | None = None
    """Folder of a training run or of a trained system, or hub:OWNER/NAME; the weights that ship when not given."""
    preset: str = SHIPPED_PRESET
    """Which of the presets' shipped weights; not used with --run."""
    manifest: str | None = None
    """Goal instances: a shipped manifest's name or a path; the default manifest when not given."""
    instances: tuple[int, ...] = ()
    """Only these instances of the manifest; all when not given."""
    categories: tuple[str, ...] = ()
    """Only these task categories (reach, push, ...); all when not given."""
    episodes: int | None = None
    """At most this many instances, taken from the categories in turn; all when not given."""
    rows: tuple[Row, ...] = USUAL_ROWS
    """Rows of the table: the planner; the goal-conditioned inverse model, which plans nothing (where there is one, of
    the goal models); a random policy; the scripted expert."""
    seeds: tuple[int, ...] = (0,)
    """Each instance is played once for each seed (inverse and expert, which know no chance, only for the first)."""
    samples: int = 18
    """Candidate action sequences per iteration."""
    iterations: int = 2
    """Rounds of candidates per plan."""
    budget_seconds: float | None = None
    """Seconds per plan instead of --iterations: at least one iteration, and none begins that would overrun. The
    machine then has a say in the results. --iterations counts when not given."""
    final_steps: int | None = None
    """Each search's finalists are imagined again in this many flow steps, and the best by that is executed; off when
    not given."""
    finalists: int = 8
    """How many candidates of the last iteration --final-steps imagines again, besides the best of all."""
    horizon: int = 5
    """Environment steps that are imagined (VP2: 10)."""
    elite_fraction: float = 0.25
    """Share of the candidates that CEM, iCEM and codes refit to (VP2: 0.05)."""
    execute: Literal["best", "mean"] = "best"
    """What CEM, iCEM and codes execute: the best candidate (VP2's), or the middle of the distribution that was refitted
    to the elites, which owes less to a world model's errors. MPPI always executes its mean."""
    keep_elites: float = 0.3
    """Share of iCEM's elites that are candidates again, in the next iteration and, shifted, in the next plan."""
    shrink_population: float = 0.8
    """What is left of iCEM's candidates from one iteration to the next; 1 keeps them all."""
    noise_exponent: float | None = None
    """Colour of the search's noise, its power falling as 1 / f to this (0 white, 1 pink, 2 brown); when not given, 2
    with icem, and otherwise VP2's noise of correlation --beta."""
    gamma: float = 5.0
    """MPPI's inverse temperature (VP2: 0.05 on summed pixel error, with --no-normalise)."""
    normalise: bool = True
    """Whether MPPI divides costs by their standard deviation."""
    learning_rate: float = 0.1
    """Length of a step of --planner gradient, in the unit of the actions (Adam)."""
    gripper: Literal["gaussian", "sign"] = "gaussian"
    """How the gripper's command is searched: like the other actions, or by its sign, which is all that the controller
    reads."""
    gripper_persistence: float = 0.8
    """With --gripper sign: probability that a drawn sign stays from one step to the next; 0 for independent steps."""
    code_smoothing: float = 0.05
    """With --planner codes: how much of every refit stays spread over all codes."""
    propose: ProposalName = "none"
    """What is among each search's first candidates besides: what the inverse model would do; the actions of the
    training segment that is nearest to frame and goal frame; or the code that inverse dynamics (IDM) reads off the
    two, held, through the inverse adapter."""
    proposal_data: tuple[Path, ...] = ()
    """Recordings whose segments --propose nearest takes; the starter data when not given."""
    objective: str = "usual"
    """usual: distance, where a trained system imagines and has learned one, else pixel. Squared distance to the
    goal frame in the codec's latents or in pixels (VP2); of the goal models: distance, the expected distance (cm)
    of the gripper, and of objects where the category moves any, as read off the imagined frames; progress, the
    learned number of steps to the goal; or success, minus the logit of the category's success; vp2: 0.5 of pixel
    and 10 of success, as VP2 (which has --blur 0); sum: all that have a weight; state, of --world simulator only:
    the simulator's own distance to the goal; or your own, module:factory."""
    objective_kwargs: tuple[str, ...] = ()
    """Arguments of your own objective's factory: key=value ..., or one JSON object."""
    blur: float = 4.0
    """Pixels are compared after smoothing by a Gaussian of this many pixels (VP2: 0): sharp ones tell little about how
    far an arm is from a goal that it does not overlap."""
    pixel_weight: float = 1.0
    """Weight of the pixel term of --objective sum."""
    latent_weight: float = 1.0
    """Weight of the latent term of --objective sum."""
    distance_weight: float = 0.0
    """Weight of the distance term of --objective sum."""
    progress_weight: float = 0.0
    """Weight of the progress term of --objective sum."""
    success_weight: float = 0.0
    """Weight of the success term of --objective sum."""
    goal_models: Path | None = None
    """Folder of train_goal_models.py: for --objective distance, progress, success, vp2, --rows inverse, --propose and
    --planner codes. When not given, goal_models in --run, or those that ship."""
    last: int | None = None
    """Only the last frames of a plan count; all when not given, as VP2."""
    replan_every: int = 1
    """Executed actions per plan (VP2: 1)."""
    max_batch: int | None = None
    """At most this many candidates are imagined and costed at once, to save memory; all when not given."""
    max_memory_mib: int | None = None
    """At most as many candidates are imagined at once as by an estimate fit in so many MiB beside the weights; all when
    not given. Their costs (decoded frames, say) are --max-batch's."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the imagination's weights and sums; bfloat16 is for GPUs."""
    compile: bool = False
    """Whether the imagination is compiled (torch.compile; CUDA graphs on a GPU): the first plan waits for it."""
    common_noise: bool = True
    """Whether the candidates of a plan share one noise (with --flow-std), to differ by their actions alone."""
    shrink: bool = False
    """Whether the horizon shrinks to the steps that are left."""
    flow_steps: int = 1
    """Steps in which an imagined frame is integrated."""
    flow_std: float = 0.0
    """Noise where that starts; 0 imagines the mean future."""
    adapter_snap: bool | None = None
    """Whether the adapter's latent actions are snapped to the nearest codes (True, as the paper's are) or are its own
    points between them (False); as it was made when not given."""
    guidance: float = 1.0
    """Weight of the actions against no action in the imagination; 1 is off (paper: 4)."""
    device: str = "cpu"
    """Where the models run, as PyTorch names it: cpu, cuda, cuda:1."""
    warm_start: bool = True
    """Whether each search begins around the last plan, shifted."""
    max_steps: int | None = None
    """Environment steps per episode; the manifest's when not given (VP2: 15)."""
    prior: LiberoPrior = field(default_factory=LiberoPrior)
    """The first distribution of every search, and the random policy's."""
    random_policy: Literal["gaussian", "uniform"] = "gaussian"
    """The random row draws from the planner's prior, or uniformly inside the bounds."""
    out: Path | None = None
    """Results folder; name an old one to go on with it. A new one in runs/vp2_eval when not given."""
    pictures: bool = True
    """Whether strips and films of the planner's episodes are written."""
    inspect: bool = True
    """Whether report.html is written: every episode's frames, plans and imagined futures on one page."""
    report_megabytes: float = 60.0
    """Pictures that would make report.html larger are left out of it, those of successes first."""
    live: bool = False
    """Serve that page on 127.0.0.1 while episodes are played; with --workers or --ray each appears when it is over."""
    live_port: int = 0
    """Where --live serves; 0 takes a free port."""

    def __post_init__(self) -> None:
        counts = ("horizon", "max_steps", "episodes", "max_batch", "max_memory_mib", "flow_steps", "final_steps")
        for name in (*counts, "workers", "simulator_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
        for name in ("rows", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"--{name} needs at least one value and none twice, got {list(values)}")
        if min(self.seeds) < 0:
            raise ValueError(f"--seeds must be 0 or more, got {min(self.seeds)}")
        if not self.report_megabytes > 0:
            raise ValueError(f"--report-megabytes must be positive, got {self.report_megabytes}")
        if not 0 <= self.live_port < 65536:
            raise ValueError(f"--live-port must lie in 0..65535, got {self.live_port}")
        if self.live and not self.inspect:
            raise ValueError("--live serves what --inspect keeps: give it without --no-inspect")
        known = {"planner": get_args(PlannerName), "world": ("learned", "simulator")}
        known |= {"objective": get_args(ObjectiveName)}
        for name, names in known.items():
            value = getattr(self, name)
            if value not in names and not is_spec(value):
                raise ValueError(f"--{name} must be one of {', '.join(names)} or module:factory, got {value!r}")
        check_flags(self)
        simulated = self.world == "simulator"
        if simulated and self.planner in ("gradient", "codes"):
            raise ValueError(f"--planner {self.planner} needs --world learned: a simulator has no gradients or codes")
        if simulated and self.final_steps is not None:
            raise ValueError("--final-steps is of --world learned: a simulator has no flow")
        for name in ("propose", "dtype", "compile", "max_memory_mib", "common_noise", "adapter_snap"):
            if self.world != "learned" and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"--{name.replace('_', '-')} is of --world learned, not of {self.world}")
        if self.planner == "codes" and self.gripper == "sign":
            raise ValueError("--gripper sign is of real actions: --planner codes has no gripper")
        if self.planner == "codes" and self.propose == "policy":
            raise ValueError("--propose policy is of real actions, --planner codes searches codes: use idm or nearest")
        if self.execute == "mean" and self.planner not in ("cem", "icem", "mppi", "codes"):
            raise ValueError(f"--execute mean is of cem, icem and codes, not of {self.planner}")
        if self.planner == "codes" and self.adapter_snap is not None:
            raise ValueError("--adapter-snap is of real actions: --planner codes has no adapter")
        if self.proposal_data and self.propose != "nearest":
            raise ValueError("--proposal-data is of --propose nearest")
        if not self.common_noise and self.max_batch is not None:
            raise ValueError("--no-common-noise draws for all candidates at once: --max-memory-mib, not --max-batch")
        if not simulated and self.objective == "state":
            raise ValueError(f"--world {self.world} has no --objective {self.objective}")
        for name, weight in self.weights().items():
            if not math.isfinite(weight):
                raise ValueError(f"--{name}-weight must be finite, got {weight}")
        if self.objective == "sum" and not any(self.weights().values()):
            raise ValueError("--objective sum needs a weight that is not 0: --pixel-weight, --progress-weight, ...")
        if not is_spec(self.planner):
            make_planner(self)
        PixelGoal(last=self.last, blur=self.blur)
        self.prior.prior()
        if self.planner == "codes":
            code_prior(self, sizes=(2,), rest_codes=(0,))
        search_prior(self)
        self.mpc()

    def settled(self, *, distance: bool) -> "EvalConfig":
        """With an objective in the place of the usual one; ``distance``: whether the system has learned that."""
        if self.objective != "usual":
            return self
        return replace(self, objective="distance" if distance and self.world == "learned" else "pixel")

    def weights(self) -> dict[str, float]:
        """Of the terms of --objective sum, by their names."""
        return {name: getattr(self, f"{name}_weight") for name in get_args(TermName)}

    def mpc(self) -> MPCConfig:
        """Of the receding horizon."""
        return MPCConfig(
            horizon=self.horizon,
            replan_every=self.replan_every,
            max_batch=self.max_batch,
            warm_start=self.warm_start,
            episode_steps=self.max_steps if self.shrink else None,
            budget_seconds=self.budget_seconds,
            finalists=self.finalists,
        )


def on_yardstick(config: EvalConfig, manifest: Manifest) -> EvalConfig:
    """``config`` with the planning settings that ``manifest`` was frozen with.

    Raises ValueError for a manifest without them, for settings that this version does not know, and for a flag that
    says something else.
    """
    where = f"the yardstick of goal manifest {manifest.name}"
    if not manifest.yardstick:
        raise ValueError(f"{where} is missing; give --no-yardstick to plan in the simulator with flags of your own")
    usual = EvalConfig()
    try:
        settings = dict(manifest.yardstick)
        prior = LiberoPrior(**settings.pop("prior"))
        frozen = replace(usual, **settings, prior=prior)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} has settings that this version does not know: {error}") from error
    newer = {name: getattr(usual, name) for name in ("gripper", "noise_exponent", "budget_seconds")}
    fixed = newer | {name: getattr(frozen, name) for name in settings} | {"prior": frozen.prior, "shrink": False}
    for name, value in fixed.items():
        if getattr(config, name) not in (getattr(usual, name), value):
            otherwise = "the flags say otherwise; give --no-yardstick to change it"
            raise ValueError(f"{where} has {name} = {value!r}, {otherwise}")
    if config.max_steps not in (None, manifest.episode_steps):
        raise ValueError(f"{where} is for {manifest.episode_steps} steps; give --no-yardstick to change --max-steps")
    return replace(config, **fixed)


def parts_of_planner(config: EvalConfig) -> dict[str, str]:
    """The parts of the goal models that planning reads, and the flag that asks for each."""
    weights = config.weights() if config.objective == "sum" else {}
    parts = {}
    for name in ("distance", "progress"):
        if config.objective == name or weights.get(name):
            parts[name] = f"--objective {config.objective}"
    if config.objective in ("success", "vp2") or weights.get("success"):
        parts["success"] = f"--objective {config.objective}"
    if config.propose == "policy":
        parts["policy"] = "--propose policy"
    if config.propose == "idm":
        parts["inverse"] = "--propose idm"
    if config.planner == "codes":
        parts["inverse"] = "--planner codes"
    return parts


def parts_of_rows(config: EvalConfig) -> dict[str, str]:
    """The same for all rows."""
    parts = parts_of_planner(config) if "planner" in config.rows else {}
    return {"policy": "--rows inverse", **parts} if "inverse" in config.rows else parts
