"""The objective of a simulator world that sees states: its latents are privileged costs already."""

from dataclasses import dataclass

from torch import Tensor

from colaworld.planning.protocols import World


@dataclass(frozen=True, kw_only=True)
class StateGoal:
    """Summed privileged costs of the last ``last`` states (None: all); the goal frame is not looked at."""

    last: int | None = None

    def target(self, world: World, goal: Tensor) -> None:
        """Nothing: the predicate is the goal."""

    def __call__(self, world: World, imagined: Tensor, target: None) -> Tensor:
        """``imagined (S, H, 1) -> costs (S,)``."""
        kept = imagined if self.last is None else imagined[:, -self.last :]
        return kept.sum(dim=(1, 2))
