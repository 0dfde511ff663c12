"""Go on with a trained system on its own rollouts, held to what was recorded and to what a goal distance reads there.

    python experiments/train_goal_models.py --run runs/base --models distance --data DATA   # the reader
    python experiments/train_rollouts.py --run runs/train --reader runs/base/goal_models --data DATA --out runs/rollouts
    python experiments/train_goal_models.py --run runs/rollouts --data DATA   # costs of what it now imagines

Video model, conditioner and adapter learn (``models/rollout_model.py``) by the loop of the adapter stage, under the
adapter's answers and inverse dynamics' codes in turn; codec and latent action model stay as they are. An adapter that
sees frames sees the recorded ones here, not those imagined so far as in a plan. What comes out is an ordinary system:
``OUT/system``, whose ``system.json`` says under ``rollouts`` how it was made.

Kill it at any moment and run the same command: it goes on from its last checkpoint (two minutes old at most).
"""

from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from colaworld.adapters.goal_models import load_goal_models
from colaworld.adapters.system import ColaSystem, load_system, save_system, weights_path
from colaworld.envs.demos import ClipDataset, SourceOptions, starter_path
from colaworld.experiments.cli import main
from colaworld.experiments.encoded_data import check_codec
from colaworld.experiments.further_training import STAGE, bind, check_clips, go_on, sign, weight_flags
from colaworld.experiments.planning_world import system_folder, system_hash, usual_goal_models
from colaworld.experiments.provenance import file_hash
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.training import LoopConfig
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.goal_distance import GoalDistance
from colaworld.models.rollout_model import RolloutConfig, RolloutModel

ACCOUNT = "rollouts"
BOUND = "rollouts.json"
WATCHED = 32


@dataclass(frozen=True, kw_only=True)
class RolloutTraining:
    """Flags of such a run; those that weights depend on are stored in the run folder, and a resumed run must have the
    same ones."""

    run: Path | None = None
    """Where it starts: folder of a training run or of a trained system; default: the weights that ship."""
    out: Path = Path("runs/rollouts")
    """The run folder."""
    data: tuple[Path, ...] = ()
    """What train_world_model.py takes, encoded data among it; default: the starter data that ship."""
    source: SourceOptions = SourceOptions()
    reader: Path | None = None
    """Folder of train_goal_models.py with a distance of the same codec; default: the goal models beside --run, or those
    that ship without one. Best one that learned from recorded frames alone (--fit-config.imagined 0, or a --run
    without an adapter): what imagined ones lack it does not make up."""
    rollout: RolloutConfig = RolloutConfig()
    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 16
    """Clips in a batch."""
    learning_rate: float = 7e-4
    """AdamW's, at its peak; it decays along a cosine."""
    shift: int = 0
    """Random crop: clips are shifted by up to this many pixels."""
    through_adapter: float = 0.75
    """Share of clips under the adapter's latent actions, as plans are; the others are under inverse dynamics' codes."""
    stored_as: Literal["float32", "bfloat16"] = "float32"
    """How the finished system is kept; bfloat16 takes half the space, and it is the rounded one that plays."""
    loop: LoopConfig = LoopConfig(ema_decay=0.99)

    def __post_init__(self) -> None:
        self.stage()
        if self.loop.compile:
            raise ValueError("--loop.compile speeds up nothing here: it is for frames that are predicted all at once")

    def stage(self) -> StageConfig:
        """The budget as the loop takes it. The adapter learns through the world model alone."""
        shared = ("steps", "batch_size", "learning_rate", "shift", "through_adapter")
        return StageConfig(**{name: getattr(self, name) for name in shared}, adapter_weight=0.0)


@dataclass(kw_only=True)
class RolloutSystem(ColaSystem):
    """A system in training, whose model is held to its rollouts."""

    reader: GoalDistance | None
    rollout: RolloutConfig

    def model(self) -> RolloutModel:
        """The model that learns."""
        return RolloutModel(super().model(), self.reader, self.rollout)


