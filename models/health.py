"""Codebook health, per token: utilisation, max-usage and entropy of the codes in a window, over all of its transitions
and over those in which something moves.

Paper: collapse when utilisation < 20 %, max-usage > 50 % or entropy < 1.0 nat; to be read normalised for how unbalanced
the real actions are. Idle frames are what unbalances them most: a robot that stands still through most of a window
earns one code for it, rightly, and the plain figures then look like a collapse. So idle transitions are left out.

Shapes: codec latents ``(B, T, C, h, w)``, code indices ``(B, T - 1, tokens)``, one flag per transition ``(B, T - 1)``.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from einops import reduce
from torch import Tensor

LEAST_UTILISATION, MOST_USAGE, LEAST_ENTROPY = 0.2, 0.5, 1.0  # the paper's; entropy in nats
IDLE = 0.2
"""A transition is idle when its change is below this share of the window's typical one. Not stated in the paper."""
STILL = 0.04
"""And in any case when its change is below this share of the latents' own spread: grain, not motion. With the shipped
codec, grain of 2/255 in a picture that stands still comes to 0.037, a gripper that moves one centimetre to 0.085. Not
stated in the paper."""


@dataclass(frozen=True)
class CodebookHealth:
    """One token's codes: share of entries used at least once, share of the most used one, entropy in nats.

    ``n`` codes can use no more than n entries, nor have more than log n nats: a small window looks poorer than it is.
    """

    utilisation: float
    max_usage: float
    entropy: float
    n: int

    @property
    def collapsed(self) -> bool:
        """The paper's thresholds."""
        return self.utilisation < LEAST_UTILISATION or self.max_usage > MOST_USAGE or self.entropy < LEAST_ENTROPY


def moving_transitions(latents: Tensor) -> Tensor:
    """``latents (B, T, C, h, w)`` -> bool ``(B, T - 1)``: in which transitions something moves. Needs no labels.

    A transition's change is the root mean square difference of its two latents. The typical change is the mean of all,
    each weighted by itself (sum of squares over sum): transitions without change have no weight in it, so it says how
    much what moves moves, be nine tenths of the window idle, and one great leap does not set it alone as a maximum
    would. All False when nothing in the window moves.
    """
    change = reduce((latents[:, 1:] - latents[:, :-1]).square(), "b t c h w -> b t", "mean").sqrt()
    typical = change.square().sum() / change.sum().clamp_min(torch.finfo(change.dtype).tiny)
    spread = latents.std(correction=0)
    return (change >= IDLE * typical) & (change > STILL * spread)


def codebook_health(
    indices: Tensor, entries: int | Sequence[int], *, keep: Tensor | None = None
) -> list[CodebookHealth]:
    """``indices (..., tokens)`` integer codes below ``entries`` (one number, or one for each token): the health of each
    token.

    ``keep (...)``, bool: only those steps count; an empty list when it keeps none. ValueError when there are no codes
    at all, a code is outside the codebook, or the shapes disagree.
    """
    if indices.numel() == 0:
        raise ValueError("codebook health of no codes")
    tokens = indices.shape[-1]
    sizes = [entries] * tokens if isinstance(entries, int) else list(entries)
    if len(sizes) != tokens:
        raise ValueError(f"codebook sizes {sizes} for {tokens} tokens")
    if keep is not None:
        if keep.shape != indices.shape[:-1]:
            raise ValueError(f"a mask of shape {tuple(keep.shape)} for codes of shape {tuple(indices.shape)}")
        indices = indices[keep]
        if indices.numel() == 0:
            return []
    flat = indices.reshape(-1, tokens)
    return [_token_health(token, size) for token, size in zip(flat.unbind(dim=-1), sizes, strict=True)]


def _token_health(codes: Tensor, entries: int) -> CodebookHealth:
    if codes.min() < 0 or codes.max() >= entries:
        raise ValueError(f"codes from {int(codes.min())} to {int(codes.max())} of a codebook of {entries}")
    share = torch.bincount(codes, minlength=entries).double() / len(codes)
    used = share[share > 0]
    return CodebookHealth(
        utilisation=len(used) / entries,
        max_usage=float(share.max()),
        entropy=float((used * -used.log()).sum()),
        n=len(codes),
    )


def health_report(indices: Tensor, entries: int | Sequence[int], moving: Tensor) -> list[dict[str, float | int | None]]:
    """One dict a token: the figures of ``CodebookHealth`` over all transitions, and with the suffix ``_moving`` over
    those that ``moving (...)`` keeps; where nothing moves those are None and ``n_moving`` is 0.
    """
    every = codebook_health(indices, entries)
    nothing = dict.fromkeys(asdict(every[0])) | {"n": 0}
    moved = [asdict(health) for health in codebook_health(indices, entries, keep=moving)] or [nothing] * len(every)
    return [
        asdict(health) | {f"{name}_moving": value for name, value in figures.items()}
        for health, figures in zip(every, moved, strict=True)
    ]


def health_numbers(indices: Tensor, entries: int | Sequence[int], moving: Tensor) -> dict[str, float]:
    """The same as flat numbers for a log: ``utilisation_0``, ``utilisation_0_moving`` and so on (left out where nothing
    moves), and ``transitions`` and ``transitions_moving``, the sizes of the two windows.
    """
    report = health_report(indices, entries, moving)
    numbers = {"transitions": float(report[0]["n"]), "transitions_moving": float(report[0]["n_moving"])}
    for token, figures in enumerate(report):
        for name in ("utilisation", "max_usage", "entropy"):
            numbers[f"{name}_{token}"] = figures[name]
            if figures[f"{name}_moving"] is not None:
                numbers[f"{name}_{token}_moving"] = figures[f"{name}_moving"]
    return numbers
