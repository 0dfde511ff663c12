"""Pairs of a frame and a goal frame, drawn from recorded trajectories: what every goal model is trained on.

Everything is encoded once; a draw is a few indices. Goals are hindsight goals, frames of the same trajectory, and
frames of other trajectories of the same scene, which count as far.

The arm is most of what moves in a picture, so a network that is left alone measures the arm. Against it, where
recordings say where gripper and objects are: half of the pairs of one trajectory are such that an object moved, and
half of the far ones show the gripper at nearly the same place with an object elsewhere.

Shapes: F frames of all trajectories after one another, latents ``(F, C, h, w)``; B drawn pairs, indices ``(B,)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from colaworld.envs.demos import Episode
from colaworld.models.codec import FrameCodec

REACHED = 0.03
"""Metres between the gripper and where it is in the goal frame: the reach goals' radius."""
PLACED = 0.05
"""Metres between an object and where it is in the goal frame: VP2's, and the push goals'."""
MOVED = 0.02
"""Metres from which on an object counts as moved."""
TRIES = 8
CANDIDATES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class GoalFrames:
    """All frames of N trajectories. NaN where a recording does not say; ``actions (F, A)``, held over the step that
    follows a frame, are NaN at the end of a trajectory.
    """

    latents: Tensor
    trajectory: Tensor
    """int64 ``(F,)``."""
    first: Tensor
    """int64 ``(N,)``: where each trajectory begins."""
    length: Tensor
    """int64 ``(N,)``."""
    scene: Tensor
    """int64 ``(N,)``."""
    actions: Tensor
    ee_pos: Tensor
    """``(F, 3)``, metres."""
    object_pos: Tensor
    """``(F, n, 3)``, metres; NaN for objects that the scene does not have."""

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def privileged(self) -> bool:
        """Whether gripper and objects are known throughout."""
        return bool(self.ee_pos.isfinite().all()) and bool(self.object_pos.isfinite().all(-1).any(-1).all())

    def gripper_gap(self, now: Tensor, goal: Tensor) -> Tensor:
        """Metres between the grippers of frames and goals, of whatever broadcastable shape."""
        return (self.ee_pos[now] - self.ee_pos[goal]).norm(dim=-1)

    def object_gap(self, now: Tensor, goal: Tensor) -> Tensor:
        """Metres that the object which is farthest from its place in the goal is away from it."""
        return (self.object_pos[now] - self.object_pos[goal]).norm(dim=-1).nan_to_num(nan=0.0).amax(dim=-1)


class Pairs(NamedTuple):
    """Frames, their goals, and the steps between them (``FAR`` in different trajectories)."""

    now: Tensor
    goal: Tensor
    steps: Tensor


FAR = torch.iinfo(torch.int64).max
"""More steps than any trajectory has."""


@torch.no_grad()
def tabulate_goals(codec: FrameCodec, episodes: Sequence[Episode]) -> GoalFrames:
    """Encode and gather ``episodes``. ValueError when none has two frames."""
    episodes = [episode for episode in episodes if len(episode.frames) > 1]
    if not episodes:
        raise ValueError("goal models learn from trajectories of 2 frames or more, and there are none")
    device = next(codec.parameters()).device
    objects = max(1, max(episode.object_pos.shape[1] for episode in episodes))
    scenes = {scene: number for number, scene in enumerate(dict.fromkeys(each.scene for each in episodes))}
    length = torch.tensor([len(episode.frames) for episode in episodes])
    latents, actions, places = [], [], []
    for episode in episodes:
        latents.append(codec.encode(torch.from_numpy(episode.frames[:]).to(device)))
        held = torch.from_numpy(episode.actions).mean(dim=1)
        actions.append(torch.cat([held, torch.full_like(held[:1], torch.nan)]))
        padded = np.full((len(episode.frames), objects, 3), np.nan, np.float32)
        padded[:, : episode.object_pos.shape[1]] = episode.object_pos
        places.append(torch.from_numpy(padded))
    table = GoalFrames(
        latents=torch.cat(latents),
        trajectory=torch.repeat_interleave(torch.arange(len(episodes)), length),
        first=length.cumsum(0) - length,
        length=length,
        scene=torch.tensor([scenes[episode.scene] for episode in episodes]),
        actions=torch.cat(actions),
        ee_pos=torch.cat([torch.from_numpy(np.asarray(episode.ee_pos, np.float32)) for episode in episodes]),
        object_pos=torch.cat(places),
    )
    return table


