"""What latent actions say of real ones: the paper's linear probe (one linear layer, frozen latents to real action, L1).

Features and actions are standardised by the training split, directions in which the features do not vary are dropped
(the codes of a codebook are collinear), and the weights are the exact minimiser of the absolute error: L1 regression is
a linear programme, whose dual has as few constraints as there are features. The error is that of held-out clips, in the
robot's units, beside that of a probe that sees nothing and answers with the training median.

Beside it two read-outs of the gripper: where it *moves* and where it *ends up*. A code may name the destination instead
of the movement; then the second is high and the first is not.

Shapes: features ``(B, N, D)`` and actions ``(B, N, A)`` of B clips with N steps each.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from scipy.optimize import linprog
from torch import Tensor

from colaworld.adapters.system import ColaSystem
from colaworld.experiments.batches import Batch, frame_latents
from colaworld.experiments.watch import displacement_r2

MIN_SCALE = 1e-6
RANK_TOLERANCE = 1e-4
"""Directions whose singular value is below this share of the largest are dropped."""
CLIPS_AT_ONCE = 64

Split = tuple[Tensor, Tensor]
"""Features ``(B, N, D)`` and actions ``(B, N, A)``."""


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """Absolute errors on held-out clips, in the robot's units; the field names are those of ``evaluation.json``."""

    l1: tuple[float, ...]
    """Of each held-out clip, the mean over steps and dimensions: what an interval is bootstrapped over."""
    l1_constant: float
    """Of the training median for an answer."""
    l1_per_dimension: tuple[float, ...]
    l1_constant_per_dimension: tuple[float, ...]
    displacement_r2: float | None = None
    """Linear read-out of the gripper's movement during the step; None where no positions are known."""
    destination_r2: float | None = None
    """Linear read-out of where the gripper is after the step; None where no positions are known."""

    @property
    def mean(self) -> float:
        """L1 over all held-out clips."""
        return float(np.mean(self.l1))


def linear_probe(train: Split, held_out: Split) -> ProbeReport:
    """Fit on ``train``, measure on ``held_out``: no clip may be in both.

    ValueError when clips, steps or widths do not fit together and for numbers that are not finite (action-free data).
    RuntimeError when the linear programme has no answer.
    """
    _check(train, held_out)
    features, actions = (rearrange(part.detach().cpu().double(), "b n d -> (b n) d") for part in train)
    mean, scale = actions.mean(dim=0), actions.std(dim=0).clamp_min(MIN_SCALE)
    design = _design(features)
    weights = _least_absolute(design(features), (actions - mean) / scale)
    median = torch.from_numpy(np.median(actions.numpy(), axis=0))
    truth = held_out[1].detach().cpu().double()
    errors = (design(held_out[0].detach().cpu().double()) @ weights * scale + mean - truth).abs()
    constant = (median - truth).abs()
    return ProbeReport(
        l1=tuple(errors.mean(dim=(1, 2)).tolist()),
        l1_constant=float(constant.mean()),
        l1_per_dimension=tuple(errors.mean(dim=(0, 1)).tolist()),
        l1_constant_per_dimension=tuple(constant.mean(dim=(0, 1)).tolist()),
    )


@torch.no_grad()
def probe_system(system: ColaSystem, train: Batch, held_out: Batch) -> ProbeReport:
    """The probe of a system's own latent actions (behind the bottleneck) to the mean of each action chunk, and the
    read-outs of the gripper.

    Puts the system's parts in evaluation mode. ValueError as `linear_probe`, and for a system without a latent action
    model.
    """
    features = [latent_actions(system, batch.frames) for batch in (train, held_out)]
    targets = [batch.actions.mean(dim=2).cpu() for batch in (train, held_out)]
    report = linear_probe((features[0], targets[0]), (features[1], targets[1]))
    places = [batch.ee_pos.cpu() for batch in (train, held_out)]
    if not all(torch.isfinite(place).all() for place in places):
        return report

    def r2(read: list[Tensor]) -> float:
        flat = [(x.flatten(0, 1), y.flatten(0, 1)) for x, y in zip(features, read, strict=True)]
        return displacement_r2(*flat)

    return replace(
        report,
        displacement_r2=r2([place[:, 1:] - place[:, :-1] for place in places]),
        destination_r2=r2([place[:, 1:] for place in places]),
    )


@torch.no_grad()
def latent_actions(system: ColaSystem, frames: Tensor) -> Tensor:
    """What the latent action model reads off frames uint8 ``(B, T, 3, height, width)``, or latents of encoded data:
    ``(B, T - 1, D)``, on the CPU, a few clips at a time.
    """
    model = system.model().eval()
    system.codec.eval()
    device = next(system.codec.parameters()).device
    read = [
        model.latent_actions(frame_latents(system.codec, clips.to(device))).latents.cpu()
        for clips in frames.split(CLIPS_AT_ONCE)
    ]
    return torch.cat(read)


def _check(train: Split, held_out: Split) -> None:
    for name, (features, actions) in (("train", train), ("held_out", held_out)):
        if features.ndim != 3 or actions.ndim != 3 or features.shape[:2] != actions.shape[:2]:
            raise ValueError(
                f"{name}: features (B, N, D) and actions (B, N, A) do not fit: {tuple(features.shape)}, "
                f"{tuple(actions.shape)}"
            )
        for what, part in (("features", features), ("actions", actions)):
            if not torch.isfinite(part).all():
                count = int((~torch.isfinite(part)).sum())
                raise ValueError(f"{name}: {count} of {part.numel()} {what} are not finite")
    if any(a.shape[2] != b.shape[2] for a, b in zip(train, held_out, strict=True)):
        raise ValueError(
            f"train and held_out differ in width: features {train[0].shape[2]} and {held_out[0].shape[2]}, "
            f"actions {train[1].shape[2]} and {held_out[1].shape[2]}"
        )


def _design(features: Tensor) -> Callable[[Tensor], Tensor]:
    """The map from features ``(..., D)`` to standardised, uncorrelated ones and a constant ``(..., R + 1)``."""
    mean, scale = features.mean(dim=0), features.std(dim=0).clamp_min(MIN_SCALE)
    _, singular, directions = torch.linalg.svd((features - mean) / scale, full_matrices=False)
    kept = singular > RANK_TOLERANCE * singular.max().clamp_min(MIN_SCALE)
    turn = directions[kept].T / singular[kept] * len(features) ** 0.5

    def design(x: Tensor) -> Tensor:
        turned = (x - mean) / scale @ turn
        return torch.cat([turned, torch.ones_like(turned[..., :1])], dim=-1)

    # Features that never vary leave the constant alone, and no column to take its shape from.
    return design if kept.any() else lambda x: torch.ones_like(x[..., :1])


def _least_absolute(design: Tensor, targets: Tensor) -> Tensor:
    """``(N, R)`` and ``(N, A)`` -> the weights ``(R, A)`` that minimise each target's sum of absolute errors.

    min |y - Xw| is the dual of max y'd over X'd = 0, -1 <= d <= 1; the weights are the multipliers of its equalities.
    """
    columns = []
    for target in targets.T:
        answer = linprog(
            -target.numpy(), A_eq=design.T.numpy(), b_eq=np.zeros(design.shape[1]), bounds=(-1, 1), method="highs"
        )
        if answer.status != 0:
            raise RuntimeError(f"the probe's linear programme failed: {answer.message}")
        columns.append(-answer.eqlin.marginals)
    return torch.from_numpy(np.stack(columns, axis=1))
