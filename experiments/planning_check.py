"""Does a system plan towards where the arm really went? A cheap look at planning on held-out clips, no simulator.

From the two context frames of a clip the usual search of ``vp2_eval.py`` (CEM, blurred pixels) plans to the frame that
was recorded ``ahead`` steps later. Compared are commands, not outcomes: the gripper's movement that the plan commands
(its x, y and z summed) with the one that was recorded, by their cosine; the same for a plan to another clip's goal,
which is the level of chance for an arm that likes to move one way; and costs within the model's own imagination. A plan
is one search, as ``planning.mpc`` makes it, but with the recorded action between the context frames.

What it shows: whether model, adapter and cost together tell the search which way to go, on the same clips and draws for
every recipe. What it does not: whether a plan reaches its goal, since nobody plays it, and whether replanning would
mend it; other commands than the recorded ones may lead to the same frame. A low cost is the model's own opinion, and a
model that can imagine anything reaches it easily. Episodes in the simulator say the rest (``reproduce.py
--plan-manifest``).

Shapes: H ``ahead``, K frame_skip, A action; frames uint8 ``(n, T, 3, height, width)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import reduce
from torch import Tensor
from torch.nn import functional as F

from colaworld.adapters.system import ColaSystem
from colaworld.adapters.world import ColaWorld
from colaworld.experiments.batches import Batch, derived_seed
from colaworld.experiments.goal_settings import EvalConfig, LiberoPrior
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.planning.cem import CEM
from colaworld.planning.imagined_cost import imagined_cost
from colaworld.planning.objectives import PixelGoal
from colaworld.planning.search import search

START = CONTEXT_FRAMES - 1
"""The frame that is planned from; the actions from it on are the plan's."""
MEASURED = ("cosine", "cosine_by_chance", "cost_to_rest", "cost_to_recorded", "recorded_to_rest")
"""What there is one number a clip of."""
POSITION = slice(3)
"""Which dimensions of an action move the gripper."""


@dataclass(frozen=True, kw_only=True)
class PlanningCheckConfig:
    """How planning is looked at. Runs that are compared need the same; a result says what it was."""

    clips: int = 24
    """At most so many of the clips on which the arm moves; 0: planning is not looked at."""
    ahead: int = 4
    """Steps from start to goal, and of a plan."""
    least_movement: float = 0.02
    """Metres between the gripper's places in start and goal frame below which a clip says nothing about direction."""
    samples: int = 32
    """Candidates of each iteration of CEM."""
    iterations: int = EvalConfig.iterations
    """Of CEM."""
    elite_fraction: float = 0.15
    """Of CEM."""
    blur: float = EvalConfig.blur
    """Of the pixel cost, in pixels."""
    seed: int = 0
    """Of the searches' draws."""

    def __post_init__(self) -> None:
        if self.clips < 0 or self.ahead < 1 or not self.least_movement > 0:
            raise ValueError(
                "planning clips must be 0 or more, ahead 1 or more and least_movement above 0, got "
                f"{self.clips}, {self.ahead}, {self.least_movement}"
            )
        self.planner(), self.objective()

    def planner(self) -> CEM:
        """The search."""
        return CEM(samples=self.samples, iterations=self.iterations, elite_fraction=self.elite_fraction)

    def objective(self) -> PixelGoal:
        """The cost, over all frames of a plan as in VP2."""
        return PixelGoal(blur=self.blur)

    def about(self) -> str:
        """What results depend on besides the clips: those that differ in it cannot be compared."""
        return (
            f"CEM of {self.samples} x {self.iterations}, elites {self.elite_fraction:g}, blur {self.blur:g}, "
            f"{self.ahead} steps, moved {100 * self.least_movement:g} cm, seed {self.seed}"
        )


def moving_clips(clips: Batch, config: PlanningCheckConfig) -> list[int]:
    """Numbers of the clips whose gripper moves at least ``least_movement`` from start to goal frame, the first
    ``config.clips`` of them; none where the data do not say where it is, what was done, or do not reach so far.
    """
    steps = slice(START, START + config.ahead)
    if clips.frames.shape[1] <= START + config.ahead:
        return []
    moved = (clips.ee_pos[:, START + config.ahead] - clips.ee_pos[:, START]).norm(dim=-1)  # NaN is never enough
    known = clips.actions[:, :START].isfinite().flatten(1).all(1) & clips.actions[:, steps].isfinite().flatten(1).all(1)
    commanded = reduce(clips.actions[:, steps, :, POSITION], "n h k xyz -> n xyz", "sum").norm(dim=-1)
    fitting = (moved >= config.least_movement) & known & (commanded > 0)
    return fitting.nonzero().flatten().tolist()[: config.clips]


