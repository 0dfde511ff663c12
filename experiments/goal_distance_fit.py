"""What ``GoalDistance`` is taught on: recorded frames, and frames that the world model imagined from recorded actions.

An imagined frame stands for the recorded one of its step and is labelled as that. Without them the network never sees
what a planner will show it, blurred and fading arms, and is half as exact there.

Shapes: F frames of all trajectories after one another (``GoalFrames``), latents ``(F, C, h, w)``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from colaworld.adapters.system import ColaSystem
from colaworld.adapters.world import ColaWorld
from colaworld.experiments.goal_measures import MOST, area_under_curve, by_network, correlation, distances, sight_pairs
from colaworld.experiments.goal_pairs import GoalFrames, Pairs, along, progress_pairs
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.goal_distance import GoalDistance

HORIZON = 6
"""Steps that are imagined, at most as many as the world can."""
AT_ONCE = 64


class ImaginedFrames(NamedTuple):
    """``latents (F, C, h, w)`` of the frames that are ``there (F,)``, and by how many ``steps (F,)`` they lie ahead of
    the last recorded frame that the imagination saw.
    """

    latents: Tensor
    there: Tensor
    steps: Tensor


@torch.no_grad()
def imagine_frames(system: ColaSystem, table: GoalFrames, *, seed: int) -> ImaginedFrames | None:
    """Recorded frames as the world model imagines them 1 to `HORIZON` steps ahead, in windows that follow one another
    from a random place on and a last one that ends with the trajectory. None where nothing can be imagined: a system
    without an adapter, recordings without actions, trajectories that are too short.
    """
    if system.adapter is None or system.info.stage != "adapter" or not table.actions.isfinite().all(dim=1).any():
        return None
    world, known = ColaWorld(system), CONTEXT_FRAMES - 1
    horizon = min(HORIZON, world.max_horizon)
    starts = _starts(table, horizon, torch.Generator().manual_seed(seed))
    if not len(starts):
        return None
    latents = torch.zeros_like(table.latents)
    steps = torch.zeros(len(table), dtype=torch.int64)
    chunks = table.actions[:, None].expand(-1, system.info.frame_skip, -1).to(table.latents.device)
    for part in tqdm(starts.split(AT_ONCE), desc="imagining", mininterval=1.0, leave=False):
        context = table.latents[part[:, None] + torch.arange(CONTEXT_FRAMES)]
        given = chunks[part[:, None] + torch.arange(known + horizon)]
        state = world.imagination.start(context, world.latent_actions(given[:, :known], context))
        future = world.imagination.roll_out(state, world.adapted(given[:, known:]), horizon)
        places = part[:, None] + CONTEXT_FRAMES + torch.arange(horizon)
        latents[places.flatten()] = future.flatten(0, 1).to(latents)
        steps[places.flatten()] = torch.arange(1, horizon + 1).repeat(len(part))
    return ImaginedFrames(latents, steps > 0, steps)


def _starts(table: GoalFrames, horizon: int, generator: torch.Generator) -> Tensor:
    """First context frames of windows that follow one another within each trajectory and whose actions are known."""
    length, found = CONTEXT_FRAMES + horizon, []
    for first, count in zip(table.first.tolist(), table.length.tolist(), strict=True):
        if count < length:
            continue
        offset = int(torch.randint(min(horizon, count - length + 1), (), generator=generator))
        starts = first + torch.tensor([*range(offset, count - length, horizon), count - length])
        acted = table.actions[starts[:, None] + torch.arange(length - 1)].isfinite().flatten(1).all(dim=1)
        found.append(starts[acted])
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def truths(table: GoalFrames, pairs: Pairs) -> Tensor:
    """What `GoalDistance.loss` wants, ``(B, 7)``."""
    gap = table.object_gap(pairs.now, pairs.goal)
    return torch.cat([table.ee_pos[pairs.now], table.ee_pos[pairs.goal], gap[:, None]], dim=1)


def draw_distances(
    table: GoalFrames, imagined: ImaginedFrames | None, count: int, longest: int, far: float, share: float
) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    """Batches of ``count`` pairs as goal progress has them; ``share`` of the frames that are imagined at all, and none
    of the goals, are shown as they are imagined.

    ValueError when recordings do not say where gripper and objects are.
    """
    check_taught(table)

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        pairs = progress_pairs(table, count, longest, far, generator)
        now = table.latents[pairs.now]
        if imagined is not None:
            chosen = (torch.rand(len(now), generator=generator) < share) & imagined.there[pairs.now]
            now = torch.where(chosen[:, None, None, None].to(now.device), imagined.latents[pairs.now], now)
        return now, table.latents[pairs.goal], truths(table, pairs).to(now.device)

    return draw


def check_taught(table: GoalFrames) -> None:
    """ValueError when recordings do not say where gripper and objects are."""
    if not table.privileged:
        raise ValueError(
            "the goal distance is taught by positions of gripper and objects; the data have none (--models without "
            "distance trains the others)"
        )


def spread_of(table: GoalFrames) -> tuple[tuple[float, ...], float]:
    """Where grippers are on average, metres ``(3,)``, and how far they spread around it along a coordinate."""
    centre = table.ee_pos.mean(dim=0)
    return tuple(centre.tolist()), float((table.ee_pos - centre).square().mean().sqrt())


def distance_measures(
    model: GoalDistance, table: GoalFrames, imagined: ImaginedFrames | None, frames: Tensor, *, seed: int = 0
) -> dict[str, Any]:
    """On held-out trajectories: ``gripper_off_cm``, the median error of the gripper's place in recorded frames and in
    frames imagined so many steps ahead; ``order``, Spearman's correlation of each cost with the gripper's distance on
    pairs of one trajectory, of recorded and of imagined frames; whether it sees objects (`goal_measures`).
    """
    network = {kind: by_network(table, lambda a, b, kind=kind: model.cost(a, b, kind)) for kind in ("reach", "push")}
    everything = torch.arange(len(table))

    def off(latents: Tensor, which: Tensor) -> float:
        with torch.no_grad():
            places = torch.cat([model.gripper(part)[0].cpu() for part in latents[which].split(1024)])
        return float((places - table.ee_pos[which]).norm(dim=1).median()) * 100

    measures: dict[str, Any] = {"gripper_off_cm": {"recorded": off(table.latents, everything)}}
    pairs = along(table, MOST, int(table.length.max()), torch.Generator().manual_seed(seed), shortest=1)
    gap = table.gripper_gap(pairs.now, pairs.goal)
    costs = {"distance": network["reach"], **distances(table, frames)}
    measures["order"] = {name: _spearman(cost(pairs.now, pairs.goal), gap) for name, cost in costs.items()}
    if imagined is not None and imagined.there.any():
        for step in imagined.steps[imagined.there].unique().tolist():
            which = (imagined.steps == step).nonzero()[:, 0]
            measures["gripper_off_cm"][f"imagined {step} ahead"] = off(imagined.latents, which)
        kept = imagined.there[pairs.now]
        now, goal = imagined.latents[pairs.now[kept]], table.latents[pairs.goal[kept]]
        parts = zip(now.split(512), goal.split(512), strict=True)
        with torch.no_grad():
            mine = torch.cat([model.cost(*part, "reach").cpu() for part in parts])
        measures["order_imagined"] = {
            "distance": _spearman(mine, gap[kept]),
            "latent": _spearman((now - goal).square().flatten(1).sum(dim=1).cpu(), gap[kept]),
        }
    now, goal, displaced = sight_pairs(table, seed=seed)
    objects = {"distance": network["push"], **distances(table, frames)}
    measures["sees_objects"] = {name: area_under_curve(cost(now, goal), displaced) for name, cost in objects.items()}
    return measures


def _spearman(cost: Tensor, gap: Tensor) -> float:
    return correlation(cost.numpy(), gap.numpy())
