"""The flags of a training run, and the run folder that they are bound to."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from colaworld.adapters import SHIPPED_PRESET
from colaworld.adapters.action_adapter import AdapterKind
from colaworld.envs.demos import SourceOptions
from colaworld.envs.whole_file import whole_file
from colaworld.experiments.adapter_fit import AdapterFitConfig
from colaworld.experiments.budget import StageCost
from colaworld.experiments.evaluation import EvaluationConfig
from colaworld.experiments.guard import GuardConfig
from colaworld.experiments.held_out import HeldOutConfig
from colaworld.experiments.presets import PRESETS, PresetName
from colaworld.experiments.recipes import (
    LATENT_ACTION_STAGES,
    RECIPES,
    RecipeName,
    StageName,
    latent_action_budgets,
)
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.training import LoopConfig
from colaworld.experiments.video_metrics import VideoMetricsConfig
from colaworld.models.bottleneck import BottleneckKind
from colaworld.models.flow import FlowConfig
from colaworld.models.quantisers import REPLACED


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Flags of a run; they are stored in the run folder, and a resumed run must have the same ones."""

    out: Path = Path("runs/train")
    """The run folder."""
    data: tuple[Path, ...] = ()
    """Recordings or LIBERO's demonstrations (.hdf5), starter folders, LeRobot data sets, folders of .mp4; default: the
    starter data that ship."""
    weights: tuple[float, ...] = ()
    """Expected shares of the clips in a batch, one number for each of --data (3 1: three quarters and one); default:
    every clip of all is drawn alike."""
    source: SourceOptions = SourceOptions()
    preset: PresetName = SHIPPED_PRESET
    """Sizes of the parts, and the defaults of other flags."""
    recipe: RecipeName = "cola"
    """What learns when, and from which gradients; all spend --warmup.steps + --joint.steps before the adapter."""
    from_scratch: bool = False
    """Run every stage; otherwise codec and action-free video model come from --init."""
    init: Path | None = None
    """A system to start from; default: the preset's shipped action-free weights. With --stages codec alone only its
    codec counts, and its preset may be another."""
    stages: tuple[StageName, ...] = ()
    """Only these stages; default: all of the recipe's from scratch, else those after pretrain."""
    share: Path | None = None
    """A folder in which runs that differ in their adapter alone share what comes before it."""
    clip: int = 12
    """Frames in a training clip."""
    bottleneck: BottleneckKind = "vq"
    """What latent actions are squeezed through."""
    tokens: int | None = None
    """Tokens of one latent action; default: the preset's 2."""
    entries: int | None = None
    """Entries of the codebook; default: the preset's 32."""
    code_width: int | None = None
    """Width of an entry; default: the preset's 32."""
    replace_unused: float = 0.0
    """Entries that fewer tokens of a batch name, on a running average over some 50 batches, start anew at a token of
    the batch; 0: none does (the paper). 0.2 keeps twice as many in use here (results/codebook)."""
    lam_output: Literal["latent", "pixel"] = "latent"
    """two_stage: what its forward dynamics model predicts (paper: pixels)."""
    action_labels: float = 0.0
    """Share of the training trajectories whose actions --warmup.action-weight and --joint.action-weight may use."""
    label_fraction: float = 1.0
    """Share of the training trajectories that have actions at all; the smaller shares are parts of the larger."""
    adapter_kind: AdapterKind = "regress"
    """How the adapter answers: a regression to the code vectors (the paper's), a point that is nearest the right code,
    or classes."""
    adapter_context: bool = True
    """Whether the adapter also sees the last frames (the paper's does not)."""
    adapter_snap: bool = False
    """Whether the adapter's latent actions are snapped to the nearest codes (the paper's are)."""
    history: int = 0
    """How many earlier frames the code of a step may see besides its own two."""
    flow: FlowConfig = FlowConfig()
    codec: StageConfig = StageConfig(steps=4600, batch_size=12, learning_rate=2e-3)
    pretrain: StageConfig = StageConfig(steps=3000, batch_size=6, learning_rate=1.5e-3)
    warmup: StageConfig = StageConfig(steps=500)
    joint: StageConfig = StageConfig(steps=2000, learning_rate=1.2e-3, imagined=0.2)
    adapter_fit: AdapterFitConfig = AdapterFitConfig()
    adapter: StageConfig = StageConfig(
        steps=4500, learning_rate=1.2e-3, shift=3, imagined=0.35, through_adapter=0.75, adapter_weight=0.05
    )
    loop: LoopConfig = LoopConfig()
    guard: GuardConfig = GuardConfig()
    stored_as: Literal["float32", "bfloat16"] = "float32"
    """How the finished system is kept; bfloat16 takes half the space, and it is the rounded one that is evaluated and
    that others start from. Checkpoints are never rounded."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Where numbers go besides metrics.jsonl."""
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    evaluation: EvaluationConfig = EvaluationConfig()
    video: VideoMetricsConfig = field(default_factory=VideoMetricsConfig)

    def __post_init__(self) -> None:
        if not 4 <= self.clip <= 16:  # two of context, and what is imagined must itself be the context of a frame
            raise ValueError(f"--clip must lie between 4 and 16 frames, got {self.clip}")
        check_weights(self.weights, len(self.data))
        if self.from_scratch and self.init is not None:
            raise ValueError(f"--from-scratch and --init {self.init} exclude each other")
        if not PRESETS[self.preset].trains_codec and (self.from_scratch or "codec" in self.stages):
            flag = "--from-scratch" if self.from_scratch else "--stages codec"
            raise ValueError(
                f"{flag}: the codec of preset {self.preset!r} is not trained here, it comes with its published "
                "weights; give --init a system that holds them (experiments/published_system.py)"
            )
        unknown = [stage for stage in self.stages if stage not in RECIPES[self.recipe].stages]
        if unknown:
            raise ValueError(
                f"--stages {unknown[0]}: recipe {self.recipe!r} has {', '.join(RECIPES[self.recipe].stages)}"
            )
        if self.recipe == "real_actions" and self.bottleneck != "vq":
            raise ValueError(f"--bottleneck {self.bottleneck} has no use in recipe 'real_actions'")
        if self.replace_unused:
            if self.recipe == "real_actions" or self.bottleneck not in REPLACED or self.replace_unused < 0.0:
                raise ValueError(
                    f"--replace-unused {self.replace_unused}: must be 0, or above with --bottleneck "
                    f"{' or '.join(REPLACED)}, got --bottleneck {self.bottleneck} and recipe {self.recipe!r}"
                )
            if self.loop.parallel == "fsdp":
                raise ValueError("--replace-unused writes a codebook, which --loop.parallel fsdp shards; ddp can")
        if self.loop.parallel == "fsdp" and not all(turn.flow_to_video for turn in RECIPES[self.recipe].turns):
            raise ValueError(
                f"--loop.parallel fsdp cannot keep one of two losses from the video model, as recipe {self.recipe!r} "
                "asks for; ddp can"
            )
        if not 0.0 <= self.action_labels <= 1.0 or not 0.0 < self.label_fraction <= 1.0:
            raise ValueError(
                f"--action-labels must lie in [0, 1] and --label-fraction in (0, 1], "
                f"got {self.action_labels} and {self.label_fraction}"
            )
        if self.action_labels > self.label_fraction:
            raise ValueError(
                f"--action-labels {self.action_labels} asks for what --label-fraction {self.label_fraction} withholds"
            )
        if (self.action_labels > 0.0) != (max(self.warmup.action_weight, self.joint.action_weight) > 0.0):
            raise ValueError(
                "--action-labels and --warmup.action-weight or --joint.action-weight go together, got "
                f"{self.action_labels}, {self.warmup.action_weight} and {self.joint.action_weight}"
            )

    def run_stages(self) -> tuple[StageName, ...]:
        """The stages of this run, in order."""
        stages = RECIPES[self.recipe].stages
        default = stages if self.from_scratch else stages[2:]
        return tuple(stage for stage in stages if stage in (self.stages or default))

    def stage(self, name: StageName) -> StageConfig:
        """A stage's budget."""
        if name in LATENT_ACTION_STAGES:
            return latent_action_budgets(RECIPES[self.recipe], self.warmup, self.joint)[name]
        return getattr(self, name)

    def after(self, costs: Mapping[str, StageCost]) -> "TrainConfig":
        """The same run, given what its stages came to: a prolonged warm-up is paid for by the joint stage."""
        if "warmup" not in costs or costs["warmup"].steps == self.warmup.steps:
            return self
        left = self.warmup.steps + self.joint.steps - costs["warmup"].steps
        imagined = min(1.0, self.joint.imagined * self.joint.steps / max(1, left))
        return replace(
            self,
            warmup=replace(self.warmup, steps=costs["warmup"].steps),
            joint=replace(self.joint, steps=max(0, left), imagined=imagined),
        )


