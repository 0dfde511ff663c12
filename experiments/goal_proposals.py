"""Who proposes candidates to a search, see ``planning.protocols.Propose``: each has a frame, the goal frame, and
something learned.

Where codes are searched, what is proposed are codes. Shapes: frames uint8 ``(T, 3, height, width)``, goal uint8 ``(3,
height, width)``, proposals ``(1, H, A)`` on the CPU, A actions or tokens.
"""

import torch
from einops import repeat
from torch import Tensor

from colaworld.adapters.goal_models import GoalModels
from colaworld.adapters.system import ColaSystem
from colaworld.experiments.goal_pairs import GoalFrames
from colaworld.experiments.inverse_policy import Encode, proposed
from colaworld.models.goal_policy import GoalPolicy


class PolicyProposal:
    """What the goal-conditioned inverse model would do."""

    def __init__(self, policy: GoalPolicy, encode: Encode) -> None:
        self.policy, self.encode = policy, encode

    def __call__(self, frames: Tensor, goal: Tensor, horizon: int) -> Tensor:
        """Its chunk, see ``inverse_policy.proposed``."""
        return proposed(self.policy, self.encode, frames, goal, horizon)


class IdmProposal:
    """The latent action that inverse dynamics (IDM) reads off the last frame and the goal, as if that came next, held
    for the whole horizon: as codes, or through the inverse adapter.

    ValueError without a latent action model, and what ``GoalModels.inverse_of`` raises.
    """

    def __init__(self, system: ColaSystem, encode: Encode, *, codes: bool, models: GoalModels) -> None:
        if system.inverse_dynamics is None:
            raise ValueError(f"--propose idm: recipe {system.info.recipe!r} has no inverse dynamics")
        self.model, self.encode = system.model().eval(), encode
        self.inverse = None if codes else models.inverse_of(system)

    @torch.no_grad()
    def __call__(self, frames: Tensor, goal: Tensor, horizon: int) -> Tensor:
        """The same step throughout."""
        latents = self.encode(torch.cat([frames, goal[None]]))
        read = self.model.latent_actions(latents[None])
        if self.inverse is None:
            step = read.indices[0, -1:]
        else:
            before = latents[max(0, len(frames) - 2)]
            step = self.inverse(read.latents[0, -1:], before[None], latents[-2:-1])
        return repeat(step.cpu(), "1 a -> 1 h a", h=horizon)


class NearestProposal:
    """The recorded segment that begins nearest to the last frame and ends nearest to the goal, by the sum of squared
    distances in latents; it is 1 to ``longest`` steps long.

    Codes are those that inverse dynamics reads off the segment. ValueError where the recordings of ``table`` hold no
    actions and those are what is searched.
    """

    def __init__(
        self, table: GoalFrames, encode: Encode, *, system: ColaSystem | None = None, longest: int = 12
    ) -> None:
        if system is None and not table.actions.isfinite().any():
            raise ValueError("--propose nearest takes actions from recordings, and these have none")
        self.table, self.encode, self.longest = table, encode, longest
        self.model = None if system is None else system.model().eval()
        self.usable = torch.ones(len(table), dtype=torch.bool)
        if system is None:
            self.usable = table.actions.isfinite().all(dim=1)

    @torch.no_grad()
    def __call__(self, frames: Tensor, goal: Tensor, horizon: int) -> Tensor:
        """The segment's steps, at most ``horizon`` of them."""
        begin, steps = self.find(*self.encode(torch.stack([frames[-1], goal])))
        steps = min(steps, horizon)
        if self.model is None:
            return self.table.actions[None, begin : begin + steps]
        return self.model.latent_actions(self.table.latents[None, begin : begin + steps + 1]).indices.cpu()

    def find(self, now: Tensor, goal: Tensor) -> tuple[int, int]:
        """Where it begins and how many steps it has; ``now`` and ``goal`` are latents ``(C, h, w)``."""
        trajectory, usable = self.table.trajectory, self.usable
        from_now, from_goal = (
            (self.table.latents - latent).square().flatten(1).sum(dim=1).cpu() for latent in (now, goal)
        )
        best, found = torch.inf, (0, 1)
        for steps in range(1, min(self.longest, len(usable) - 1) + 1):
            usable = usable[: len(self.usable) - steps] & self._usable_after(steps - 1)
            total = from_now[:-steps] + from_goal[steps:]
            total = total.masked_fill(~usable | (trajectory[:-steps] != trajectory[steps:]), torch.inf)
            lowest = int(total.argmin())
            if float(total[lowest]) < best:
                best, found = float(total[lowest]), (lowest, steps)
        return found

    def _usable_after(self, steps: int) -> Tensor:
        """Whether the step that begins ``steps`` frames later can be taken, for all frames with one more after it."""
        return self.usable[steps : len(self.usable) - 1]
