"""Pictures of others brought to ours: upright, RGB, uint8, of one size. A picture here is ``(height, width, 3)``."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from einops import rearrange
from PIL import Image

Orientation = Literal["upright", "upside_down", "mirrored", "turned"]
"""How a stored picture lies: as a person sees it, top and bottom swapped, left and right swapped, or both."""


def upright(pictures: np.ndarray, orientation: Orientation) -> np.ndarray:
    """``pictures`` ``(..., height, width, 3)`` as a person sees them; a view, nothing is copied."""
    rows = slice(None, None, -1 if orientation in ("upside_down", "turned") else 1)
    columns = slice(None, None, -1 if orientation in ("mirrored", "turned") else 1)
    return pictures[..., rows, columns, :]


def fit(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """``picture`` cut from its centre to the shape of ``height`` by ``width`` and resized; a pixel is the mean of the
    area that it covers. Returns uint8 ``(height, width, 3)``."""
    rows, columns = picture.shape[:2]
    if (rows, columns) == (height, width):
        return picture
    scale = min(rows / height, columns / width)
    top, left = (rows - scale * height) / 2, (columns - scale * width) / 2
    box = (left, top, columns - left, rows - top)
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BOX, box))


def model_frames(pictures: Iterable[np.ndarray], orientation: Orientation, size: tuple[int, int]) -> np.ndarray:
    """``pictures`` as the model sees them: upright, of ``size`` (height, width), uint8 ``(T, 3, height, width)``."""
    return np.stack([rearrange(fit(upright(each, orientation), *size), "h w c -> c h w") for each in pictures])
