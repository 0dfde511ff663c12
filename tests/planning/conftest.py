"""A world small enough to check by hand: two pixels that move by the action, painted as the brightness of an 8x8
frame.
"""

import pytest
import torch
from einops import rearrange, reduce
from torch import Tensor


class BrightnessWorld:
    """Latent ``(2,)``: brightness in [0, 1] of the left and the right half of an 8x8 frame. An action ``(2,)`` adds
    ``gain * action``.
    """

    action_dim = 2
    max_horizon = 12

    def __init__(self, context_frames: int = 2, gain: float = 0.25) -> None:
        self.context_frames = context_frames
        self.gain = gain
        self.starts: list[tuple[Tensor, Tensor]] = []
        self.batches: list[int] = []

    def encode(self, frames: Tensor) -> Tensor:
        return reduce(frames.float() / 255, "n c height (half width) -> n half", "mean", half=2)

    def decode(self, latents: Tensor) -> Tensor:
        return (
            rearrange(latents.clamp(0, 1), "n half -> n 1 1 half 1")
            .expand(-1, 3, 8, 2, 4)
            .reshape(len(latents), 3, 8, 8)
        )

    def start(self, frames: Tensor, actions: Tensor) -> Tensor:
        self.starts.append((frames, actions))
        return self.encode(frames[-1:])[0]

    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        self.batches.append(len(actions))
        return state + self.gain * actions.cumsum(dim=1)

    def frame(self, left: float, right: float) -> Tensor:
        """uint8 ``(3, 8, 8)``."""
        return (self.decode(torch.tensor([[left, right]]))[0] * 255).round().to(torch.uint8)


@pytest.fixture
def brightness_world() -> type[BrightnessWorld]:
    """The class, since tests choose its context."""
    return BrightnessWorld
