"""The quantisers behind the bottleneck, all vector-quantize-pytorch's own, and how a latent action lies in their codes.

- ``vq`` (the paper's): ``tokens`` stretches of ``width`` numbers, each snapped to the nearest of ``entries`` learned
  vectors that they share; k-means over the first batch spreads those.
- ``simvq``: the same, but the entries are a frozen Gaussian codebook seen through one learned matrix, so that every
  entry moves when one is used (Zhu et al. 2024).
- ``fsq``: a token is two to four numbers in -1..1, each rounded to a few levels, whose product is ``entries``;
  nothing to learn (Mentzer et al. 2023). ``width`` does not apply: it is the number of levels.
- ``residual_vq``: the latent action is one vector of ``tokens * width`` numbers; token k names the nearest of its own
  ``entries`` to what the tokens before it have left over (Zeghidour et al. 2021).

So each has ``tokens`` indices of ``entries`` codes, ``entries ** tokens`` latent actions (the paper's 2 x 32: 1024),
and all but ``fsq`` the same D. Learned by gradient: no EMA, no rotation trick; the library's own losses are not used.
Not stated in the paper: every kind but ``vq``, k-means, and unused entries' new start.

Shapes: latent actions ``(B, N, D)``, indices ``(B, N, K)`` with K tokens of E entries, codes ``(B, N, K, w)``,
codebooks ``(K, E, w)``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from vector_quantize_pytorch import FSQ, ResidualVQ, SimVQ, VectorQuantize

QuantiserKind = Literal["vq", "fsq", "simvq", "residual_vq"]

LEVELS = {
    4: (2, 2),
    8: (4, 2),
    16: (4, 4),
    32: (8, 4),
    64: (8, 8),
    128: (8, 4, 4),
    256: (8, 8, 4),
    512: (8, 8, 8),
    1024: (8, 8, 4, 4),
}
"""The levels of an ``fsq`` token of so many entries."""

REPLACED = ("vq", "residual_vq")
"""Kinds whose unused entries can start anew."""
USE_DECAY = 0.98
"""Of the running average of how many tokens of a batch name an entry."""
LEARNED = {
    "ema_update": False,
    "learnable_codebook": True,
    "rotation_trick": False,
    "kmeans_init": True,
    "sync_codebook": False,  # it sees all processes' first tokens, and learns from the gradient that they share
}


def fsq_levels(entries: int) -> tuple[int, ...]:
    """The levels of an ``fsq`` token with ``entries`` codes. ValueError, with the known sizes, when there are none."""
    if entries not in LEVELS:
        raise ValueError(f"fsq has levels for {', '.join(map(str, LEVELS))} entries, got {entries}")
    return LEVELS[entries]


def make_quantiser(
    kind: QuantiserKind, *, tokens: int, entries: int, width: int, replace_unused: float = 0.0
) -> nn.Module:
    """A fresh quantiser (torch's global generator draws ``simvq``'s). ``replace_unused``:
    ``Bottleneck``'s. ValueError for ``fsq`` of unknown ``entries``, and for a kind whose entries cannot be replaced."""
    if replace_unused and kind not in REPLACED:
        raise ValueError(f"entries of {kind!r} cannot be replaced, replace_unused must be 0, got {replace_unused}")
    learned = {
        **LEARNED,
        "codebook_size": entries,
        "commitment_weight": 0.0,
        "threshold_ema_dead_code": replace_unused,
        "decay": USE_DECAY,
    }
    match kind:
        case "vq":
            return VectorQuantize(dim=width, **learned)
        case "residual_vq":
            return ResidualVQ(dim=tokens * width, num_quantizers=tokens, **learned)
        case "fsq":
            # Differs from FSQ's paper: levels lie symmetrically at even distances and the tanh stands before the door
            # (see ``Bottleneck.forward``), so that a code snaps to itself and snapping takes the nearest code.
            return FSQ(list(fsq_levels(entries)), preserve_symmetry=True, bound_hard_clamp=True)
        case "simvq":
            # Entries of the tokens' own scale (a standard normal's), which an orthogonal matrix leaves as it is.
            mixed = nn.Linear(width, width, bias=False)
            nn.init.orthogonal_(mixed.weight)
            return SimVQ(
                dim=width,
                codebook_size=entries,
                codebook_transform=mixed,
                init_fn=lambda codebook: codebook * width**0.5,
                rotation_trick=False,
            )


