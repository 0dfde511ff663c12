"""Train a CoLA world model: codec, action-free video model, warm-up, joint training, adapter.

    python experiments/train_world_model.py                    # warm-up, joint and adapter from the shipped action-free weights
    python experiments/train_world_model.py --from-scratch     # every stage
    python experiments/train_world_model.py --data my.hdf5     # your own recordings (experiments/collect.py)

Kill it at any moment and run the same command: it goes on from its last checkpoint (two minutes old at most).
"""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from diffusers.configuration_utils import ConfigMixin

from colaworld.adapters.system import ColaSystem, load_system, weights_path
from colaworld.envs.demos import ClipDataset, starter_path
from colaworld.experiments.adapter_fit import AdapterFitConfig, fit_adapter
from colaworld.experiments.batches import fixed_batch
from colaworld.experiments.cli import main
from colaworld.experiments.held_out import HeldOutConfig, report_held_out
from colaworld.experiments.presets import PRESETS, PresetName, build
from colaworld.experiments.stages import STAGES, StageConfig, StageName
from colaworld.experiments.training import Data, LoopConfig, make_accelerator, read_progress, train_stage
from colaworld.models.flow import FlowConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Flags of a run; they are stored in the run folder, and a resumed run must have the same ones."""

    out: Path = Path("runs/train")
    """The run folder."""
    data: tuple[Path, ...] = ()
    """Recordings (.hdf5) or starter folders; default: the starter data that ship."""
    preset: PresetName = "tiny"
    """Sizes of the parts."""
    from_scratch: bool = False
    """Run every stage; otherwise codec and action-free video model come from --init."""
    init: Path | None = None
    """A system to start from; default: the preset's shipped action-free weights."""
    stages: tuple[StageName, ...] = ()
    """Only these stages; default: all of them from scratch, else warmup, joint and adapter."""
    clip: int = 12
    """Frames in a training clip."""
    bottleneck: Literal["vq", "continuous"] = "vq"
    """What latent actions are squeezed through."""
    adapter_context: bool = True
    """Whether the adapter also sees the last frames (the paper's does not)."""
    adapter_snap: bool = False
    """Whether the adapter's latent actions are snapped to the nearest codes (the paper's are)."""
    history: int = 0
    """How many earlier frames the code of a step may see besides its own two."""
    flow: FlowConfig = FlowConfig()
    codec: StageConfig = StageConfig(steps=4600, batch_size=12, learning_rate=2e-3)
    pretrain: StageConfig = StageConfig(steps=3000, batch_size=6, learning_rate=1.5e-3)
    warmup: StageConfig = StageConfig(steps=500, batch_size=8)
    joint: StageConfig = StageConfig(steps=2000, learning_rate=1.2e-3, imagined=0.2)
    adapter_fit: AdapterFitConfig = AdapterFitConfig()
    adapter: StageConfig = StageConfig(
        steps=4500, learning_rate=1.2e-3, shift=3, imagined=0.35, through_adapter=0.75, adapter_weight=0.05
    )
    loop: LoopConfig = LoopConfig()
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Where numbers go besides metrics.jsonl."""
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)

    def __post_init__(self) -> None:
        if not 4 <= self.clip <= 16:  # two of context, and what is imagined must itself be the context of a frame
            raise ValueError(f"--clip must lie between 4 and 16 frames, got {self.clip}")
        if self.from_scratch and self.init is not None:
            raise ValueError(f"--from-scratch and --init {self.init} exclude each other")

    def run_stages(self) -> tuple[StageName, ...]:
        """The stages of this run, in order."""
        default = STAGES if self.from_scratch else STAGES[2:]
        return tuple(stage for stage in STAGES if stage in (self.stages or default))

    def stage(self, name: StageName) -> StageConfig:
        """A stage's budget."""
        return getattr(self, name)


def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> None:
    """Train, then report on held-out clips."""
    sources = config.data or (starter_path(),)
    train_clips = ClipDataset(sources, length=config.clip, split="train")
    held_out_clips = ClipDataset(sources, length=config.clip, split="validation")
    check_same_run(config)
    torch.manual_seed(config.loop.seed)
    system = starting_system(config, train_clips)
    remember_run(config)
    accelerator = make_accelerator(config.out, config.loop, list(config.trackers))
    for part in system.parts().values():
        part.to(accelerator.device)
    data = Data(
        train=train_clips,
        watched_train=fixed_batch(train_clips, 48, seed=1).to(accelerator.device),
        held_out=fixed_batch(held_out_clips, 32, seed=2).to(accelerator.device),
    )
    finished, steps_before = finished_stages(config), 0
    for stage in config.run_stages():
        if stage not in finished:
            if stage == "adapter" and config.adapter_fit.steps and read_progress(config.out)[0] != "adapter":
                fitted = fit_adapter(
                    system, train_clips.episodes, held_out_clips.episodes, config.adapter_fit, seed=config.loop.seed
                )
                accelerator.print("adapter fitted, held out:", *(f"{key} {value:.3f}" for key, value in fitted.items()))
            system = train_stage(
                accelerator,
                system,
                stage,
                config.stage(stage),
                config.loop,
                data,
                config.out,
                steps_before=steps_before,
            )
        steps_before += config.stage(stage).steps
    accelerator.end_training()
    if accelerator.is_main_process:
        report_held_out(system, held_out_clips.episodes, config.held_out, config.out / "held_out")
        accelerator.print(f"system: {config.out / 'system'}   metrics: {config.out / 'metrics.jsonl'}")