def along(table: GoalFrames, count: int, longest: int, generator: torch.Generator, *, shortest: int = 0) -> Pairs:
    """Pairs of one trajectory, the goal ``shortest`` to ``longest`` steps later, every number of steps as likely."""
    number = torch.randint(len(table.length), (count,), generator=generator)
    room = (table.length[number] - 1).clamp(max=longest)
    low = room.clamp(max=shortest)
    steps = low + _below(room - low + 1, generator)
    now = table.first[number] + _below(table.length[number] - steps, generator)
    return Pairs(now, now + steps, steps)


def along_with_objects(table: GoalFrames, count: int, longest: int, generator: torch.Generator) -> Pairs:
    """As ``along``, but between the frames an object moved, where one of a few tries finds such a pair."""
    tries = along(table, count * TRIES, longest, generator)
    moved = (table.object_gap(tries.now, tries.goal) > MOVED).view(count, TRIES)
    chosen = torch.arange(count) * TRIES + moved.int().argmax(dim=1)
    return Pairs(*(column[chosen] for column in tries))


def across(table: GoalFrames, count: int, generator: torch.Generator) -> Pairs:
    """Pairs of two trajectories, of one scene where it has two; far, whatever they look like."""
    now, candidates = _candidates(table, count, generator)
    return Pairs(now, candidates[:, 0], torch.full((count,), FAR))


def across_with_the_arm(table: GoalFrames, count: int, generator: torch.Generator) -> Pairs:
    """As ``across``, the gripper as near as one of many candidates has it, with an object out of its place."""
    now, candidates = _candidates(table, count, generator)
    gap = table.gripper_gap(now[:, None], candidates)
    gap = gap.masked_fill(table.object_gap(now[:, None], candidates) <= PLACED, torch.inf)
    return Pairs(now, candidates.gather(1, gap.argmin(dim=1, keepdim=True))[:, 0], torch.full((count,), FAR))


def progress_pairs(table: GoalFrames, count: int, max_steps: int, far: float, generator: torch.Generator) -> Pairs:
    """What goal progress is learned from: a share ``far`` of different trajectories, the others of one."""
    apart = round(far * count) if len(table.length) > 1 else 0
    parts, together = [], count - apart
    if table.privileged:
        parts += [along_with_objects(table, together // 2, max_steps, generator)]
        parts += [across_with_the_arm(table, apart // 2, generator)] if apart > 1 else []
        together, apart = together - together // 2, apart - apart // 2
    parts += [along(table, together, max_steps, generator)]
    parts += [across(table, apart, generator)] if apart else []
    return Pairs(*(torch.cat(column) for column in zip(*parts, strict=True)))


def success_labels(table: GoalFrames, pairs: Pairs) -> Tensor:
    """``(B, 2)``, in the order of ``success_classifier.KINDS``: the gripper is within 3 cm, and every object within
    5 cm, of where the goal frame has it.
    """
    reached = table.gripper_gap(pairs.now, pairs.goal) < REACHED
    placed = table.object_gap(pairs.now, pairs.goal) < PLACED
    return torch.stack([reached, placed], dim=1).float()


def chunks_towards(table: GoalFrames, pairs: Pairs, steps: int) -> Tensor:
    """The actions ``(B, steps, A)`` that follow the frames of ``along``; NaN from the goal on."""
    offset = torch.arange(steps)
    index = (pairs.now[:, None] + offset).clamp(max=len(table) - 1)
    beyond = offset >= pairs.steps[:, None]
    return table.actions[index].masked_fill(beyond[..., None], torch.nan)


def _candidates(table: GoalFrames, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Frames ``(B,)``, and for each of them frames ``(B, CANDIDATES)`` of other trajectories, of its scene if it can
    be."""
    now = torch.randint(len(table), (count,), generator=generator)
    own = table.trajectory[now]
    order = table.scene.argsort(stable=True)
    sizes = table.scene.bincount()
    begins = sizes.cumsum(0) - sizes
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    scene = table.scene[own][:, None].expand(-1, CANDIDATES)
    alone = sizes[scene] < 2
    begin, size = begins[scene].masked_fill(alone, 0), sizes[scene].masked_fill(alone, len(order))
    # A step of 1 to size - 1 around the ring of the scene's trajectories never comes back to the own one.
    turn = 1 + _below(size - 1, generator)
    other = order[begin + (rank[own][:, None] - begin + turn) % size]
    return now, table.first[other] + _below(table.length[other], generator)


def _below(bounds: Tensor, generator: torch.Generator) -> Tensor:
    """A uniform integer in 0 .. bound - 1 for each of ``bounds``, all of them 1 or more."""
    share = torch.rand(bounds.shape, generator=generator, dtype=torch.float64)
    return (share * bounds).long().minimum(bounds - 1)
