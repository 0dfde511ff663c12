"""OpenSora's timestep transform: larger and longer clips are trained and sampled at more noise.

More pixels and more frames carry the same information redundantly, so that as much noise destroys less of it. The
transform pulls times towards the source: with our time s (0 noise, 1 data), s' = s / (r - (r - 1) s), where r is the
square root of the picture's pixels over 512 x 512 times that of the number of latent frames.

Source: Open-Sora v1.2, ``opensora/schedulers/rf/rectified_flow.py``, in whose noise level t = 1 - s it reads
t' = r t / (1 + (r - 1) t). There the number of latent frames is 5 for each 17 frames, rounded down; here it is the
number itself, which is the same for whole chunks and does not vanish for clips of fewer than 17.

``FlowConfig.ratio`` says whether it is used; training draws times and samplers take steps that are moved by it. Not
stated in the paper. Differs from OpenSora, where the latents of a clip are noised together: here each is imagined after
the others, and the number is that of the clips that a system is trained on.
"""

from typing import TypeVar

from torch import Tensor

BASE_PIXELS = 512 * 512
TimeT = TypeVar("TimeT", float, Tensor)


def noise_ratio(height: int, width: int, latent_frames: int) -> float:
    """r of clips of ``height`` x ``width`` pixels. ValueError for sizes below 1."""
    if min(height, width, latent_frames) < 1:
        raise ValueError(f"sizes must be 1 or more, got {height}x{width} and {latent_frames} latent frames")
    return (height * width / BASE_PIXELS * latent_frames) ** 0.5


def transformed(time: TimeT, ratio: float | None) -> TimeT:
    """Our flow time (0 noise, 1 data), a number or a tensor, moved for clips of ``ratio``; 0 and 1 stay, and where the
    ratio is 1 all times, to the bit. ValueError for a ratio that is not known.
    """
    if ratio is None:
        raise ValueError("ratio=None: the size of the clips for which times move is not known (FlowConfig.of_clips)")
    return time if ratio == 1.0 else time / (ratio - (ratio - 1.0) * time)
