"""Distil a trained system into one whose one-step frames are what its teacher needs several steps for.

    python experiments/train_few_step.py --run runs/train --out runs/few_step
    python experiments/few_step_curve.py runs/train runs/few_step            # what it is worth

Video model and conditioner learn (``models/few_step.py``) by the loop and under the actions of the adapter stage, codes
and adapter's answers in turn; codec, latent action model and adapter stay the teacher's. What comes out is an ordinary
system: ``OUT/system``, whose ``system.json`` says under ``few_step`` how it was made.

Kill it at any moment and run the same command: it goes on from its last checkpoint (two minutes old at most).
"""

import json
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from colaworld.adapters.system import ColaSystem, load_system, weights_path
from colaworld.envs.demos import ClipDataset, SourceOptions, starter_path
from colaworld.envs.whole_file import whole_file
from colaworld.experiments.batch_parts import check_divisible
from colaworld.experiments.batches import fixed_batch
from colaworld.experiments.cli import main
from colaworld.experiments.planning_world import system_folder, system_hash
from colaworld.experiments.recipes import RECIPES
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.training import Data, LoopConfig, make_accelerator, train_stage
from colaworld.models.cola import ColaModel
from colaworld.models.few_step import FewStepModel, ReflowConfig

STAGE = "adapter"
ACCOUNT = "few_step"
BOUND = "few_step.json"
WATCHED = 16
"""Clips that are watched: what they say of codes does not change here."""


@dataclass(frozen=True, kw_only=True)
class FewStepConfig:
    """Flags of a distillation; they are stored in the run folder, and a resumed run must have the same ones."""

    run: Path | None = None
    """The teacher: folder of a training run or of a trained system; default: the weights that ship."""
    out: Path = Path("runs/few_step")
    """The run folder."""
    data: tuple[Path, ...] = ()
    """What train_world_model.py takes; default: the starter data that ship."""
    source: SourceOptions = SourceOptions()
    reflow: ReflowConfig = ReflowConfig()
    steps: int = 1500
    """Optimiser steps."""
    batch_size: int = 6
    """Clips in a batch."""
    learning_rate: float = 4e-4
    """AdamW's, at its peak; it decays along a cosine."""
    shift: int = 3
    """Random crop: clips are shifted by up to this many pixels."""
    imagined: float = 0.35
    """The last share of the steps, in which the frames before are the student's own one-step ones."""
    through_adapter: float = 0.75
    """Share of clips under the adapter's latent actions, as plans are; the others are under inverse dynamics' codes."""
    loop: LoopConfig = LoopConfig(watch_every=250)

    def __post_init__(self) -> None:
        self.stage()

    def stage(self) -> StageConfig:
        """The budget as the loop takes it. Nothing but the flow loss: without decay, what has no gradient (the adapter)
        stays to the last bit.
        """
        shared = ("steps", "batch_size", "learning_rate", "shift", "imagined", "through_adapter")
        return StageConfig(**{name: getattr(self, name) for name in shared}, weight_decay=0.0, adapter_weight=0.0)


@dataclass(kw_only=True)
class FewStepSystem(ColaSystem):
    """A system in training, whose model is taught by another."""

    teacher: ColaModel
    reflow: ReflowConfig

    def model(self) -> FewStepModel:
        """The student."""
        return FewStepModel(super().model(), self.teacher, self.reflow)


def distil(config: Annotated[FewStepConfig, tyro.conf.arg(name="")]) -> None:
    """Distil, and say where the system is."""
    folder = system_folder(config.run) if config.run else weights_path()
    teacher = load_teacher(folder)
    clips = training_clips(config, teacher, folder, split="train")
    held_out = training_clips(config, teacher, folder, split="validation")
    made = account(config, teacher, folder)
    bind(config.out / BOUND, made | {"batch_size": config.batch_size, "loop": weight_flags(config.loop)})
    system = config.out / "system"
    if not (system / "system.json").is_file():
        accelerator = make_accelerator(config.out, config.loop, ["tensorboard"])
        check_divisible(config.batch_size, accelerator, config.loop.accumulate, "--batch-size")
        accelerator.init_trackers("tensorboard")
        for part in teacher.parts().values():
            part.to(accelerator.device)
        student = taught(teacher, config.reflow)
        data = Data(
            train=clips,
            watched_train=fixed_batch(clips, WATCHED, seed=1).to(accelerator.device),
            held_out=fixed_batch(held_out, WATCHED, seed=2).to(accelerator.device),
        )
        train_stage(accelerator, student, STAGE, config.stage(), config.loop, data, config.out, steps_before=0)
        accelerator.end_training()
        if not accelerator.is_main_process:
            return
    sign(system, made, ACCOUNT)
    print(f"system: {system}   metrics: {config.out / 'metrics.jsonl'}")