def check_same_run(config: TrainConfig) -> None:
    """A run folder belongs to one set of flags; how it logs and reports may change."""
    said, path = binding_flags(config), config.out / "config.json"
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); choose another --out") from error
    differing = [key for key in said if said[key] != before.get(key)]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{path}: this run was started with {key}={before.get(key)}, not {said[key]}; choose another --out"
        )


def remember_run(config: TrainConfig) -> None:
    """Bind the run folder to the flags, once they have proved to be possible."""
    config.out.mkdir(parents=True, exist_ok=True)
    partial = config.out / "config.partial"
    partial.write_text(json.dumps(binding_flags(config), indent=2) + "\n")
    os.replace(partial, config.out / "config.json")


def binding_flags(config: TrainConfig) -> dict[str, object]:
    """The flags that a run's weights depend on, as JSON."""
    said = json.loads(json.dumps(asdict(config), default=str))
    for free in ("trackers", "held_out", "out"):
        said.pop(free)
    return said


def finished_stages(config: TrainConfig) -> tuple[StageName, ...]:
    """Stages whose weights the run's ``system/`` holds already."""
    if not (config.out / "system" / "system.json").is_file():
        return ()
    done = load_system(config.out / "system").info.stage
    stages = config.run_stages()
    return stages[: stages.index(done) + 1]


def starting_system(config: TrainConfig, clips: ClipDataset) -> ColaSystem:
    """A fresh system with whatever is already trained put in: the run's own parts, or those of ``--init``."""
    fresh = build(
        PRESETS[config.preset],
        height=clips.height,
        width=clips.width,
        frame_skip=clips.frame_skip,
        action_dim=clips.action_dim,
        render_profile=clips.render_profile,
        bottleneck=config.bottleneck,
        adapter_context=config.adapter_context,
        adapter_snap=config.adapter_snap,
        history=config.history,
        clip=config.clip,
        flow=config.flow,
    )
    finished = finished_stages(config)
    if finished:
        source = config.out / "system"
    elif config.from_scratch:
        return fresh
    else:
        source = config.init or weights_path(config.preset, "pretrained")
    trained = load_system(source)
    for name in ("preset", "height", "width", "frame_skip", "action_dim", "render_profile"):
        wanted, found = getattr(fresh.info, name), getattr(trained.info, name)
        if wanted != found:
            raise ValueError(f"{source}: {name} is {found!r}, but the data and flags of this run say {wanted!r}")
    check_parts(source, trained, fresh)
    check_turn(source, trained.info.stage, [stage for stage in config.run_stages() if stage not in finished])
    return replace(fresh, **trained.parts(), info=replace(fresh.info, stage=trained.info.stage))


def check_parts(source: Path, trained: ColaSystem, fresh: ColaSystem) -> None:
    """ValueError when a trained part is not of the kind or size that the flags ask for."""
    for name, part in trained.parts().items():
        wanted, found = public_config(getattr(fresh, name)), public_config(part)
        for key, value in found.items():
            if wanted.get(key) != value:
                raise ValueError(
                    f"{source}: {key} of its {name} is {value!r}, but the flags of this run say {wanted.get(key)!r}"
                )


def check_turn(source: Path, trained: StageName, left: list[StageName]) -> None:
    """ValueError when the first stage that is left has another untrained one before it."""
    if left and STAGES.index(trained) < STAGES.index(left[0]) - 1:
        before = STAGES[STAGES.index(left[0]) - 1]
        raise ValueError(
            f"{source} has been trained to stage {trained!r}, but stage {left[0]!r} begins after {before!r}"
        )


def public_config(part: ConfigMixin) -> dict[str, object]:
    """What a part was made with, as JSON would bring it back, without diffusers' own notes."""
    return json.loads(json.dumps({key: value for key, value in part.config.items() if not key.startswith("_")}))


if __name__ == "__main__":
    main(train)
