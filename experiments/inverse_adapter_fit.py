"""What an inverse adapter is taught and judged by: labelled transitions, as a system's latent action model reads them.

Shapes: N transitions out of ``GoalFrames`` of F frames; latent actions ``(N, D)``, codes ``(N, tokens)``, held actions
``(N, A)``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from colaworld.adapters.inverse_adapter import InverseAdapter
from colaworld.adapters.system import ColaSystem
from colaworld.experiments.goal_pairs import GoalFrames

AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Readings:
    """Frames ``before`` and ``now`` as indices into the table, what leads on from ``now``, and the codes of standing
    still (both None where latent actions are continuous).
    """

    before: Tensor
    now: Tensor
    latent_actions: Tensor
    actions: Tensor
    codes: Tensor | None
    resting: Tensor | None


@torch.no_grad()
def read_transitions(system: ColaSystem, table: GoalFrames) -> Readings:
    """Every transition of ``table`` whose action is known. ValueError when there are none, or no latent action model.
    """
    if system.inverse_dynamics is None:
        raise ValueError(f"recipe {system.info.recipe!r} has no latent actions, so an inverse adapter has none to read")
    known = table.actions.isfinite().all(dim=1)
    if not known.any():
        raise ValueError("an inverse adapter learns from actions; the data have none")
    model = system.model().eval()
    latents, codes, resting = [], [], []
    for first, length in zip(table.first.tolist(), table.length.tolist(), strict=True):
        clip = table.latents[first : first + length]
        read, still = model.latent_actions(clip[None]), model.latent_actions(torch.stack([clip, clip], dim=1))
        # The last frame leads nowhere: its row is never looked at, as its action is not known.
        latents.append(torch.cat([read.latents[0], read.latents[0, -1:]]))
        if read.indices is not None:
            codes.append(torch.cat([read.indices[0], read.indices[0, -1:]]))
            resting.append(still.indices[:, 0])
    now = known.nonzero()[:, 0]
    return Readings(
        before=torch.maximum(now - 1, table.first[table.trajectory[now]]),
        now=now,
        latent_actions=torch.cat(latents)[now.to(latents[0].device)],
        actions=table.actions[now],
        codes=torch.cat(codes)[now.to(codes[0].device)] if codes else None,
        resting=torch.cat(resting) if resting else None,
    )


def draw_readings(
    readings: Readings, table: GoalFrames, batch_size: int
) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    """Batches for ``InverseAdapter.loss``, uniform over transitions."""
    device = table.latents.device

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(readings.now), (batch_size,), generator=generator)
        before, now = table.latents[readings.before[chosen]], table.latents[readings.now[chosen]]
        return readings.latent_actions[chosen.to(device)], before, now, readings.actions[chosen].to(device)

    return draw


@torch.no_grad()
def inverse_measures(
    inverse: InverseAdapter, readings: Readings, table: GoalFrames, *, seed: int = 0
) -> dict[str, float]:
    """``relative_error``: the squared error of the first three dimensions (the gripper's movement) as a share of that
    of their mean; the same with the latent actions of other transitions (``..._shuffled``: what frames alone say); and
    how often the sign of the last is right beside always giving the commoner one.
    """
    order = torch.randperm(len(readings.now), generator=torch.Generator().manual_seed(seed))
    truth = readings.actions
    constant = (truth - truth.mean(dim=0))[:, :3].square().sum(dim=1).mean().clamp_min(1e-12)

    def answered(latent_actions: Tensor) -> Tensor:
        parts = zip(
            latent_actions.split(AT_ONCE), readings.before.split(AT_ONCE), readings.now.split(AT_ONCE), strict=True
        )
        return torch.cat([inverse(each, table.latents[a], table.latents[b]).cpu() for each, a, b in parts])

    def error(answer: Tensor) -> float:
        return float((answer - truth)[:, :3].square().sum(dim=1).mean() / constant)

    answer, closed = answered(readings.latent_actions), truth[:, -1] > 0
    return {
        "relative_error": error(answer),
        "relative_error_shuffled": error(answered(readings.latent_actions[order.to(readings.latent_actions.device)])),
        "gripper_accuracy": float(((answer[:, -1] > 0) == closed).float().mean()),
        "gripper_majority": float(closed.float().mean().maximum(1 - closed.float().mean())),
    }
