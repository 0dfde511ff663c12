"""What a stage needs before its first step: labels that it may see, normalisation, an adapter fitted by itself."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from colaworld.adapters.action_adapter import ActionAdapter
from colaworld.adapters.system import ColaSystem
from colaworld.envs.demos import ClipDataset, Episode
from colaworld.experiments.adapter_fit import fit_adapter
from colaworld.experiments.budget import StageCost, record_cost
from colaworld.experiments.labels import labelled, labelled_steps, withhold_labels
from colaworld.experiments.recipes import Turn
from colaworld.experiments.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The training clips by what may be seen of their actions."""

    clips: ClipDataset
    """All of them; actions that are withheld are NaN."""
    known: ClipDataset
    """Those with actions: for the adapter, or the recipe of real actions."""
    early: ClipDataset | None
    """Those whose actions the action head may see before the adapter stage."""

    @classmethod
    def of(cls, config: TrainConfig, clips: ClipDataset) -> "Labels":
        """As ``--label-fraction`` and ``--action-labels`` say; ``clips`` stays as it is."""
        early, seed = None, config.loop.seed
        if config.action_labels:
            early = clips.only(labelled(withhold_labels(clips.episodes, config.action_labels, seed=seed)))
        if config.label_fraction == 1.0:
            return cls(clips=clips, known=clips, early=early)
        episodes = withhold_labels(clips.episodes, config.label_fraction, seed=seed)
        return cls(clips=clips.only(episodes), known=clips.only(labelled(episodes)), early=early)


def prepare(
    config: TrainConfig,
    system: ColaSystem,
    turn: Turn,
    labels: Labels,
    held_out: ClipDataset,
    accelerator: Accelerator,
) -> None:
    """What a stage needs before its first step: normalisation, and the fit of the adapter by itself."""
    if turn.reads == "actions" and turn.stage != "adapter":
        system.adapter.normalise_by(known_actions(labels.known.episodes, accelerator.device))
    if system.action_head is not None and "action_head" in turn.trained and labels.early is not None:
        system.action_head.normalise_by(known_actions(labels.early.episodes, accelerator.device))
    if turn.stage == "adapter" and turn.reads == "codes" and config.adapter_fit.steps:
        began = time.monotonic()
        fitted = fit_adapter(
            system, labels.known.episodes, held_out.episodes, config.adapter_fit, seed=config.loop.seed
        )
        if accelerator.is_main_process:
            record_cost(config.out, "adapter_fit", fit_cost(config, system.adapter, time.monotonic() - began))
        accelerator.print("adapter fitted, held out:", *(f"{key} {value:.3f}" for key, value in fitted.items()))


def fit_cost(config: TrainConfig, adapter: ActionAdapter, seconds: float) -> StageCost:
    """Of the adapter's fit by itself: two passes, of which the first chooses how many steps the second takes."""
    fit, parameters = config.adapter_fit, sum(parameter.numel() for parameter in adapter.parameters())
    steps = fit.steps * (2 if fit.validation else 1)
    samples = steps * fit.batch_size
    flops = 3.0 * 2.0 * parameters * samples  # forward and twice backward, a multiplication and an addition a weight
    why = "at most: the second pass ends where the first was best" if fit.validation else "as planned"
    return StageCost(steps=steps, samples=samples, seconds=seconds, flops=flops, parameters=parameters, why=why)


def known_actions(episodes: Sequence[Episode], device: torch.device) -> Tensor:
    """All known action chunks ``(N, frame_skip, A)`` of the episodes."""
    actions = torch.cat([torch.from_numpy(episode.actions) for episode in episodes])
    return actions[labelled_steps(actions)].to(device)