def indices_of(quantiser: nn.Module, latents: Tensor) -> Tensor:
    """What the quantiser answers. In training the library asks a gradient of the buffer that its own loss, which is not
    used here, starts from; such a buffer could be neither moved nor copied any more.
    """
    indices = quantiser(latents)[1]
    for buffer in quantiser.buffers():
        buffer.requires_grad_(False)
    return indices


@contextmanager
def only_asked(quantiser: nn.Module) -> Iterator[None]:
    """Asks the quantiser without teaching it: it counts nothing and stays as it is."""
    was = quantiser.training
    quantiser.eval()
    try:
        yield
    finally:
        quantiser.train(was)


class SideBySide:
    """Each token is a stretch of the latent action, snapped on its own to the one codebook that they share."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def pick(self, quantiser: nn.Module, latents: Tensor) -> Tensor:
        """The indices that the quantiser gives ``latents``."""
        indices = indices_of(quantiser, rearrange(latents, "b n (k w) -> b (n k) w", k=self.tokens))
        return rearrange(indices, "b (n k) -> b n k", k=self.tokens).long()

    def codebooks(self, quantiser: nn.Module) -> Tensor:
        """Every token's entries."""
        codebook = quantiser.implicit_codebook if isinstance(quantiser, FSQ) else quantiser.codebook
        return codebook.expand(self.tokens, -1, -1)

    def parts(self, latents: Tensor, codes: Tensor) -> Tensor:
        """What each of ``codes``, the ones picked for ``latents``, stands for."""
        return rearrange(latents, "b n (k w) -> b n k w", k=self.tokens)

    def join(self, codes: Tensor) -> Tensor:
        """The latent actions that ``codes`` make up."""
        return rearrange(codes, "b n k w -> b n (k w)")


class Residual:
    """Each token stands for what the tokens before it have left of the whole latent action. Methods: ``SideBySide``.

    Picked one after another, so that a sum of codes can itself be snapped to other codes, where a later code reaches
    out of its first one's cell.
    """

    def pick(self, quantiser: ResidualVQ, latents: Tensor) -> Tensor:
        """The indices that the quantiser gives ``latents``."""
        return indices_of(quantiser, latents)

    def codebooks(self, quantiser: ResidualVQ) -> Tensor:
        """Every token's entries."""
        return quantiser.codebooks

    def parts(self, latents: Tensor, codes: Tensor) -> Tensor:
        """What each of ``codes`` stands for; its gradient is ``latents``', not that of the codes before."""
        before = F.pad(codes.detach()[..., :-1, :].cumsum(dim=-2), (0, 0, 1, 0))
        return latents[..., None, :] - before

    def join(self, codes: Tensor) -> Tensor:
        """The latent actions that ``codes`` make up."""
        return codes.sum(dim=-2)


def look_up(codebooks: Tensor, indices: Tensor) -> Tensor:
    """The codes of ``indices`` in every token's codebook."""
    return codebooks[torch.arange(len(codebooks), device=indices.device), indices]


def logit_scale(quantiser: nn.Module) -> Tensor | float:
    """In what unit distances to codes are logits, per number of a code.

    ``fsq``: half the distance between two levels, so that a code is told from its neighbours as sharply however many
    levels share -1..1. The others: as they are.
    """
    if not isinstance(quantiser, FSQ):
        return 1.0
    return quantiser.implicit_codebook.new_tensor(fsq_levels(quantiser.codebook_size)) - 1.0
