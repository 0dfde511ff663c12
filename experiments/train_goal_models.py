"""What planning wants to know of goals, learned in a system's latents: distance, goal progress, success, an inverse
model; and the inverse adapter, which acts on planned codes.

    python experiments/train_goal_models.py --run runs/train                     # into runs/train/goal_models
    python experiments/train_goal_models.py --run runs/train --models progress --fit-config.steps 4000 --out runs/goals

Goal progress needs neither actions nor positions, but sees objects better where recordings hold positions; the
success classifier and the distance are taught by those, the distance also on what the system imagines, the inverse
model and the inverse adapter by actions. A minute or two each on two CPU cores. Models that are there already are kept,
so that the same command goes on where it was stopped. Measured on held-out trajectories beside pixel and latent
distance; the numbers are kept in ``goal_models.json``.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from tqdm import trange

from colaworld.adapters.goal_models import (
    FOLDER,
    LATENT_ACTIONS,
    codec_digest,
    latent_action_digest,
    read_description,
    save_goal_model,
)
from colaworld.adapters.inverse_adapter import InverseAdapter
from colaworld.adapters.system import ColaSystem, load_system, weights_path
from colaworld.envs.demos import ClipDataset, SourceOptions, starter_path
from colaworld.experiments.adapter_choices import check_fits
from colaworld.experiments.cli import main
from colaworld.experiments.goal_distance_fit import (
    check_taught,
    distance_measures,
    draw_distances,
    imagine_frames,
    spread_of,
)
from colaworld.experiments.goal_measures import lines_of, policy_measures, progress_measures, success_measures
from colaworld.experiments.goal_pairs import (
    GoalFrames,
    along,
    chunks_towards,
    progress_pairs,
    success_labels,
    tabulate_goals,
)
from colaworld.experiments.inverse_adapter_fit import draw_readings, inverse_measures, read_transitions
from colaworld.experiments.planning_world import goal_models_beside, system_folder
from colaworld.models.goal_distance import GoalDistance
from colaworld.models.goal_policy import GoalPolicy
from colaworld.models.goal_progress import GoalProgress
from colaworld.models.success_classifier import SuccessClassifier

GoalModelName = Literal["progress", "success", "policy", "inverse", "distance"]
Draw = Callable[[torch.Generator], tuple[Tensor, ...]]
"""A batch: frames and goals ``(B, C, h, w)``, and what the model is to say."""


@dataclass(frozen=True, kw_only=True)
class GoalFitConfig:
    """Budget and sizes, the same for each of the models."""

    steps: int = 1500
    """Optimiser steps of each model."""
    batch_size: int = 256
    """Pairs in a batch."""
    learning_rate: float = 1e-3
    """AdamW's, at its peak; it decays along a cosine."""
    weight_decay: float = 0.05
    """AdamW's."""
    width: int = 32
    """Channels of the first convolution."""
    hidden: int = 256
    """Units of the hidden layer."""
    dropout: float = 0.1
    """Share of features that are dropped in training."""
    max_steps: int = 20
    """Environment steps that goal progress tells apart; more is as far."""
    far: float = 0.3
    """Share of goal progress's pairs that are of different trajectories."""
    imagined: float = 0.5
    """Share of those of the distance's frames that can be, which are shown as they are imagined."""
    longest: int = 12
    """Steps to the farthest hindsight goal of the inverse model."""
    chunk: int = 4
    """Actions that the inverse model answers with."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "width", "hidden", "max_steps", "longest", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of goal models must be 1 or more, got {getattr(self, name)}")
        if not 0 <= self.imagined <= 1:
            raise ValueError(f"imagined of goal models must lie in [0, 1], got {self.imagined}")
        for name in ("far", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} of goal models must lie in [0, 1), got {getattr(self, name)}")


def fresh_model(
    name: GoalModelName, system: ColaSystem, config: GoalFitConfig, *, seed: int, **positions: Any
) -> nn.Module:
    """An untrained model for the system's latents, on its device; ``positions``: centre and spread of the distance."""
    channels, rows, columns = system.codec.latent_shape
    sizes = {"latent_channels": channels, "latent_height": rows, "latent_width": columns}
    sizes |= {key: getattr(config, key) for key in ("width", "hidden", "dropout")}
    torch.manual_seed(seed)
    if name == "progress":
        model = GoalProgress(max_steps=config.max_steps, **sizes)
    elif name == "distance":
        model = GoalDistance(**positions, **sizes)
    elif name == "success":
        model = SuccessClassifier(**sizes)
    elif name == "inverse":
        codes = {"latent_action_dim": system.bottleneck.dim, "code_sizes": system.bottleneck.code_sizes}
        model = InverseAdapter(action_dim=system.info.action_dim, **codes, **sizes)
    else:
        model = GoalPolicy(steps=config.chunk, action_dim=system.info.action_dim, **sizes)
    return model.to(next(system.codec.parameters()).device)


