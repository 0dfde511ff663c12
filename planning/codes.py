"""Categorical over sequences of codes ``(H, tokens)``, int64 indices of ``entries`` codes each: the space of latent
actions itself, for a world that is driven by codes.

Tokens and steps are independent. Every refit mixes a uniform share in, so that no code is ever out of reach.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from einops import einsum, rearrange, repeat
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True, eq=False)
class Categorical:
    """``probabilities (H, tokens, entries)``, positive, each token's adding up to 1.

    ``smoothing`` is the uniform share of every refit, ``confidence`` what a plan's codes get when the search is
    recentred on it. Raises ValueError for shapes, probabilities or shares that cannot be.
    """

    probabilities: Tensor
    smoothing: float = 0.05
    confidence: float = 0.5

    def __post_init__(self) -> None:
        if self.probabilities.ndim != 3:
            raise ValueError(f"probabilities must be (H, tokens, entries), got {tuple(self.probabilities.shape)}")
        if not bool((self.probabilities > 0).all()):
            raise ValueError(f"probabilities of codes must be positive, got {self.probabilities.min().item()}")
        total = self.probabilities.sum(dim=-1)
        if not torch.allclose(total, torch.ones_like(total), atol=1e-4):
            raise ValueError(f"probabilities of each token must add up to 1, got {total.min():g} to {total.max():g}")
        check_shares(self.smoothing, self.confidence)

    @property
    def horizon(self) -> int:
        """H."""
        return self.probabilities.shape[0]

    @property
    def entries(self) -> int:
        """Codes of each token."""
        return self.probabilities.shape[-1]

    def clamp(self, actions: Tensor) -> Tensor:
        """Codes ``(..., H, tokens)`` as they are; ValueError for an index that is no code."""
        if actions.numel() and (actions.min() < 0 or actions.max() >= self.entries):
            low, high = actions.min().item(), actions.max().item()
            raise ValueError(f"codes must be indices of 0..{self.entries - 1}, got {low} to {high}")
        return actions

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 ``(count, H, tokens)``; ``generator`` lives on the device of the probabilities."""
        rows = rearrange(self.probabilities, "h k e -> (h k) e")
        drawn = torch.multinomial(rows, count, replacement=True, generator=generator)
        return rearrange(drawn, "(h k) s -> s h k", h=self.horizon)

    def mode(self) -> Tensor:
        """``(H, tokens)``: each token's likeliest code (the first of equals)."""
        return self.probabilities.argmax(dim=-1)

    def spread(self) -> float:
        """Mean entropy as a share of the uniform one's: 1 knows nothing, 0 is certain."""
        entropy = -(self.probabilities * self.probabilities.log()).sum(dim=-1)
        return entropy.mean().item() / max(math.log(self.entries), torch.finfo(torch.float32).tiny)

    def recentred(self, actions: Tensor) -> Self:
        """``confidence`` on the codes ``actions (H, tokens)``, the rest as it was."""
        wanted = self._one_hot(actions)
        return replace(self, probabilities=self.confidence * wanted + (1 - self.confidence) * self.probabilities)

    def refitted(self, elites: Tensor, *, keep: float, min_std: float) -> Self:
        """The frequencies of codes among ``elites (E, H, tokens)``, ``keep`` of the old probabilities left, smoothed
        (``min_std`` has no meaning here).
        """
        frequencies = self._one_hot(elites).mean(dim=0)
        return self._smoothed(keep * self.probabilities + (1 - keep) * frequencies)

    def moved(self, actions: Tensor, weights: Tensor) -> Self:
        """The weighted frequencies of codes among ``actions (S, H, tokens)``, smoothed."""
        hot = self._one_hot(actions)
        return self._smoothed(einsum(weights.to(hot), hot, "s, s h k e -> h k e"))

    def _smoothed(self, probabilities: Tensor) -> Self:
        return replace(self, probabilities=(1 - self.smoothing) * probabilities + self.smoothing / self.entries)

    def _one_hot(self, actions: Tensor) -> Tensor:
        return F.one_hot(self.clamp(actions).to(torch.int64), self.entries).to(self.probabilities)


def check_shares(smoothing: float, confidence: float) -> None:
    """Raise ValueError naming what lies outside its range."""
    if not 0 < smoothing < 1:
        raise ValueError(f"smoothing must lie in (0, 1), got {smoothing}")
    if not 0.5 <= confidence < 1:  # less, and a plan would not be the middle of the search around it
        raise ValueError(f"confidence (in a plan's codes) must lie in [0.5, 1), got {confidence}")


@dataclass(frozen=True, kw_only=True)
class CodePrior:
    """What is believed of one step's codes before planning. ``sizes`` is how many codes each token has (all alike),
    ``rest_codes`` what stands for doing nothing.

    ``usage``, for each token the frequencies of its codes (in training data, say), keeps the search to codes that mean
    something; uniform when not given. Raises ValueError for sizes that differ, codes beyond them or usage of other
    lengths, and anything that ``Categorical`` refuses.
    """

    sizes: tuple[int, ...]
    rest_codes: tuple[int, ...]
    usage: tuple[tuple[float, ...], ...] | None = None
    smoothing: float = 0.05
    confidence: float = 0.5

    def __post_init__(self) -> None:
        if len(set(self.sizes)) != 1 or self.sizes[0] < 2:
            raise ValueError(f"sizes must be the same 2 or more codes for every token, got {self.sizes}")
        if len(self.rest_codes) != self.width or not all(0 <= code < self.sizes[0] for code in self.rest_codes):
            raise ValueError(f"rest_codes must be {self.width} of 0..{self.sizes[0] - 1}, got {self.rest_codes}")
        if self.usage is not None:
            lengths = tuple(len(token) for token in self.usage)
            if lengths != self.sizes:
                raise ValueError(f"usage must have as many frequencies as there are codes, {self.sizes}, got {lengths}")
            for token in self.usage:
                if not all(0 <= frequency < math.inf for frequency in token) or sum(token) <= 0:
                    raise ValueError(f"usage must be frequencies of 0 or more, not all 0, got {token}")
        self.distribution(1)

    @property
    def width(self) -> int:
        """Tokens."""
        return len(self.sizes)

    def distribution(self, horizon: int) -> Categorical:
        """The first distribution of a search, float32 on the CPU."""
        if horizon < 1:
            raise ValueError(f"horizon must be 1 or more, got {horizon}")
        check_shares(self.smoothing, self.confidence)
        entries = self.sizes[0]
        usage = torch.ones(self.width, entries) if self.usage is None else torch.tensor(self.usage, dtype=torch.float32)
        share = usage / usage.sum(dim=-1, keepdim=True)
        smoothed = (1 - self.smoothing) * share + self.smoothing / entries
        return Categorical(
            probabilities=repeat(smoothed, "k e -> h k e", h=horizon),
            smoothing=self.smoothing,
            confidence=self.confidence,
        )

    def rest(self) -> Tensor:
        """int64 ``(tokens,)``."""
        return torch.tensor(self.rest_codes)
