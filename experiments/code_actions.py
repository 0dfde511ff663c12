"""Acting on planned codes, see ``planning.protocols.ToAction``: each is turned into the real action to hold by the
inverse adapter, in view of the last frames.
"""

import torch
from torch import Tensor

from colaworld.adapters.inverse_adapter import InverseAdapter
from colaworld.experiments.inverse_policy import Encode
from colaworld.models.bottleneck import Bottleneck


class CodeActions:
    """``bottleneck`` is that of the system whose codes are planned, ``encode`` its codec."""

    def __init__(self, inverse: InverseAdapter, bottleneck: Bottleneck, encode: Encode) -> None:
        self.inverse, self.bottleneck, self.encode = inverse.eval(), bottleneck, encode

    @torch.no_grad()
    def __call__(self, codes: Tensor, frames: Tensor) -> Tensor:
        """``codes (tokens,)``, ``frames uint8 (T, 3, height, width) -> (A,)``."""
        latents = self.encode(frames[-2:])
        latent_action = self.bottleneck.from_indices(codes[None, None].to(latents.device))[0]
        return self.inverse(latent_action, latents[:1], latents[-1:])[0].float().cpu()

    @property
    def rest_action(self) -> Tensor:
        """``(A,)``: nothing moves."""
        return torch.zeros(self.inverse.config.action_dim)

    @property
    def rest_codes(self) -> tuple[int, ...]:
        """What was read off frames in which nothing moves."""
        return tuple(self.inverse.rest_codes.tolist())

    @property
    def usage(self) -> tuple[tuple[float, ...], ...]:
        """For each token, how often each of its codes was read off recordings."""
        return tuple(tuple(token) for token in self.inverse.usage.tolist())
