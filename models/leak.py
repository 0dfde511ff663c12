"""Whether the latent action of step t sees more than it may: an exact check, frame by frame.

Step t leads from frame t to frame t + 1 and may depend on frames t - history .. t + 1 alone. One that sees frame t + 2
hands the answer of the next step over, and a slip in padding makes one that sees neither of its own frames; no loss
curve shows either. So every frame in turn is replaced and every step is compared: outside its window it must not move
by one bit, and both of its own frames must move it. Quantised codes would hide a small dependence: check what inverse
dynamics says *before* the bottleneck, in evaluation mode.

Shapes: latents ``(B, T, C, h, w)`` -> latent actions ``(B, T - 1, D)``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LeakReport:
    """``reach (T - 1, T)``: by how much the latent action of each step (row) moved when a frame (column) was replaced,
    the largest change over clips and dimensions.
    """

    reach: Tensor
    history: int

    @property
    def leaks(self) -> list[tuple[int, int]]:
        """``(step, offset)`` of every frame step + offset that a step sees and must not; the strongest first."""
        steps, frames = self.reach.shape
        outside = [(t, f - t) for t in range(steps) for f in range(frames) if not -self.history <= f - t <= 1]
        seen = [(t, offset) for t, offset in outside if self.reach[t, t + offset] > 0.0]
        return sorted(seen, key=lambda leak: -float(self.reach[leak[0], sum(leak)]))

    @property
    def blind(self) -> list[tuple[int, int]]:
        """``(step, offset)``, offset 0 or 1, of the own frames that a step does not see."""
        return [(t, offset) for t in range(len(self.reach)) for offset in (0, 1) if self.reach[t, t + offset] == 0.0]

    @property
    def passed(self) -> bool:
        """No step sees too much or too little."""
        return not self.leaks and not self.blind

    def __str__(self) -> str:
        """One sentence that names the worst step and offset."""
        if self.leaks:
            step, offset = self.leaks[0]
            changed = float(self.reach[step, step + offset])
            return (
                f"leak: the latent action of step {step} changes by {changed:.3g} with frame t{offset:+d} (history is "
                f"{self.history}); {len(self.leaks)} pairs of step and frame in all"
            )
        if self.blind:
            step, offset = self.blind[0]
            return (
                f"blind: the latent action of step {step} does not change with frame t{offset:+d}; "
                f"{len(self.blind)} pairs of step and frame in all"
            )
        return f"no leak: every latent action depends on both of its frames and on none beyond {self.history} before"


@torch.no_grad()
def future_leak(
    read: Callable[[Tensor], Tensor], latents: Tensor, *, history: int, generator: torch.Generator
) -> LeakReport:
    """Replace each frame of ``latents (B, T, C, h, w)`` by noise of its clip's size and see which steps of
    ``read(latents) (B, T - 1, D)`` move; ``generator`` lives where the latents do.

    ValueError for a clip of fewer than history + 3 frames (no frame lies outside a window), for an answer of another
    shape and for one that is not finite.
    """
    batch, frames = latents.shape[:2]
    if history < 0:
        raise ValueError(f"history must not be negative, got {history}")
    if frames < history + 3:
        raise ValueError(f"a leak check with history={history} needs at least {history + 3} frames, got {frames}")
    plain = _checked(read(latents), batch, frames)
    size = 3.0 * latents.std().clamp_min(1e-3)
    reach = torch.zeros(frames - 1, frames)
    for frame in range(frames):
        other = latents.clone()
        noise = torch.randn(latents[:, frame].shape, generator=generator, device=latents.device)
        other[:, frame] += size * noise.to(latents)
        reach[:, frame] = (_checked(read(other), batch, frames) - plain).abs().amax(dim=(0, 2)).cpu()
    return LeakReport(reach=reach, history=history)


def _checked(actions: Tensor, batch: int, frames: int) -> Tensor:
    if actions.ndim != 3 or actions.shape[:2] != (batch, frames - 1):
        raise ValueError(f"latent actions must have shape ({batch}, {frames - 1}, D), got {tuple(actions.shape)}")
    if not torch.isfinite(actions).all():
        raise ValueError(f"{int((~torch.isfinite(actions)).sum())} numbers of the latent actions are not finite")
    return actions