def other_goals(numbers: Sequence[int], scenes: Sequence[str], trajectories: Sequence[str]) -> list[int]:
    """For each of ``numbers`` (clips of these ``scenes`` and ``trajectories``) the next of another trajectory of the
    same scene in a ring; else of another trajectory, else just another. ValueError for fewer than two.
    """
    if len(numbers) < 2:
        raise ValueError(f"another clip's goal needs 2 clips, got {len(numbers)}")
    others = []
    for place, number in enumerate(numbers):
        ring = [*numbers[place + 1 :], *numbers[:place]]
        apart = [each for each in ring if trajectories[each] != trajectories[number]]
        near = [each for each in apart if scenes[each] == scenes[number]]
        others.append((near or apart or ring)[0])
    return others


@torch.no_grad()
def planning_check(
    system: ColaSystem,
    clips: Batch,
    scenes: Sequence[str],
    config: PlanningCheckConfig,
    trajectories: Sequence[str] | None = None,
) -> dict[str, Any] | None:
    """One number for each clip on which the arm moves; None where the system has no adapter, its actions are not
    LIBERO's, or fewer than two clips move.

    ``cosine`` of planned and recorded movement, ``cosine_by_chance`` of the plan to another clip's goal with it;
    ``cost_to_rest`` and ``cost_to_recorded``, the plan's cost over that of resting and of the recorded actions, and
    ``recorded_to_rest``, all as the model imagines them; without ``trajectories`` every clip is one.
    Puts the system's parts in evaluation mode.
    """
    named = [str(number) for number in range(len(clips.frames))] if trajectories is None else trajectories
    numbers, prior = moving_clips(clips, config), LiberoPrior().prior()
    if system.adapter is None or system.info.action_dim != prior.width or len(numbers) < 2:
        return None
    for part in system.parts().values():
        part.eval()
    world, objective = ColaWorld(system), config.objective()
    found: dict[str, list[float]] = {name: [] for name in MEASURED}
    for number, other in zip(numbers, other_goals(numbers, scenes, named), strict=True):
        actions = clips.actions[number, : START + config.ahead]
        latents = world.encode(clips.frames[number, :CONTEXT_FRAMES])[None]
        chunks = actions[None].to(latents)
        state = world.imagination.start(latents, world.latent_actions(chunks[:, :START], latents))
        goals = [clips.frames[each, START + config.ahead] for each in (number, other)]
        costs = [imagined_cost(world, objective, state, objective.target(world, goal)) for goal in goals]
        plan, elsewhere = (
            search(
                cost,
                prior.distribution(config.ahead),
                config.planner(),
                generator=torch.Generator().manual_seed(derived_seed(config.seed, "planning", number)),
            )
            for cost in costs
        )
        future = world.imagination.roll_out(state, world.adapted(chunks[:, START:]), config.ahead)
        recorded = float(objective(world, future, objective.target(world, goals[0])))
        rest = float(costs[0](torch.zeros(1, config.ahead, prior.width)))
        commanded = reduce(actions[START:, :, POSITION].float().cpu(), "h k xyz -> xyz", "sum")
        for name, each in (("cosine", plan), ("cosine_by_chance", elsewhere)):
            found[name].append(float(F.cosine_similarity(_movement(each.actions), commanded, dim=0)))
        for name, one, another in (
            ("cost_to_rest", plan.cost, rest),
            ("cost_to_recorded", plan.cost, recorded),
            ("recorded_to_rest", recorded, rest),
        ):
            found[name].append(one / max(another, 1e-9))
    return {"about": config.about(), "clips": len(numbers), **found}


def _movement(actions: Tensor) -> Tensor:
    """What ``actions (H, A)`` command the gripper, ``(3,)``."""
    return reduce(actions[:, POSITION].float().cpu(), "h xyz -> xyz", "sum")
