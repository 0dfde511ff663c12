"""Adapter: real action chunks to latent actions in the same codebook.

Paper: a two-layer MLP from the action alone (``context_frames=0`` here). Differs from the paper: the small presets'
default also sees the last two frames' latents, because codes learned on little data name where the arm ends up as much
as how it moves, and an action alone cannot tell that.

What an adapter answers depends on its kind: a point, or logits of codes. ``adapt`` (or, for an answer that is there
already, ``latents_of`` and ``codes_of``) and ``adapter_loss`` are the doors behind which the kind does not matter.

Shapes: action chunks ``(B, N, frame_skip, A)`` in the robot's units, context latents ``(B, N, context_frames, C, h,
w)``, answers ``(B, N, D or sum of code_sizes)``, latent actions ``(B, N, D)`` in the codebook's space, codes ``(B, N,
tokens)``.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from colaworld.models.bottleneck import Bottleneck

AdapterKind = Literal["nearest", "regress", "classify"]
MIN_ACTION_STD = 0.05  # a dimension that never moves must not be blown up by normalisation


class ActionAdapter(ModelMixin, ConfigMixin):
    """``kind="nearest"``: a point in the codebook's space, taught by how much nearer it comes to the right codes than
    to others. ``"regress"``: a point, taught by its squared error (the paper's, if snapped). ``"classify"``: logits
    over the codes of each token, of which the bottleneck has ``code_sizes``; not snapped, it is the expected latent
    action.

    Raises ValueError on an unknown kind, on ``code_sizes`` that are missing or have no use, and when a chunk is not
    ``(frame_skip, action_dim)`` or the context is missing.
    """

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
        kind: AdapterKind = "nearest",
        code_sizes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if kind not in get_args(AdapterKind):
            raise ValueError(f"adapter kind must be one of {', '.join(get_args(AdapterKind))}, got {kind!r}")
        if (len(code_sizes) > 0) != (kind == "classify"):
            raise ValueError(
                f"code_sizes are the bottleneck's for kind 'classify' and () for others, got {tuple(code_sizes)} "
                f"for {kind!r}"
            )
        if depth < 2:
            raise ValueError(f"an adapter has at least 2 layers, got depth={depth}")
        self.register_buffer("action_mean", torch.zeros(action_dim))
        self.register_buffer("action_std", torch.ones(action_dim))
        context = context_frames * latent_channels * latent_height * latent_width
        sizes = [frame_skip * action_dim + context] + [hidden] * (depth - 1)
        layers: list[nn.Module] = []
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(before, after), nn.GELU(), nn.Dropout(dropout)]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, sum(code_sizes) or latent_action_dim))

    @torch.no_grad()
    def normalise_by(self, actions: Tensor) -> None:
        """Set mean and std from action chunks ``(..., A)``; once, before training."""
        flat = actions.reshape(-1, actions.shape[-1])
        self.action_mean.copy_(flat.mean(dim=0))
        self.action_std.copy_(flat.std(dim=0).clamp_min(MIN_ACTION_STD))

    def forward(self, actions: Tensor, context: Tensor | None = None) -> Tensor:
        """``(B, N, frame_skip, A)`` and, if the adapter sees frames, ``(B, N, context_frames, C, h, w)`` -> the
        answer, ``(B, N, D)`` or, from one that classifies, ``(B, N, sum of code_sizes)``.
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

    ``snap=True``: codes, as the paper's. ``snap=False`` (Differs from the paper): the adapter's own point between the
    codes, which tells apart actions that share a code. None: as the adapter was made.
    """
    return latents_of(adapter, bottleneck, adapter(actions, context), snap=snap)


def latents_of(adapter: ActionAdapter, bottleneck: Bottleneck, answer: Tensor, *, snap: bool | None = None) -> Tensor:
    """The latent actions ``(B, N, D)`` that an adapter's ``answer`` stands for; ``snap`` as in ``adapt``. The gradient
    reaches the answer either way: straight through, where it is snapped.

    ValueError when the adapter was taught codes and the bottleneck has none, or others.
    """
    snap = adapter.config.snap if snap is None else snap
    if adapter.config.kind != "classify":
        check_codes(adapter.config.kind, bottleneck)
        return bottleneck.snap(answer).latents if snap else answer
    logits = answer_logits("classify", bottleneck, answer)
    first, steps = _code_steps(bottleneck, logits.device)
    expected = first + einsum(logits.softmax(dim=-1), steps, "b n k e, k e d -> b n d")
    if not snap:
        return expected
    return expected + (bottleneck.from_indices(logits.argmax(dim=-1)) - expected).detach()


def codes_of(adapter: ActionAdapter, bottleneck: Bottleneck, answer: Tensor) -> Tensor:
    """The codes ``(B, N, tokens)`` of an adapter's ``answer``. ValueError as in ``latents_of``, and without codes."""
    return answer_logits(adapter.config.kind, bottleneck, answer).argmax(dim=-1)


def check_codes(kind: AdapterKind, bottleneck: Bottleneck) -> None:
    """ValueError when an adapter of this kind is taught codes and the bottleneck has none."""
    if kind != "regress" and not bottleneck.codes:
        raise ValueError(
            f"a continuous bottleneck has no codes, which an adapter of kind {kind!r} is taught; use kind 'regress'"
        )


def answer_logits(kind: AdapterKind, bottleneck: Bottleneck, answer: Tensor) -> Tensor:
    """Logits ``(B, N, tokens, entries)`` of an adapter's ``answer``: how near a point comes to each code, or what one
    that classifies answers with. ValueError without codes, or when the adapter's are not the bottleneck's.
    """
    check_codes(kind, bottleneck)
    if kind != "classify":
        return bottleneck.code_logits(answer)
    if answer.shape[-1] != sum(bottleneck.code_sizes):
        raise ValueError(
            f"the adapter answers with {answer.shape[-1]} logits, the bottleneck has {bottleneck.code_sizes} codes"
        )
    return rearrange(answer, "b n (k e) -> b n k e", k=len(bottleneck.code_sizes))


def _code_steps(bottleneck: Bottleneck, device: torch.device) -> tuple[Tensor, Tensor]:
    """Latent actions as sums, whether tokens stand side by side or refine each other: that of all codes 0 ``(D)``, and
    what another code of one token adds to it ``(tokens, entries, D)``.
    """
    tokens, entries = len(bottleneck.code_sizes), bottleneck.code_sizes[0]
    one_token = torch.eye(tokens, dtype=torch.int64, device=device)
    indices = einsum(torch.arange(entries, device=device), one_token, "e, k token -> k e token")
    latents = bottleneck.from_indices(indices)
    return latents[0, 0], latents - latents[0, 0]


def context_windows(latents: Tensor, frames: int) -> Tensor | None:
    """The last ``frames`` latents up to each step's first frame: ``(B, T, C, h, w) -> (B, T - 1, frames, C, h, w)``.

    Before the clip, its first frame stands still. None when ``frames`` is 0.
    """
    if frames == 0:
        return None
    padded = torch.cat([latents[:, :1].expand(-1, frames - 1, -1, -1, -1), latents[:, :-1]], dim=1)
    return rearrange(padded.unfold(1, frames, 1), "b n c h w t -> b n t c h w")


def adapter_loss(
    bottleneck: Bottleneck,
    answer: Tensor,
    latents: Tensor,
    indices: Tensor | None,
    kind: AdapterKind | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """How far an adapter's ``answer`` is from the inverse dynamics model's ``latents (B, N, D)`` and ``indices (B, N,
    tokens)``, over the steps ``keep (B, N)``; where none is kept the loss is 0 and there are no metrics.

    "nearest": cross-entropy over the distances to the codebook's entries, whose nearest one the bottleneck then picks;
    a regression to the code vector would spend itself on codes that are near misses. "classify": cross-entropy.
    "regress": mean squared error. None: "nearest" with codes, "regress" without. ValueError for a kind that needs codes
    where there are none.
    """
    kind = kind or ("regress" if indices is None else "nearest")
    if keep is not None:
        answer, latents = answer[keep][None], latents[keep][None]
        indices = None if indices is None else indices[keep][None]
        if not keep.any():
            return answer.sum(), {}
    check_codes(kind, bottleneck)
    parts, logits = {}, None if indices is None else answer_logits(kind, bottleneck, answer)
    if kind == "regress":
        loss = F.mse_loss(answer, latents)
        parts["adapter_error"] = loss.detach()
    else:
        loss = F.cross_entropy(rearrange(logits, "b n k e -> (b n k) e"), rearrange(indices, "b n k -> (b n k)"))
        parts["adapter_cross_entropy"] = loss.detach()
    if logits is not None:
        parts["adapter_accuracy"] = (logits.argmax(dim=-1) == indices).float().mean()
    return loss, parts
