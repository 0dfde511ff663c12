"""What a frame and a goal frame say together: the trunk of every network that judges or acts on such a pair.

Frames are read side by side with their difference, in the codec's latents, so that a small thing that moved stands out
as much as a large one that did not. A few convolutions and one hidden layer: a planner asks it of every imagined frame
of every candidate.

Shapes: latents ``(N, C, h, w)`` of the frames and of their goals -> features ``(N, hidden)``.
"""

import torch
from torch import Tensor, nn


class FramePair(nn.Module):
    """Raises ValueError for latents of another shape than ``(channels, rows, columns)``."""

    def __init__(self, channels: int, rows: int, columns: int, *, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.shape = (channels, rows, columns)
        places = ((rows + 1) // 2) * ((columns + 1) // 2)
        self.layers = nn.Sequential(
            nn.Conv2d(3 * channels, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * width * places, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
        )

    def forward(self, now: Tensor, goal: Tensor) -> Tensor:
        """Features ``(N, hidden)`` of frames ``(N, C, h, w)`` and their goals, as many or one for all."""
        for name, latents in (("frames", now), ("goals", goal)):
            if latents.shape[-3:] != self.shape or latents.ndim != 4:
                found = tuple(latents.shape)
                raise ValueError(f"latents of {name} have shape {found}, the network was made for (N, *{self.shape})")
        goal = goal.expand_as(now)
        return self.layers(torch.cat([now, goal, goal - now], dim=1))
