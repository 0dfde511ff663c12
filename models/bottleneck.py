"""The bottleneck of the latent action model: the paper's quantiser, others or a continuous one behind one door.

The quantisers are vector-quantize-pytorch's (see ``quantisers``). The library folds the codebook and the commitment
loss into one weight and drops the straight-through estimator in ``eval()``; so the codebook loss (1.0), the commitment
loss (0.25) and the straight-through estimator, which a planner by gradient needs in evaluation too, stand here.

Shapes: in ``(B, N, input_dim)``, out ``(B, N, D)``; indices ``(B, N, tokens)``.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from colaworld.models.quantisers import (
    REPLACED,
    Residual,
    SideBySide,
    fsq_levels,
    logit_scale,
    look_up,
    make_quantiser,
    only_asked,
)
from colaworld.models.share import Chance, draw
from colaworld.models.shared_norm import SharedBatchNorm, as_in_first, gathered

BottleneckKind = Literal["vq", "continuous", "fsq", "simvq", "residual_vq"]


@dataclass
class Bottlenecked:
    """Latent actions ``(B, N, D)``, code indices ``(B, N, tokens)`` (None when continuous), the loss and its parts."""

    latents: Tensor
    indices: Tensor | None
    loss: Tensor
    parts: dict[str, Tensor]


class Bottleneck(ModelMixin, ConfigMixin):
    """``kind``: a quantiser of ``tokens`` codes of ``entries`` each, or a Gaussian with a KL term (``"continuous"``).

    ``replace_unused``: in training, an entry that fewer tokens of a batch name than this, on a running average over
    some 50 batches, starts anew at a token of the batch; 0, as in the paper, leaves every entry to its gradient, which
    one that no token names does not have. ``"vq"`` and ``"residual_vq"`` can.

    D, the width of a latent action, is ``tokens * width``, when continuous the mean's; with ``"fsq"``, whose codes are
    not learned vectors, it is ``tokens`` times the number of levels (32 entries: two), and there is no loss.

    Raises ValueError on an unknown kind, sizes that cannot be, an input of another width and indices that are no codes.
    """

    @register_to_config
    def __init__(
        self,
        *,
        kind: BottleneckKind = "vq",
        tokens: int = 2,
        entries: int = 32,
        width: int = 32,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        kl_weight: float = 1e-3,
        replace_unused: float = 0.0,
    ) -> None:
        super().__init__()
        if kind not in get_args(BottleneckKind):
            known = ", ".join(map(repr, get_args(BottleneckKind)))
            raise ValueError(f"bottleneck kind must be one of {known}, got {kind!r}")
        if min(tokens, width) < 1 or entries < 2:
            raise ValueError(
                f"a bottleneck needs tokens, width >= 1 and entries >= 2, got {tokens}, {width}, {entries}"
            )
        if replace_unused < 0.0 or (replace_unused and kind not in REPLACED):
            of = " and ".join(map(repr, REPLACED))
            raise ValueError(f"replace_unused must be 0, or above for {of}, got {replace_unused} for {kind!r}")
        self.quantiser = None
        self.layout = Residual() if kind == "residual_vq" else SideBySide(tokens)
        if kind == "continuous":
            # A buffer, because a module without any weights gets no file of weights, and could not be read back.
            self.register_buffer("log_variance_range", torch.tensor([-10.0, 10.0]))
        else:
            self.quantiser = make_quantiser(
                kind, tokens=tokens, entries=entries, width=width, replace_unused=replace_unused
            )
            # A fresh inverse dynamics model gives every pair of frames nearly the same tokens, and the first few
            # updates would sweep them all into one entry. Standardised over the batch, they are spread from the first
            # step on, at a scale that neither encoder nor codebook can run away with. Not stated in the paper.
            self.norm = SharedBatchNorm(self.dim, affine=False, momentum=0.05)

    @property
    def codes(self) -> bool:
        """Whether latent actions are codes."""
        return self.quantiser is not None

    @property
    def empty(self) -> bool:
        """Whether a codebook waits for the first tokens to be filled from."""
        buffers = () if self.quantiser is None else self.quantiser.named_buffers()
        return any(name.endswith("initted") and not value for name, value in buffers)

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """How many codes each token has; none when continuous."""
        return (self.config.entries,) * self.config.tokens if self.codes else ()

    @property
    def dim(self) -> int:
        """D, the width of one latent action."""
        kind, entries = self.config.kind, self.config.entries
        return self.config.tokens * (len(fsq_levels(entries)) if kind == "fsq" else self.config.width)

    @property
    def input_dim(self) -> int:
        """What the inverse dynamics model must produce for one step: D, or mean and log-variance."""
        return 2 * self.dim if self.config.kind == "continuous" else self.dim

    def forward(
        self, raw: Tensor, generator: Chance | None = None, *, commitment: float = 1.0
    ) -> Bottlenecked:
        """What inverse dynamics says, ``raw (B, N, input_dim)``, to latent actions. Without a generator a continuous
        one returns its mean.

        ``commitment`` scales the commitment term (a warm-up raises it from 0).
        """
        if raw.shape[-1] != self.input_dim:
            raise ValueError(f"the bottleneck takes {self.input_dim} numbers a step, got {raw.shape[-1]}")
        if not self.codes:
            return self._continuous(raw, generator)
        normed = rearrange(self.norm(rearrange(raw, "b n d -> (b n) d")), "(b n) d -> b n d", b=len(raw))
        if self.config.kind == "fsq":
            normed = normed.tanh()  # into the levels' range, where standardised numbers lie about evenly
        self._replace_unused(normed.detach())
        return self.snap(normed, commitment=commitment)

    @torch.no_grad()
    def recalibrate(self, raw: Tensor) -> None:
        """Take the standardisation from ``raw (B, N, input_dim)``: averaged weights (an EMA) do not have the running
        weights' mean.
        """
        if self.codes:
            flat = raw.flatten(0, -2)
            self.norm.running_mean.copy_(flat.mean(dim=0))
            self.norm.running_var.copy_(flat.var(dim=0))

    def snap(self, latents: Tensor, *, commitment: float = 1.0) -> Bottlenecked:
        """Latent actions ``(B, N, D)`` that are already in the codebook's space (an adapter's) to their nearest codes.

        A continuous bottleneck leaves them as they are. Losses are means over tokens; ``fsq`` has none.
        """
        if not self.codes:
            return Bottlenecked(latents=latents, indices=None, loss=latents.new_zeros(()), parts={})
        with torch.no_grad():
            self._fill(latents)
            with only_asked(self.quantiser):
                indices = self.layout.pick(self.quantiser, latents)
        codes = look_up(self.layout.codebooks(self.quantiser), indices)
        # Exactly the codes in value, so that equal codes are equal latent actions; the gradient passes to ``latents``.
        straight_through = self.layout.join(codes).detach() + (latents - latents.detach())
        if self.config.kind == "fsq":
            return Bottlenecked(latents=straight_through, indices=indices, loss=latents.new_zeros(()), parts={})
        meant = self.layout.parts(latents, codes)
        codebook_loss = F.mse_loss(codes, meant.detach())
        commitment_loss = F.mse_loss(meant, codes.detach())
        weight = commitment * self.config.commitment_weight
        return Bottlenecked(
            latents=straight_through,
            indices=indices,
            loss=self.config.codebook_weight * codebook_loss + weight * commitment_loss,
            parts={"codebook": codebook_loss.detach(), "commitment": commitment_loss.detach()},
        )

    def _fill(self, latents: Tensor) -> None:
        """A codebook is filled by k-means from the first tokens it sees: those of all processes, so that it becomes the
        same in each, and in one process alone.
        """
        if self.empty and self.training:
            self._teach(latents)

    @torch.no_grad()
    def _replace_unused(self, latents: Tensor) -> None:
        """Counts who names which entry, and lets those start anew that too few do: in all processes the same ones."""
        if self.config.replace_unused and self.training and not self.empty:
            self._teach(latents)

    def _teach(self, latents: Tensor) -> None:
        """Shows the quantiser in training what all processes have; where it draws lots, they keep the first one's."""
        self.layout.pick(self.quantiser, gathered(latents))
        if self.config.replace_unused:
            as_in_first(self.quantiser)

    def _continuous(self, raw: Tensor, generator: Chance | None) -> Bottlenecked:
        mean, log_variance = raw.chunk(2, dim=-1)
        log_variance = log_variance.clamp(*self.log_variance_range)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=-1).mean()
        noise = 0.0
        if generator is not None:
            noise = draw(torch.randn, mean.shape, generator, mean.device) * (0.5 * log_variance).exp()
        return Bottlenecked(
            latents=mean + noise, indices=None, loss=self.config.kl_weight * kl, parts={"kl": kl.detach()}
        )

    def code_logits(self, latents: Tensor) -> Tensor:
        """How near ``latents (B, N, D)`` come to every entry: minus squared distances ``(B, N, tokens, entries)``, as
        logits.

        Their argmax is the code that ``snap`` picks; with ``"residual_vq"`` a token's distances are from what the
        tokens picked before it leave. ValueError when continuous.
        """
        if not self.codes:
            raise ValueError("a continuous bottleneck has no codes")
        with torch.no_grad():
            indices = self.layout.pick(self.quantiser, latents)
        codebooks, scale = self.layout.codebooks(self.quantiser), logit_scale(self.quantiser)
        codes = look_up(codebooks, indices)
        parts, entries = scale * self.layout.parts(latents, codes), scale * codebooks
        products = torch.einsum("bnkw,kew->bnke", parts, entries)
        return 2.0 * products - entries.square().sum(dim=-1) - parts.square().sum(dim=-1, keepdim=True)

    def from_indices(self, indices: Tensor) -> Tensor:
        """Code indices ``(B, N, tokens)`` to latent actions ``(B, N, D)``. ValueError when continuous or no codes."""
        if not self.codes:
            raise ValueError("a continuous bottleneck has no codes")
        tokens, entries = self.config.tokens, self.config.entries
        if indices.shape[-1] != tokens or ((indices < 0) | (indices >= entries)).any():
            raise ValueError(f"codes are {tokens} indices of 0..{entries - 1} a step, got {_described(indices)}")
        return self.layout.join(look_up(self.layout.codebooks(self.quantiser), indices))


def _described(indices: Tensor) -> str:
    reach = f" of {int(indices.min())}..{int(indices.max())}" if indices.numel() else ""
    return f"{indices.shape[-1]}{reach}"
