"""How good goal models are on trajectories that they did not learn from, beside distances that need no learning.

Of a cost: the rank correlation with the true number of steps to a goal frame of the same trajectory, also where an
object had to move on the way; and whether it sees objects: the area under the ROC curve (AUC) of telling, with the
gripper at the same place, frames with an object out of its place from frames with all of them in it. An arm that
dominates the picture leaves the last one near 0.5.

Shapes: indices of frames and goals ``(B,)`` into ``GoalFrames``, costs ``(B,)``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from colaworld.experiments.goal_pairs import (
    MOVED,
    PLACED,
    REACHED,
    GoalFrames,
    across,
    along,
    chunks_towards,
    success_labels,
)
from colaworld.experiments.intervals import bootstrap_mean
from colaworld.models.goal_policy import GoalPolicy
from colaworld.models.goal_progress import GoalProgress
from colaworld.models.success_classifier import KINDS, SuccessClassifier
from colaworld.planning.objectives import blurred

PairCost = Callable[[Tensor, Tensor], Tensor]
AT_ONCE = 1024
DRAWS = 100_000
MOST = 4000
WINDOWS = 3
"""Goal frames of a trajectory, a few steps apart, the last frame the first of them."""
BLUR = 4.0
APART = 5
"""Steps at least between the frames in which sight of objects is tested: neighbours are alike in all that there is."""


def by_network(table: GoalFrames, network: Callable[[Tensor, Tensor], Tensor]) -> PairCost:
    """The cost of a network over latents ``(N, C, h, w)`` and goals."""

    def cost(now: Tensor, goal: Tensor) -> Tensor:
        with torch.no_grad():
            parts = zip(now.split(AT_ONCE), goal.split(AT_ONCE), strict=True)
            return torch.cat([network(table.latents[a], table.latents[b]).cpu() for a, b in parts])

    return cost


def distances(table: GoalFrames, frames: Tensor) -> dict[str, PairCost]:
    """Squared distances in latents, in pixels of ``frames`` uint8 ``(F, 3, height, width)``, and in blurred ones."""
    pixels = frames.float() / 255
    smooth = blurred(pixels, BLUR)

    def between(values: Tensor) -> PairCost:
        return lambda now, goal: torch.cat(
            [
                (values[a] - values[b]).square().flatten(1).sum(dim=1)
                for a, b in zip(now.split(AT_ONCE), goal.split(AT_ONCE), strict=True)
            ]
        )

    return {"latent": between(table.latents.cpu()), "pixel": between(pixels), "pixel, blurred": between(smooth)}


def order_of_time(table: GoalFrames, cost: PairCost, longest: int, *, moved: bool = False) -> list[float]:
    """For each trajectory, the mean over a few goal frames of Spearman's correlation of ``cost`` with the steps that
    the up to ``longest`` frames before are away.

    ``moved``: only goals before which an object was more than 5 cm from its place; trajectories may have none.
    """
    found = []
    for first, length in zip(table.first.tolist(), table.length.tolist(), strict=True):
        values = []
        for goal in range(length - 1, 2, -max(1, longest // 4))[:WINDOWS]:
            now = first + torch.arange(max(0, goal - longest), goal)
            aims = torch.full_like(now, first + goal)
            if moved and not (table.object_gap(now, aims) > PLACED).any():
                continue
            values.append(correlation(cost(now, aims).numpy(), (aims - now).numpy()))
        if values:
            found.append(float(np.mean(values)))
    return found


def sight_pairs(table: GoalFrames, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, goals and whether an object is out of its place (5 cm, against at most 2 cm of all), the gripper within
    3 cm of where the goal has it.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [along(table, DRAWS, int(table.length.max()), generator, shortest=APART)]
    drawn += [across(table, DRAWS // 10, generator)] if len(table.length) > 1 else []
    now, goal = (torch.cat([getattr(pairs, name) for pairs in drawn]) for name in ("now", "goal"))
    same = table.gripper_gap(now, goal) < REACHED
    now, goal = now[same], goal[same]
    gap = table.object_gap(now, goal)
    chosen = [numbers[:MOST] for numbers in ((gap > PLACED).nonzero()[:, 0], (gap < MOVED).nonzero()[:, 0])]
    kept = torch.cat(chosen)
    return now[kept], goal[kept], gap[kept] > PLACED


def area_under_curve(scores: Tensor, positive: Tensor) -> float | None:
    """The probability that a positive's score is above a negative's (ties count half); None without some of both."""
    high, low = int(positive.sum()), int((~positive).sum())
    if not high or not low:
        return None
    ranks = rankdata(scores.numpy())[positive.numpy()]  # Mann and Whitney's U, as a share of all couples
    return float((ranks.sum() - high * (high + 1) / 2) / (high * low))


def correlation(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Spearman's; 0 where either says nothing, being the same throughout."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def progress_measures(progress: GoalProgress, table: GoalFrames, frames: Tensor, *, seed: int = 0) -> dict[str, Any]:
    """``{measure: {cost: ...}}``: ``order`` and ``order_moved`` with intervals over trajectories, ``sees_objects``."""
    costs = {"progress": by_network(table, progress), **distances(table, frames)}
    longest, measures = progress.config.max_steps, {}
    for name, moved in (("order", False), ("order_moved", True)):
        if moved and not table.privileged:
            continue
        found = {cost: order_of_time(table, costs[cost], longest, moved=moved) for cost in costs}
        measures[name] = {cost: interval(values) for cost, values in found.items() if values}
    if table.privileged:
        now, goal, displaced = sight_pairs(table, seed=seed)
        measures["sees_objects"] = {name: area_under_curve(cost(now, goal), displaced) for name, cost in costs.items()}
    return measures


def success_measures(
    success: SuccessClassifier, table: GoalFrames, frames: Tensor, *, seed: int = 0
) -> dict[str, Any]:
    """For each kind of success the AUC of telling it, on pairs of one trajectory, of minus each cost; its share."""
    generator = torch.Generator().manual_seed(seed)
    pairs = along(table, MOST, int(table.length.max()), generator, shortest=1)
    labels = success_labels(table, pairs) > 0.5
    others = {name: -cost(pairs.now, pairs.goal) for name, cost in distances(table, frames).items()}
    logits = by_network(table, success)(pairs.now, pairs.goal)
    measures: dict[str, Any] = {}
    for number, kind in enumerate(KINDS):
        scores = {"success": logits[:, number], **others}
        measures[kind] = {name: area_under_curve(score, labels[:, number]) for name, score in scores.items()}
        measures[kind]["share"] = float(labels[:, number].float().mean())
    return measures


def policy_measures(policy: GoalPolicy, table: GoalFrames, longest: int, *, seed: int = 0) -> dict[str, Any]:
    """Of the first action towards goals 1 to ``longest`` steps on: ``relative_error``, the squared error of the first
    three dimensions (the gripper's movement) as a share of that of their mean, by steps to the goal and over all of
    them, and how often the sign of the last is right beside always giving the commoner one.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = along(table, MOST, longest, generator, shortest=1)
    truth = chunks_towards(table, pairs, 1)[:, 0]
    known = truth.isfinite().all(dim=1)
    pairs, truth = type(pairs)(*(column[known] for column in pairs)), truth[known]
    answer = by_network(table, policy)(pairs.now, pairs.goal)[:, 0]
    error = (answer - truth)[:, :3].square().sum(dim=1)
    constant = (truth - truth.mean(dim=0))[:, :3].square().sum(dim=1).mean().clamp_min(1e-12)
    closed = truth[:, -1] > 0
    by_steps = {
        str(steps): float(error[pairs.steps == steps].mean() / constant) for steps in pairs.steps.unique().tolist()
    }
    return {
        "relative_error": float(error.mean() / constant),
        "relative_error_by_steps": by_steps,
        "gripper_accuracy": float(((answer[:, -1] > 0) == closed).float().mean()),
        "gripper_majority": float(closed.float().mean().maximum(1 - closed.float().mean())),
    }


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean of ``values``, one for each independent thing, with its 95 % interval where there are two."""
    if len(values) < 2:
        return {"estimate": float(np.mean(values)), "count": len(values)}
    return {**asdict(bootstrap_mean(values)), "count": len(values)}


def lines_of(measures: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Measures for a terminal, one line for each number or interval."""
    lines = []
    for name, value in measures.items():
        if isinstance(value, Mapping) and "low" in value:
            lines.append(f"{prefix}{name}: {value['estimate']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
        elif isinstance(value, Mapping):
            lines += lines_of(value, f"{prefix}{name}, ")
        else:
            lines.append(f"{prefix}{name}: {'-' if value is None else f'{value:.3f}'}")
    return lines