def preset_defaults(name: PresetName) -> TrainConfig:
    """The flags of a run of preset ``name`` where nothing else is said."""
    preset = PRESETS[name]
    return TrainConfig(preset=name, flow=preset.flow, **preset.flags)


def named_preset(arguments: Sequence[str]) -> PresetName:
    """Which preset a command line names, before it is read: the others' defaults depend on it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default=SHIPPED_PRESET)
    named = parser.parse_known_args(list(arguments))[0].preset
    return named if named in PRESETS else SHIPPED_PRESET  # one that is not there is refused with the other flags


def check_weights(weights: Sequence[float], sources: int) -> None:
    """ValueError naming --weights and the value that is none, or a number of them that is not ``sources``'."""
    if not weights:
        return
    said = " ".join(f"{weight:g}" for weight in weights)
    if len(weights) != max(1, sources):
        raise ValueError(f"--weights {said}: {len(weights)} numbers for {max(1, sources)} data sets in --data")
    for weight in weights:
        if not 0.0 <= weight < float("inf"):
            raise ValueError(f"--weights {said}: {weight:g} is no share, it must be 0 or more")
    if not any(weights):
        raise ValueError(f"--weights {said}: one must be above 0")


def check_guard(config: TrainConfig) -> None:
    """ValueError when a warm-up could be prolonged beyond the budget that it shares with joint training."""
    planned, total = config.warmup.steps, config.warmup.steps + config.joint.steps
    if config.guard.action == "extend" and planned * config.guard.most > total:
        raise ValueError(
            f"--guard.most {config.guard.most} times --warmup.steps {planned} is more than the {total} steps of "
            "warm-up and joint training"
        )


