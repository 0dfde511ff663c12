"""Codebook health, per token: utilisation, max-usage and entropy of the codes in a window.

Paper: collapse when utilisation < 20 %, max-usage > 50 % or entropy < 1.0 nat.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodebookHealth:
    """One token's codes: share of entries used at least once, share of the most used one, entropy in nats."""

    utilisation: float
    max_usage: float
    entropy: float

    @property
    def collapsed(self) -> bool:
        """The paper's thresholds."""
        return self.utilisation < 0.2 or self.max_usage > 0.5 or self.entropy < 1.0


def codebook_health(indices: Tensor, entries: int) -> list[CodebookHealth]:
    """``indices (..., tokens)`` integer codes below ``entries``: the health of each token. ValueError when there are
    none.
    """
    if indices.numel() == 0:
        raise ValueError("codebook health of no codes")
    reports = []
    for token in indices.reshape(-1, indices.shape[-1]).unbind(dim=-1):
        share = torch.bincount(token, minlength=entries).double() / len(token)
        used = share[share > 0]
        reports.append(
            CodebookHealth(
                utilisation=len(used) / entries,
                max_usage=float(share.max()),
                entropy=float(-(used * used.log()).sum()),
            )
        )
    return reports