def draw_of(name: GoalModelName, table: GoalFrames, config: GoalFitConfig) -> Draw:
    """The batches of ``name``, of those that judge or act on a frame and a goal frame.

    ValueError when the table lacks what it learns from: positions for success, actions for the inverse model.
    """
    if name == "success" and not table.privileged:
        raise ValueError("the success classifier is taught by positions of gripper and objects; the data have none")
    if name == "policy" and not table.actions.isfinite().any():
        raise ValueError("the inverse model learns from actions; the data have none")
    device = table.latents.device

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        if name == "policy":
            pairs = along(table, config.batch_size, config.longest, generator, shortest=1)
            said = chunks_towards(table, pairs, config.chunk)
        else:
            # Success has to be told in both, the near pairs of one trajectory and those with one thing in place.
            pairs = progress_pairs(table, config.batch_size, config.max_steps, config.far, generator)
            said = pairs.steps if name == "progress" else success_labels(table, pairs)
        return table.latents[pairs.now], table.latents[pairs.goal], said.to(device)

    return draw


def fit(model: nn.Module, draw: Draw, config: GoalFitConfig, *, seed: int, name: str) -> None:
    """Train in place; deterministic given ``seed``. FloatingPointError when the loss is not finite."""
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    warmup = min(50, config.steps // 5)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=warmup, num_training_steps=config.steps)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    progress = trange(config.steps, desc=name, mininterval=1.0)
    for step in progress:
        loss, metrics = model.loss(*draw(generator))
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of {name} is {loss.item()} at step {step}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 20 == 0:
            progress.set_postfix({key: f"{value:.3g}" for key, value in metrics.items()}, refresh=False)
    model.eval()


def measures_of(name: GoalModelName, model: nn.Module, table: GoalFrames, frames: Tensor, longest: int) -> dict:
    """On held-out trajectories, see ``goal_measures``."""
    if name == "progress":
        return progress_measures(model, table, frames)
    if name == "success":
        return success_measures(model, table, frames)
    return policy_measures(model, table, longest)


def fit_distance(
    system: ColaSystem, table: GoalFrames, held_out: GoalFrames, frames: Tensor, config: GoalFitConfig, *, seed: int
) -> tuple[GoalDistance, dict]:
    """A distance trained on recorded frames and on what the system imagines; its measures on ``held_out``, whose
    pictures ``frames`` are.
    """
    check_taught(table)
    imagined = imagine_frames(system, table, seed=seed) if config.imagined else None
    if config.imagined and imagined is None:
        print("distance: the system imagines nothing from these recordings, so it learns from recorded frames alone")
    draw = draw_distances(table, imagined, config.batch_size, config.max_steps, config.far, config.imagined)
    centre, spread = spread_of(table)
    model = fresh_model("distance", system, config, seed=seed, centre=centre, spread=spread)
    fit(model, draw, config, seed=seed, name="distance")
    measures = distance_measures(model, held_out, imagine_frames(system, held_out, seed=seed), frames)
    return model, {"imagined_frames": 0 if imagined is None else int(imagined.there.sum()), **measures}


def fit_inverse(
    model: InverseAdapter,
    system: ColaSystem,
    table: GoalFrames,
    held_out: GoalFrames,
    config: GoalFitConfig,
    *,
    seed: int,
) -> dict:
    """Train an inverse adapter in place, codes counted; its measures on ``held_out``."""
    readings = read_transitions(system, table)
    if readings.codes is not None:
        model.count(readings.codes, readings.resting)
    fit(model, draw_readings(readings, table, config.batch_size), config, seed=seed, name="inverse")
    return inverse_measures(model, read_transitions(system, held_out), held_out)


def train_goal_models(
    run: Path | None = None,
    models: tuple[GoalModelName, ...] = ("progress", "success", "policy", "inverse", "distance"),
    data: tuple[Path, ...] = (),
    source: SourceOptions = SourceOptions(),
    fit_config: GoalFitConfig = GoalFitConfig(),
    device: str = "cpu",
    seed: int = 0,
    out: Path | None = None,
) -> Path:
    """Train what is not there yet, measure it on held-out trajectories, write it beside the system.

    Args:
        run: folder of a training run or of a trained system; the weights that ship when not given.
        models: which of them.
        data: what train_world_model.py takes; default: the starter data.
        source: how to read data that colaworld did not record.
        fit_config: budget and sizes.
        device: as PyTorch names it.
        seed: of fresh weights and of what is drawn.
        out: results folder; goal_models in the run's when not given, runs/goal_models for the shipped weights.
    """
    folder = system_folder(run) if run else weights_path()
    out = out or (goal_models_beside(run) if run else Path("runs") / FOLDER)
    system = load_system(folder, device=device)
    codec = codec_digest(system.codec)
    given = {"seed": seed, "data": [str(path) for path in data] or ["starter"], **asdict(fit_config)}
    of_distance = ("imagined",)
    settings = {
        name: {key: value for key, value in given.items() if name == "distance" or key not in of_distance}
        for name in models
    }
    todo = [name for name in models if not already(out, name, codec, settings[name])]
    if not todo:
        print(f"nothing is left to train; goal models: {out}")
        return out
    train, held_out = (
        ClipDataset(data or (starter_path(),), length=2, split=split, options=source)
        for split in ("train", "validation")
    )
    check_fits(folder, system, train)
    table, other = (tabulate_goals(system.codec, part.episodes) for part in (train, held_out))
    frames = torch.cat([torch.from_numpy(each.frames[:]) for each in held_out.episodes if len(each.frames) > 1])
    for name in todo:
        about: dict[str, Any] = {"settings": settings[name]}
        if name == "distance":
            model, measures = fit_distance(system, table, other, frames, fit_config, seed=seed)
        else:
            model = fresh_model(name, system, fit_config, seed=seed)
        if name == "inverse":
            about |= {LATENT_ACTIONS: latent_action_digest(system)}
            measures = fit_inverse(model, system, table, other, fit_config, seed=seed)
        elif name != "distance":
            fit(model, draw_of(name, table, fit_config), fit_config, seed=seed, name=name)
            measures = measures_of(name, model, other, frames, fit_config.longest)
        save_goal_model(out, name, model, {**about, "held_out": measures}, codec)
        print("\n".join(lines_of(measures, f"{name}: ")), flush=True)
    print(f"goal models: {out}")
    return out


def already(out: Path, name: str, codec: str, settings: dict[str, Any]) -> bool:
    """Whether ``out`` holds the model ``name``. ValueError when it was made with other settings, naming the first."""
    about = read_description(out, codec).get(name)
    if about is None:
        return False
    for key, value in settings.items():
        if about["settings"].get(key) != value:
            raise ValueError(
                f"{out} holds {name} made with {key} = {about['settings'].get(key)!r}, this run has {value!r}; "
                "name another --out"
            )
    return True


if __name__ == "__main__":
    main(train_goal_models)
