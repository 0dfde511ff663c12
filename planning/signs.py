"""A Gaussian some of whose dimensions are signs: a gripper's command, of which the controller reads nothing else.

A signed dimension takes the values -1 and +1; what is searched is the probability of +1 at each step ``(H, G)``,
refitted to the elites' share of +1. ``persistence`` makes a drawn sign last: at each step it is drawn afresh only with
probability ``1 - persistence``, which leaves every step's own probability exactly what it is.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from einops import einsum
from torch import Tensor

from colaworld.planning.distributions import ActionPrior, Gaussian


@dataclass(frozen=True, kw_only=True, eq=False)
class SignedGaussian:
    """``gaussian (H, A)``, of whose dimensions ``signed`` (G of them) only the sign counts: +1 with probability
    ``positive (H, G)``, else -1.

    ``floor`` is the least probability that a refit leaves to either sign (one that was certain stays certain),
    ``confidence`` the probability of a plan's sign when the search is recentred on it. Raises ValueError naming what
    lies outside its range, and for signed dimensions that do not exist or whose bounds exclude -1 or +1.
    """

    gaussian: Gaussian
    positive: Tensor
    signed: tuple[int, ...]
    persistence: float = 0.0
    floor: float = 0.05
    confidence: float = 0.8

    def __post_init__(self) -> None:
        horizon, width = self.gaussian.mean.shape
        if len(set(self.signed)) != len(self.signed) or not all(0 <= index < width for index in self.signed):
            raise ValueError(f"signed dimensions must be distinct and lie in 0..{width - 1}, got {self.signed}")
        if self.positive.shape != (horizon, len(self.signed)):
            raise ValueError(f"positive must be ({horizon}, {len(self.signed)}), got {tuple(self.positive.shape)}")
        if not bool(((self.positive >= 0) & (self.positive <= 1)).all()):
            raise ValueError(f"probabilities of +1 must lie in [0, 1], got {self.positive.tolist()}")
        for index in self.signed:
            low, high = self.gaussian.low[index].item(), self.gaussian.high[index].item()
            if low > -1 or high < 1:
                raise ValueError(f"dimension {index} is signed, its bounds must hold -1 and 1, got [{low}, {high}]")
        check_signs(self.persistence, self.floor, self.confidence)

    @property
    def horizon(self) -> int:
        """H."""
        return self.gaussian.horizon

    @property
    def free(self) -> Tensor:
        """bool ``(H, A)``: real and not held fixed; signs are neither."""
        return self._with(self.gaussian.free, torch.zeros_like(self.positive, dtype=torch.bool))

    def clamp(self, actions: Tensor) -> Tensor:
        """``(..., H, A)`` inside the bounds, signed dimensions their sign (0 is -1)."""
        inside = self.gaussian.clamp(actions)
        return self._with(inside, signs(inside[..., self.signed] > 0, inside))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, H, A)`` inside the bounds; ``generator`` lives on the device of the tensors."""
        drawn = self.gaussian.sample(count, generator)
        shape, device = (count, *self.positive.shape), self.positive.device
        level = torch.rand(shape, generator=generator, device=device, dtype=self.positive.dtype)
        if self.persistence:
            lasts = torch.rand(shape, generator=generator, device=device) < self.persistence
            for step in range(1, self.horizon):
                level[:, step] = torch.where(lasts[:, step], level[:, step - 1], level[:, step])
        return self._with(drawn, signs(level < self.positive, drawn))

    def mode(self) -> Tensor:
        """``(H, A)``: the Gaussian's, and the likelier sign (-1 when neither is)."""
        middle = self.gaussian.mode()
        return self._with(middle, signs(self.positive > 0.5, middle))

    def spread(self) -> float:
        """Mean standard deviation, a sign's being ``2 sqrt(p (1 - p))``."""
        signed = 2 * (self.positive * (1 - self.positive)).sqrt()
        return self._with(self.gaussian.std, signed.to(self.gaussian.std)).mean().item()

    def recentred(self, actions: Tensor) -> Self:
        """The Gaussian around ``actions (H, A)``; their signs get ``confidence`` (0: even)."""
        wanted = 0.5 + (self.confidence - 0.5) * actions[..., self.signed].to(self.positive).sign()
        return replace(self, gaussian=self.gaussian.recentred(actions), positive=self._kept_certain(wanted))

    def refitted(self, elites: Tensor, *, keep: float, min_std: float) -> Self:
        """The Gaussian's refit, and the share of +1 among ``elites (E, H, A)``, ``keep`` of the old one left."""
        share = (elites[..., self.signed] > 0).to(self.positive).mean(dim=0)
        return replace(
            self,
            gaussian=self.gaussian.refitted(elites, keep=keep, min_std=min_std),
            positive=self._floored(keep * self.positive + (1 - keep) * share),
        )

    def moved(self, actions: Tensor, weights: Tensor) -> Self:
        """The Gaussian moved, and the weighted share of +1 among ``actions (S, H, A)``."""
        positive = (actions[..., self.signed] > 0).to(self.positive)
        share = einsum(weights.to(self.positive), positive, "s, s h g -> h g")
        return replace(self, gaussian=self.gaussian.moved(actions, weights), positive=self._floored(share))

    def _floored(self, positive: Tensor) -> Tensor:
        return self._kept_certain(positive.clamp(self.floor, 1 - self.floor))

    def _kept_certain(self, positive: Tensor) -> Tensor:
        """What is certain stays so, as a dimension of ``std`` 0 stays fixed."""
        certain = (self.positive == 0) | (self.positive == 1)
        return torch.where(certain, self.positive, positive)

    def _with(self, values: Tensor, signed: Tensor) -> Tensor:
        values = values.clone()
        values[..., self.signed] = signed
        return values


def signs(positive: Tensor, like: Tensor) -> Tensor:
    """bool to -1 and +1, of the type of ``like``."""
    return positive.to(like) * 2 - 1


def check_signs(persistence: float, floor: float, confidence: float) -> None:
    """Raise ValueError naming what lies outside its range."""
    if not 0 <= persistence <= 1:
        raise ValueError(f"persistence (of a sign) must lie in [0, 1], got {persistence}")
    if not 0 < floor < 0.5:
        raise ValueError(f"floor (of a sign's probability) must lie in (0, 0.5), got {floor}")
    if not 0.5 < confidence < 1:  # even, and a plan would not be the middle of the search around it
        raise ValueError(f"confidence (in a plan's sign) must lie in (0.5, 1), got {confidence}")


@dataclass(frozen=True, kw_only=True)
class SignedPrior(ActionPrior):
    """An ``ActionPrior`` whose dimensions ``signed`` are signs, +1 with probability ``positive`` at first; their mean
    and ``std`` are not read.

    Raises ValueError for anything that ``SignedGaussian`` refuses.
    """

    signed: tuple[int, ...]
    positive: float = 0.5
    persistence: float = 0.0
    floor: float = 0.05
    confidence: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.distribution(1)

    def distribution(self, horizon: int) -> SignedGaussian:
        """The first distribution of a search, float32 on the CPU."""
        return SignedGaussian(
            gaussian=self.gaussian(horizon),
            positive=torch.full((horizon, len(self.signed)), self.positive),
            signed=self.signed,
            persistence=self.persistence,
            floor=self.floor,
            confidence=self.confidence,
        )
