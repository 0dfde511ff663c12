"""Few action labels: which trajectories keep theirs, and what carries one.

An action that is not known is NaN, as everywhere in the data. The reason latent actions exist is that they are learned
without labels; what a share of the labels is enough for is measured by withholding the others.

Shapes: an episode's action chunks ``(T - 1, frame_skip, A)``.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from colaworld.envs.demos import Episode
from colaworld.experiments.batches import derived_seed


def labelled_steps(actions: Tensor) -> Tensor:
    """Which action chunks ``(..., frame_skip, A)`` are known: bool ``(...)``. One that is NaN in part counts as known,
    so that damage shows.
    """
    return ~actions.isnan().flatten(-2).all(dim=-1)


def labelled(episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes of which at least one action is known, in their order."""
    return [episode for episode in episodes if labelled_steps(torch.from_numpy(episode.actions)).any()]


def withhold_labels(episodes: Sequence[Episode], fraction: float, *, seed: int) -> list[Episode]:
    """The episodes with the actions of only ``fraction`` of the labelled ones left: whole trajectories, at least one of
    each scene, so that of few the share may be larger.

    Chosen by ``seed`` and by a trajectory's own name, whatever the order of the data; a smaller share lies within every
    larger one. ValueError when ``fraction`` is not in (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"the share of labels that is kept must lie in (0, 1], got {fraction}")
    scenes: defaultdict[str, list[Episode]] = defaultdict(list)
    for episode in labelled(episodes):
        scenes[episode.scene].append(episode)
    kept: set[int] = set()
    for scene, members in scenes.items():
        members.sort(key=lambda each: derived_seed(seed, "labels", scene, each.demo, each.seed))
        kept.update(id(each) for each in members[: max(1, round(fraction * len(members)))])
    return [
        episode if id(episode) in kept else replace(episode, actions=np.full_like(episode.actions, np.nan))
        for episode in episodes
    ]
