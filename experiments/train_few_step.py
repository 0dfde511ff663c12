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

import torch
import tyro

from colaworld.adapters.system import ColaSystem, load_system, weights_path
from colaworld.envs.demos import ClipDataset, SourceOptions, starter_path
from colaworld.experiments.cli import main
from colaworld.experiments.further_training import STAGE, bind, check_clips, go_on, sign, weight_flags
from colaworld.experiments.planning_world import system_folder, system_hash
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.training import LoopConfig
from colaworld.models.cola import ColaModel
from colaworld.models.few_step import FewStepModel, ReflowConfig

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

    def student(device: torch.device) -> FewStepSystem:
        for part in teacher.parts().values():
            part.to(device)
        return taught(teacher, config.reflow)

    if not go_on(config.out, student, config.stage(), config.loop, clips, held_out, watched=WATCHED):
        return
    system = config.out / "system"
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
    check_clips(clips, system, folder)
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


def few_step_account(system: Path) -> dict[str, Any] | None:
    """What ``sign`` wrote; None for a system that was not distilled."""
    return json.loads((system / "system.json").read_text()).get(ACCOUNT)


if __name__ == "__main__":
    main(distil)
