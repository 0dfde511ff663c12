"""Fit the adapter by itself, before it is fine-tuned together with the world model.

Everything it learns from is fixed by then (latents, codes, actions), so it is computed once over the labelled part of
the data set and the small network takes thousands of steps in a minute. Paper: a two-layer MLP from real action to
latent action.

Where labels are few, a network that also sees frames learns them by heart within a few hundred steps, and is then worse
than none. So it starts as the constant predictor, and how many steps it takes is chosen on labelled training
trajectories that a first pass leaves out and the second learns from; none, where not even the best number is
significantly better than none. Held-out trajectories choose nothing. Not stated in the paper.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields

import numpy as np
import torch
from diffusers.optimization import get_scheduler
from einops import rearrange
from scipy.stats import ttest_rel
from torch import Tensor
from torch.nn import functional as F
from tqdm import trange

from colaworld.adapters.action_adapter import (
    adapter_loss,
    check_codes,
    codes_of,
    context_windows,
    latents_of,
)
from colaworld.adapters.system import ColaSystem
from colaworld.envs.demos import Episode
from colaworld.experiments.batches import frame_latents
from colaworld.experiments.labels import labelled, labelled_steps

LOOKS = 40  # numbers of steps that are compared, evenly spaced on a logarithmic scale: few labels call for few
FEWEST_CHOOSING = 10  # trajectories that choose among them, where there are as many
SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class AdapterFitConfig:
    """Budget of the fit."""

    steps: int = 3000
    """Optimiser steps, at most."""
    batch_size: int = 256
    """Transitions in a batch."""
    learning_rate: float = 1e-3
    """AdamW's, at its peak; it decays along a cosine."""
    weight_decay: float = 0.05
    """AdamW's."""
    validation: float = 0.1
    """Share of the labelled training trajectories on which the number of steps is chosen, before all are learned from;
    at least 10; where these would be more than half, each half chooses for the other. 0: all steps are taken."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1:
            raise ValueError(
                f"an adapter's fit needs steps >= 0 and batch_size >= 1, got {self.steps}, {self.batch_size}"
            )
        if not 0.0 <= self.validation <= 0.5:
            raise ValueError(f"the validation share of an adapter's fit must lie in [0, 0.5], got {self.validation}")


@dataclass
class Transitions:
    """N labelled transitions: action chunks ``(N, frame_skip, A)``, context ``(N, frames, C, h, w)`` or None, codes
    ``(N, tokens)`` or None, latent actions ``(N, D)``, the number of the trajectory each is from ``(N)``.
    """

    actions: Tensor
    context: Tensor | None
    indices: Tensor | None
    latents: Tensor
    trajectory: Tensor

    def answer(self, system: ColaSystem, chosen: Tensor) -> Tensor:
        """What the adapter answers to the transitions ``chosen (B,)``: ``(1, B, ...)``."""
        context = None if self.context is None else self.context[chosen][None]
        return system.adapter(self.actions[chosen][None], context)

    def loss(self, system: ColaSystem, chosen: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The adapter's loss on the transitions ``chosen (B,)``."""
        indices = None if self.indices is None else self.indices[chosen][None]
        answer, latents = self.answer(system, chosen), self.latents[chosen][None]
        return adapter_loss(system.bottleneck, answer, latents, indices, system.adapter.config.kind)

    @torch.no_grad()
    def judged(self, system: ColaSystem) -> float:
        """What the number of steps is chosen by: the loss, but for a point that is taught directions and not distances
        (``"nearest"``) the squared error of its codes.
        """
        everything = torch.arange(len(self.actions), device=self.actions.device)
        if system.adapter.config.kind != "nearest":
            return float(self.loss(system, everything)[0])
        codes = latents_of(system.adapter, system.bottleneck, self.answer(system, everything), snap=True)
        return float(F.mse_loss(codes[0], self.latents))

    def where(self, chosen: Tensor) -> "Transitions":
        """Only the transitions ``chosen``, bool ``(N)``."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Transitions(**{name: None if part is None else part[chosen] for name, part in parts.items()})


@torch.no_grad()
def tabulate(system: ColaSystem, episodes: Sequence[Episode]) -> Transitions:
    """All transitions of the episodes whose action is known, as the frozen codec and latent action model see them.

    ValueError when there are none, and naming trajectory and step where an action is no number in part.
    """
    known = labelled(episodes)
    if not known:
        raise ValueError(f"an adapter learns from action labels, and none of {len(episodes)} trajectories has any")
    device = next(system.codec.parameters()).device
    for part in (system.codec, system.inverse_dynamics, system.bottleneck):
        part.eval()
    rows: list[Transitions] = []
    for number, episode in enumerate(known):
        actions = torch.from_numpy(episode.actions)
        kept = labelled_steps(actions)
        damaged = kept & ~actions.isfinite().flatten(1).all(dim=1)
        if damaged.any():
            where = f"step {int(damaged.nonzero()[0])} of {episode.demo} in {episode.scene}"
            raise ValueError(f"actions: {where} is not finite, and not all NaN as an unknown one is")
        latents = frame_latents(system.codec, torch.from_numpy(episode.frames[:]).to(device))[None]
        codes = system.model().latent_actions(latents)
        context = context_windows(latents, system.adapter.config.context_frames)
        row = Transitions(
            actions=actions.to(device),
            context=None if context is None else context[0],
            indices=None if codes.indices is None else codes.indices[0],
            latents=codes.latents[0],
            trajectory=torch.full((len(actions),), number, device=device),
        )
        rows.append(row.where(kept.to(device)))
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Transitions)}
    return Transitions(**{name: None if part[0] is None else torch.cat(part) for name, part in columns.items()})


def fit_adapter(
    system: ColaSystem, train: Sequence[Episode], held_out: Sequence[Episode], config: AdapterFitConfig, *, seed: int
) -> dict[str, float]:
    """Normalise and train ``system.adapter`` in place, on the labelled ones of ``train``; returns ``steps``, the number
    it took, and its metrics on the held-out episodes (see ``held_out_metrics``).
    """
    check_codes(system.adapter.config.kind, system.bottleneck)
    table, other = tabulate(system, train), tabulate(system, held_out)
    system.adapter.normalise_by(table.actions)
    start_constant(system, table)
    steps = _chosen_steps(system, table, config, seed) if config.validation else config.steps
    for _ in _train(system, table, config, [steps], seed=seed, name="adapter fit"):
        pass
    return {"steps": float(steps), **held_out_metrics(system, table, other)}


@torch.no_grad()
def held_out_metrics(system: ColaSystem, train: Transitions, held_out: Transitions) -> dict[str, float]:
    """The adapter's loss on held-out transitions, and what compares its kinds with each other: ``adapter_accuracy`` of
    its codes beside ``adapter_majority``, that of the most frequent codes in training, and ``adapter_relative_error``,
    the squared error of its latent actions as a share of that of the mean in training (``..._snapped``: of its codes).
    """
    adapter, bottleneck = system.adapter.eval(), system.bottleneck
    answer, truth = held_out.answer(system, _all(held_out)), held_out.latents[None]
    metrics = held_out.loss(system, _all(held_out))[1]
    constant = (train.latents.mean(dim=0) - truth).square().mean()
    metrics["adapter_relative_error"] = F.mse_loss(latents_of(adapter, bottleneck, answer), truth) / constant
    if held_out.indices is not None:
        majority = train.indices.mode(dim=0).values
        metrics["adapter_majority"] = (held_out.indices == majority).float().mean()
        snapped = bottleneck.from_indices(codes_of(adapter, bottleneck, answer))
        metrics["adapter_relative_error_snapped"] = F.mse_loss(snapped, truth) / constant
    return {key: float(value) for key, value in metrics.items()}


@torch.no_grad()
def start_constant(system: ColaSystem, table: Transitions) -> None:
    """Make the adapter answer the same to all actions: the table's mean latent action, or, where it classifies, how
    frequent each code is.
    """
    last, answer = system.adapter.mlp[-1], table.latents.mean(dim=0)
    if system.adapter.config.kind == "classify":
        counts = F.one_hot(table.indices, system.bottleneck.code_sizes[0]).sum(dim=0) + 1.0  # no code is impossible
        answer = rearrange((counts / counts.sum(dim=-1, keepdim=True)).log(), "k e -> (k e)")
    last.weight.zero_()
    last.bias.copy_(answer)


def _chosen_steps(system: ColaSystem, table: Transitions, config: AdapterFitConfig, seed: int) -> int:
    """The number of steps that is best on trajectories that are left out; the adapter is then as it was before."""
    before = deepcopy(system.adapter.state_dict())
    groups = _groups(table)
    numbers = groups.unique()
    if len(numbers) < 2:
        return 0
    order = numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed)).to(numbers.device)]
    count = max(round(config.validation * len(order)), FEWEST_CHOOSING)
    folds = [order[:count]] if 2 * count <= len(order) else order.tensor_split(2)
    marks = sorted({0, *np.geomspace(1, max(1, config.steps), LOOKS).round().astype(int).tolist()})
    marks = [mark for mark in marks if mark <= config.steps]
    losses = []
    for fold in folds:
        rest, parts = table.where(~torch.isin(groups, fold)), [table.where(groups == number) for number in fold]
        for _ in _train(system, rest, config, marks, seed=seed, name="adapter: how long"):
            losses.append([part.judged(system) for part in parts])
        system.adapter.load_state_dict(before)
    rows = len(marks)
    by_trajectory = np.concatenate([np.array(losses[k * rows : (k + 1) * rows]) for k in range(len(folds))], axis=1)
    return marks[best_row(by_trajectory)]


def best_row(losses: np.ndarray) -> int:
    """The best row of ``losses (candidates, trajectories)``, or the first where the best is not significantly better
    than it: by a paired t-test over the trajectories, one-sided at 5 % (a single one tells nothing).
    """
    best, count = int(losses.mean(axis=1).argmin()), losses.shape[1]
    if best == 0 or count < 2:
        return 0
    return best if ttest_rel(losses[0], losses[best], alternative="greater").pvalue < SIGNIFICANT else 0


def _groups(table: Transitions) -> Tensor:
    """What is left out as a whole: trajectories, or the halves of a single one."""
    alone = len(table.trajectory.unique()) == 1
    return (_all(table) >= len(table.actions) // 2).long() if alone else table.trajectory


def _all(table: Transitions) -> Tensor:
    return torch.arange(len(table.actions), device=table.actions.device)


def _train(
    system: ColaSystem, table: Transitions, config: AdapterFitConfig, marks: Sequence[int], *, seed: int, name: str
) -> Iterator[int]:
    """Train the adapter up to the last of ``marks``, ascending numbers of steps; at each, in evaluation mode, it yields
    that number. The learning rate decays over the configured steps, however many are taken.
    """
    adapter = system.adapter.requires_grad_(True)
    optimizer = torch.optim.AdamW(adapter.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=100, num_training_steps=max(1, config.steps))
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    adapter.eval()
    if 0 in marks:
        yield 0
    adapter.train()
    progress = trange(marks[-1], desc=name, mininterval=1.0)
    for step in progress:
        chosen = torch.randint(len(table.actions), (config.batch_size,), generator=generator)
        loss, metrics = table.loss(system, chosen)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of the adapter's fit is {loss.item()} at step {step}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        progress.set_postfix({key: f"{value:.3g}" for key, value in metrics.items()}, refresh=False)
        if step + 1 in marks:
            adapter.eval()
            yield step + 1
            adapter.train()
    adapter.eval()
