"""Fit the adapter by itself, before it is fine-tuned together with the world model.

Everything it learns from is fixed by then (latents, codes, actions), so it is computed once over the whole data set and the small
network takes thousands of steps in a minute. Paper: a two-layer MLP from real action to latent action.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor
from tqdm import trange

from colaworld.adapters.action_adapter import adapter_loss, context_windows
from colaworld.adapters.system import ColaSystem
from colaworld.envs.demos import Episode


@dataclass(frozen=True, kw_only=True)
class AdapterFitConfig:
    """Budget of the fit."""

    steps: int = 3000
    """Optimiser steps."""
    batch_size: int = 256
    """Transitions in a batch."""
    learning_rate: float = 1e-3
    """AdamW's, at its peak; it decays along a cosine."""
    weight_decay: float = 0.05
    """AdamW's."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1:
            raise ValueError(
                f"an adapter's fit needs steps >= 0 and batch_size >= 1, got {self.steps}, {self.batch_size}"
            )


@dataclass
class Transitions:
    """N recorded transitions: action chunks ``(N, frame_skip, A)``, context ``(N, frames, C, h, w)`` or None, codes ``(N, tokens)`` or
    None, latent actions ``(N, D)``.
    """

    actions: Tensor
    context: Tensor | None
    indices: Tensor | None
    latents: Tensor

    def loss(self, system: ColaSystem, chosen: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The adapter's loss on the transitions ``chosen (B,)``."""
        context = None if self.context is None else self.context[chosen][None]
        predicted = system.adapter(self.actions[chosen][None], context)
        indices = None if self.indices is None else self.indices[chosen][None]
        return adapter_loss(system.bottleneck, predicted, self.latents[chosen][None], indices)


@torch.no_grad()
def tabulate(system: ColaSystem, episodes: Sequence[Episode]) -> Transitions:
    """All transitions of the episodes, as the frozen codec and latent action model see them."""
    device = next(system.codec.parameters()).device
    for part in (system.codec, system.inverse_dynamics, system.bottleneck):
        part.eval()
    rows: list[tuple[Tensor, Tensor | None, Tensor | None, Tensor]] = []
    for episode in episodes:
        latents = system.codec.encode(torch.from_numpy(episode.frames).to(device))[None]
        codes = system.model().latent_actions(latents)
        context = context_windows(latents, system.adapter.config.context_frames)
        actions = torch.from_numpy(episode.actions).to(device)
        rows.append((actions, context, codes.indices, codes.latents[0]))
    actions, context, indices, latents = zip(*rows, strict=True)
    return Transitions(
        actions=torch.cat(actions),
        context=None if context[0] is None else torch.cat([each[0] for each in context]),
        indices=None if indices[0] is None else torch.cat([each[0] for each in indices]),
        latents=torch.cat(latents),
    )


def fit_adapter(
    system: ColaSystem, train: Sequence[Episode], held_out: Sequence[Episode], config: AdapterFitConfig, *, seed: int
) -> dict[str, float]:
    """Normalise and train ``system.adapter`` in place; returns its metrics on the held-out episodes."""
    table, other = tabulate(system, train), tabulate(system, held_out)
    system.adapter.normalise_by(table.actions)
    system.adapter.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(system.adapter.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=100, num_training_steps=max(1, config.steps))
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    progress = trange(config.steps, desc="adapter fit", mininterval=1.0)
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
    system.adapter.eval()
    with torch.no_grad():
        metrics = other.loss(system, torch.arange(len(other.actions)))[1]
    return {key: float(value) for key, value in metrics.items()}
