"""Adapter: real action chunks to latent actions in the same codebook.

Paper: a two-layer MLP from the action alone (``context_frames=0`` here). Differs from the paper: the small presets'
default also sees the last two frames' latents, because codes learned on little data name where the arm ends up as much
as how it moves, and an action alone cannot tell that.

Shapes: action chunks ``(B, N, frame_skip, A)`` in the robot's units, context latents ``(B, N, context_frames, C, h,
w)``, latent actions ``(B, N, D)`` in the codebook's space (the bottleneck snaps them to codes).
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from colaworld.models.bottleneck import Bottleneck

MIN_ACTION_STD = 0.05  # a dimension that never moves must not be blown up by normalisation


class ActionAdapter(ModelMixin, ConfigMixin):
    """Raises ValueError when a chunk is not ``(frame_skip, action_dim)`` or the context is missing."""

    @register_to_config
    def __init__(
        self,
        *,
        action_dim: int = 7,
        frame_skip: int = 5,
        latent_action_dim: int = 64,
        context_frames: int = 2,
        latent_channels: int = 8,
        latent_height: int = 8,
        latent_width: int = 8,
        hidden: int = 256,
        depth: int = 3,
        dropout: float = 0.1,
        snap: bool = True,
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"an adapter has at least 2 layers, got depth={depth}")
        self.register_buffer("action_mean", torch.zeros(action_dim))
        self.register_buffer("action_std", torch.ones(action_dim))
        context = context_frames * latent_channels * latent_height * latent_width
        sizes = [frame_skip * action_dim + context] + [hidden] * (depth - 1)
        layers: list[nn.Module] = []
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(before, after), nn.GELU(), nn.Dropout(dropout)]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, latent_action_dim))

    @torch.no_grad()
    def normalise_by(self, actions: Tensor) -> None:
        """Set mean and std from action chunks ``(..., A)``; once, before training."""
        flat = actions.reshape(-1, actions.shape[-1])
        self.action_mean.copy_(flat.mean(dim=0))
        self.action_std.copy_(flat.std(dim=0).clamp_min(MIN_ACTION_STD))

    def forward(self, actions: Tensor, context: Tensor | None = None) -> Tensor:
        """``(B, N, frame_skip, A)`` and, if the adapter sees frames, ``(B, N, context_frames, C, h, w)`` -> ``(B, N,
        D)``.
        """
        expected = (self.config.frame_skip, self.config.action_dim)
        if actions.shape[-2:] != expected:
            raise ValueError(
                f"action chunks have shape {tuple(actions.shape[-2:])}, the adapter was made for {expected}"
            )
        x = rearrange((actions - self.action_mean) / self.action_std, "b n k a -> b n (k a)")
        if self.config.context_frames:
            if context is None or context.shape[2] != self.config.context_frames:
                found = None if context is None else context.shape[2]
                raise ValueError(f"this adapter sees {self.config.context_frames} context frames, got {found}")
            x = torch.cat([x, rearrange(context, "b n t c h w -> b n (t c h w)")], dim=-1)
        return self.mlp(x)


def adapt(
    adapter: ActionAdapter,
    bottleneck: Bottleneck,
    actions: Tensor,
    context: Tensor | None,
    *,
    snap: bool | None = None,
) -> Tensor:
    """The latent actions ``(B, N, D)`` that the world model is given for real action chunks ``(B, N, frame_skip, A)``.

    ``snap=True``: the nearest codes, as the paper's. ``snap=False`` (Differs from the paper): the adapter's own point
    between the codes, which tells apart actions that share a code. None: as the adapter was made.
    """
    predicted = adapter(actions, context)
    return bottleneck.snap(predicted).latents if (adapter.config.snap if snap is None else snap) else predicted


def context_windows(latents: Tensor, frames: int) -> Tensor | None:
    """The last ``frames`` latents up to each step's first frame: ``(B, T, C, h, w) -> (B, T - 1, frames, C, h, w)``.

    Before the clip, its first frame stands still. None when ``frames`` is 0.
    """
    if frames == 0:
        return None
    padded = torch.cat([latents[:, :1].expand(-1, frames - 1, -1, -1, -1), latents[:, :-1]], dim=1)
    return rearrange(padded.unfold(1, frames, 1), "b n c h w t -> b n t c h w")


def adapter_loss(
    bottleneck: Bottleneck, predicted: Tensor, latents: Tensor, indices: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """How far the adapter's ``predicted (B, N, D)`` is from the inverse dynamics model's latent actions.

    With codes: cross-entropy over the distances to the codebook's entries, whose nearest one the bottleneck then picks;
    a regression to the code vector would spend itself on codes that are near misses. Without codes: mean squared error.
    """
    if indices is None:
        error = F.mse_loss(predicted, latents)
        return error, {"adapter_error": error.detach()}
    logits = bottleneck.code_logits(predicted)
    loss = F.cross_entropy(rearrange(logits, "b n k e -> (b n k) e"), rearrange(indices, "b n k -> (b n k)"))
    accuracy = (logits.argmax(dim=-1) == indices).float().mean()
    return loss, {"adapter_cross_entropy": loss.detach(), "adapter_accuracy": accuracy}
