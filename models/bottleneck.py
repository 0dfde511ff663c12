"""The bottleneck of the latent action model: a vector quantiser (the paper's) or a continuous one behind the same door.

The quantiser is vector-quantize-pytorch's, with a codebook learned by gradient (no EMA, no rotation trick). The library
folds its two losses into one weight and drops the straight-through estimator in ``eval()``; so its own weight is 0, and
the codebook loss (1.0), the commitment loss (0.25) and the straight-through estimator, which a planner by gradient
needs in evaluation too, stand here.

Shapes: in and out ``(B, N, tokens * width)``; indices ``(B, N, tokens)``.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from vector_quantize_pytorch import VectorQuantize


@dataclass
class Bottlenecked:
    """Latent actions ``(B, N, D)``, code indices ``(B, N, tokens)`` (None when continuous), the loss and its parts."""

    latents: Tensor
    indices: Tensor | None
    loss: Tensor
    parts: dict[str, Tensor]


class Bottleneck(ModelMixin, ConfigMixin):
    """``kind="vq"``: nearest entries of one codebook. ``kind="continuous"``: a Gaussian with a KL term; D is the mean's
    width.

    Raises ValueError on an unknown kind or an input of another width.
    """

    @register_to_config
    def __init__(
        self,
        *,
        kind: Literal["vq", "continuous"] = "vq",
        tokens: int = 2,
        entries: int = 32,
        width: int = 32,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        kl_weight: float = 1e-3,
    ) -> None:
        super().__init__()
        if kind not in ("vq", "continuous"):
            raise ValueError(f"bottleneck kind must be 'vq' or 'continuous', got {kind!r}")
        if min(tokens, width) < 1 or entries < 2:
            raise ValueError(
                f"a bottleneck needs tokens, width >= 1 and entries >= 2, got {tokens}, {width}, {entries}"
            )
        self.quantiser = None
        if kind == "vq":
            # k-means over the first batch spreads the entries; the paper does not state its initialisation.
            self.quantiser = VectorQuantize(
                dim=width,
                codebook_size=entries,
                learnable_codebook=True,
                ema_update=False,
                rotation_trick=False,
                commitment_weight=0.0,
                kmeans_init=True,
            )
            # A fresh inverse dynamics model gives every pair of frames nearly the same tokens, and the first few
            # updates would sweep
            # them all into one entry. Standardised over the batch, they are spread from the first step on, at a scale
            # that neither
            # encoder nor codebook can run away with. Not stated in the paper.
            self.norm = nn.BatchNorm1d(tokens * width, affine=False, momentum=0.05)

    @property
    def dim(self) -> int:
        """D, the width of one latent action."""
        return self.config.tokens * self.config.width

    @property
    def input_dim(self) -> int:
        """What the inverse dynamics model must produce for one step: D, or mean and log-variance."""
        return self.dim if self.config.kind == "vq" else 2 * self.dim

    def forward(
        self, raw: Tensor, generator: torch.Generator | None = None, *, commitment: float = 1.0
    ) -> Bottlenecked:
        """What inverse dynamics says, ``raw (B, N, input_dim)``, to latent actions. Without a generator a continuous
        one returns its mean.

        ``commitment`` scales the commitment term (a warm-up raises it from 0).
        """
        if raw.shape[-1] != self.input_dim:
            raise ValueError(f"the bottleneck takes {self.input_dim} numbers a step, got {raw.shape[-1]}")
        if self.quantiser is None:
            return self._continuous(raw, generator)
        normed = rearrange(self.norm(rearrange(raw, "b n d -> (b n) d")), "(b n) d -> b n d", b=len(raw))
        return self.snap(normed, commitment=commitment)

    @torch.no_grad()
    def recalibrate(self, raw: Tensor) -> None:
        """Take the standardisation from ``raw (B, N, input_dim)``: averaged weights (an EMA) do not have the running
        weights' mean.
        """
        if self.quantiser is not None:
            flat = raw.flatten(0, -2)
            self.norm.running_mean.copy_(flat.mean(dim=0))
            self.norm.running_var.copy_(flat.var(dim=0))

    def snap(self, latents: Tensor, *, commitment: float = 1.0) -> Bottlenecked:
        """Latent actions ``(B, N, D)`` that are already in the codebook's space (an adapter's) to their nearest codes.

        A continuous bottleneck leaves them as they are.
        """
        if self.quantiser is None:
            zero = latents.new_zeros(())
            return Bottlenecked(latents=latents, indices=None, loss=zero, parts={})
        tokens = rearrange(latents, "b n (k w) -> b (n k) w", k=self.config.tokens)
        with torch.no_grad():
            _, indices, _ = self.quantiser(tokens)
        entries = self.quantiser.get_codes_from_indices(indices)
        codebook_loss = F.mse_loss(entries, tokens.detach())
        commitment_loss = F.mse_loss(tokens, entries.detach())
        weight = commitment * self.config.commitment_weight
        straight_through = tokens + (entries - tokens).detach()
        return Bottlenecked(
            latents=rearrange(straight_through, "b (n k) w -> b n (k w)", k=self.config.tokens),
            indices=rearrange(indices, "b (n k) -> b n k", k=self.config.tokens),
            loss=self.config.codebook_weight * codebook_loss + weight * commitment_loss,
            parts={"codebook": codebook_loss.detach(), "commitment": commitment_loss.detach()},
        )

    def _continuous(self, raw: Tensor, generator: torch.Generator | None) -> Bottlenecked:
        mean, log_variance = raw.chunk(2, dim=-1)
        log_variance = log_variance.clamp(-10.0, 10.0)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=-1).mean()
        noise = 0.0
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device) * (0.5 * log_variance).exp()
        return Bottlenecked(
            latents=mean + noise, indices=None, loss=self.config.kl_weight * kl, parts={"kl": kl.detach()}
        )

    def code_logits(self, latents: Tensor) -> Tensor:
        """How near ``latents (B, N, D)`` come to every entry: minus squared distances ``(B, N, tokens, entries)``, as
        logits.

        Their argmax is the code that ``snap`` picks. ValueError when continuous.
        """
        if self.quantiser is None:
            raise ValueError("a continuous bottleneck has no codes")
        tokens = rearrange(latents, "b n (k w) -> b n k w", k=self.config.tokens)
        codebook = self.quantiser.codebook
        return 2.0 * tokens @ codebook.T - codebook.square().sum(dim=-1) - tokens.square().sum(dim=-1, keepdim=True)

    def from_indices(self, indices: Tensor) -> Tensor:
        """Code indices ``(B, N, tokens)`` to latent actions ``(B, N, D)``."""
        if self.quantiser is None:
            raise ValueError("a continuous bottleneck has no codes")
        return rearrange(self.quantiser.get_codes_from_indices(indices), "b n k w -> b n (k w)")