def taught(teacher: ColaSystem, reflow: ReflowConfig) -> FewStepSystem:
    """The student before its first step: its teacher's weights, of which it has its own copies."""
    parts = {field.name: deepcopy(getattr(teacher, field.name)) for field in fields(ColaSystem)}
    return FewStepSystem(**parts, teacher=teacher.model(), reflow=reflow)


def load_teacher(folder: Path) -> ColaSystem:
    """The system to distil. ValueError when it has no adapter, or is a student already."""
    system = load_system(folder)
    if system.info.stage != STAGE:
        raise ValueError(f"{folder} has only been trained to stage {system.info.stage!r}; distilling needs {STAGE!r}")
    if few_step_account(folder) is not None:
        raise ValueError(f"{folder} was distilled itself; name its teacher")
    return system


def training_clips(config: FewStepConfig, system: ColaSystem, folder: Path, *, split: str) -> ClipDataset:
    """Clips of the teacher's length. ValueError when they are not what it was trained for."""
    clips = ClipDataset(config.data or (starter_path(),), length=system.info.clip, split=split, options=config.source)
    for name in ("height", "width", "frame_skip", "action_dim", "render_profile"):
        wanted, found = getattr(system.info, name), getattr(clips, name)
        if wanted != found:
            raise ValueError(f"{folder}: {name} is {wanted!r}, but the data say {found!r}")
    if RECIPES[system.info.recipe].turn(STAGE).reads == "actions":
        clips.require_actions(f"recipe {system.info.recipe!r}")
    return clips


def account(config: FewStepConfig, teacher: ColaSystem, folder: Path) -> dict[str, Any]:
    """How a student is made, for its ``system.json``."""
    own = {name: getattr(config, name) for name in ("steps", "learning_rate", "shift", "imagined", "through_adapter")}
    return {
        "method": "reflow",
        "teacher": system_hash(folder),
        "teacher_steps": config.reflow.steps_from(teacher.info.flow),
        "at_source": config.reflow.at_source,
        "data": [str(path) for path in config.data],
        **own,
    }


def weight_flags(loop: LoopConfig) -> dict[str, Any]:
    """Of the loop's flags those that weights depend on."""
    named = ("seed", "ema_decay", "gradient_clip", "mixed_precision", "accumulate")
    return {name: getattr(loop, name) for name in named}


def bind(path: Path, said: dict[str, Any]) -> None:
    """A run folder belongs to one set of flags. ValueError naming the first that differs."""
    if path.is_file():
        try:
            before = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not valid JSON ({error}); choose another --out") from error
        for key, value in json.loads(json.dumps(said)).items():
            if before.get(key) != value:
                raise ValueError(
                    f"{path}: this run was started with {key}={before.get(key)}, not {value}; choose another --out"
                )
    with whole_file(path) as partial:
        partial.write_text(json.dumps(said, indent=2) + "\n")


def sign(system: Path, made: dict[str, Any], account: str) -> None:
    """Write into a system, under ``account``, how it was made."""
    path = system / "system.json"
    with whole_file(path) as partial:
        partial.write_text(json.dumps({**json.loads(path.read_text()), account: made}, indent=2) + "\n")


def few_step_account(system: Path) -> dict[str, Any] | None:
    """What ``sign`` wrote; None for a system that was not distilled."""
    return json.loads((system / "system.json").read_text()).get(ACCOUNT)


if __name__ == "__main__":
    main(distil)