def check_same_run(config: TrainConfig) -> None:
    """A run folder belongs to one set of flags; how it logs and reports may change."""
    said, path = binding_flags(config), config.out / "config.json"
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); choose another --out") from error
    before = {"weights": [], "stored_as": "float32", **before}  # older runs had none
    differing = [key for key in said if said[key] != before.get(key)]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{path}: this run was started with {key}={before.get(key)}, not {said[key]}; choose another --out"
        )


def remember_run(config: TrainConfig) -> None:
    """Bind the run folder to the flags, once they have proved to be possible."""
    config.out.mkdir(parents=True, exist_ok=True)
    with whole_file(config.out / "config.json") as partial:
        partial.write_text(json.dumps(binding_flags(config), indent=2) + "\n")


def binding_flags(config: TrainConfig) -> dict[str, object]:
    """The flags that a run's weights depend on, as JSON."""
    said = json.loads(json.dumps(asdict(config), default=str))
    for free in ("gradient_checkpointing", "loader_workers", "parallel", "peak_of"):
        said["loop"].pop(free)
    if config.loop.accumulate == 1:  # as runs were before there was a choice
        said["loop"].pop("accumulate")
    for free in ("trackers", "held_out", "evaluation", "video", "out", "share"):
        said.pop(free)
    if config.flow.ratio == 1.0:  # likewise
        said["flow"].pop("ratio")
    said["source"].pop("stream")  # the same clips
    if config.guard.action != "extend":  # what only watches changes no weight
        said.pop("guard")
    return said