def train_rollouts(config: Annotated[RolloutTraining, tyro.conf.arg(name="")]) -> None:
    """Train, and say where the system is."""
    folder = system_folder(config.run) if config.run else weights_path()
    system = load_system(folder)
    if system.info.stage != STAGE:
        raise ValueError(f"{folder} has only been trained to stage {system.info.stage!r}; rollouts need {STAGE!r}")
    count = CONTEXT_FRAMES + config.rollout.horizon
    if count > system.info.clip:
        raise ValueError(
            f"--rollout.horizon {config.rollout.horizon}: with {CONTEXT_FRAMES} frames of context it is longer than "
            f"the clips of {system.info.clip} frames that {folder} was trained on"
        )
    reader, read_from = find_reader(config, system)
    clips = training_clips(config, system, folder, split="train")
    held_out = training_clips(config, system, folder, split="validation")
    written = config.out / "system"
    if not (config.out / BOUND).is_file() and written.exists():
        raise ValueError(f"{written}: there is a system already, of another training; choose another --out")
    made = account(config, folder, read_from)
    flags = {"batch_size": config.batch_size, "stored_as": config.stored_as, "loop": weight_flags(config.loop)}
    bind(config.out / BOUND, made | flags)

    def learner(device: torch.device) -> RolloutSystem:
        for part in (*system.parts().values(), *(() if reader is None else (reader,))):
            part.to(device)
        return held_to_rollouts(system, reader, config.rollout)

    if not go_on(config.out, learner, config.stage(), config.loop, clips, held_out, watched=WATCHED):
        return
    if config.stored_as == "bfloat16":
        save_system(load_system(written), written, dtype=torch.bfloat16)
    sign(written, made, ACCOUNT)
    print(f"system: {written}   metrics: {config.out / 'metrics.jsonl'}")


def held_to_rollouts(system: ColaSystem, reader: GoalDistance | None, rollout: RolloutConfig) -> RolloutSystem:
    """The system before its first step, with copies of its parts."""
    parts = {field.name: deepcopy(getattr(system, field.name)) for field in fields(ColaSystem)}
    return RolloutSystem(**parts, reader=reader, rollout=rollout)


def find_reader(config: RolloutTraining, system: ColaSystem) -> tuple[GoalDistance | None, str | None]:
    """The distance that reads frames and its hash; neither where nothing is read. ValueError when there is none."""
    if not config.rollout.reads:
        return None, None
    folder = config.reader or usual_goal_models(config.run, system.info.preset)
    if folder is None:
        raise ValueError(
            f"there are no goal models beside --run {config.run}; give --reader a folder of "
            "experiments/train_goal_models.py --models distance, or --rollout.gripper 0 --rollout.objects 0"
        )
    return load_goal_models(folder, system.codec).part("distance"), file_hash(folder / "distance")


def training_clips(config: RolloutTraining, system: ColaSystem, folder: Path, *, split: str) -> ClipDataset:
    """Clips of the length that the system was trained on. ValueError when they are not what it was trained for."""
    paths = config.data or (starter_path(),)
    clips = ClipDataset(paths, length=system.info.clip, split=split, encoded=True, options=config.source)
    check_clips(clips, system, folder)
    check_codec(clips, system.codec, folder)
    if config.shift and clips.encoded is not None and clips.encoded.pixels != config.shift:
        raise ValueError(
            f"--shift {config.shift}: {paths[0]} holds latents of crops of up to {clips.encoded.pixels} pixels; say "
            "that, or 0"
        )
    return clips


def account(config: RolloutTraining, folder: Path, read_from: str | None) -> dict[str, Any]:
    """How the system is made, for its ``system.json``."""
    own = {name: getattr(config, name) for name in ("steps", "learning_rate", "shift", "through_adapter")}
    return {
        "start": system_hash(folder),
        "reader": read_from,
        **asdict(config.rollout),
        "data": [str(path) for path in config.data],
        "source": {name: value for name, value in asdict(config.source).items() if name != "stream"},
        **own,
    }


if __name__ == "__main__":
    main(train_rollouts)
