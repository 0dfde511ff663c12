"""The networks through which videos are judged: two that must be given as files, one that is everywhere.

- I3D (Carreira and Zisserman 2017) for FVD: the torchscript file of StyleGAN-V that most published FVDs use.
- AlexNet for LPIPS (Zhang et al. 2018, version 0.1): torchvision's file; LPIPS' linear heads come with torchmetrics.
- ``conv3d-random-v1``: three random 3-D convolutions, where no file can be had. What it measures is never called FVD.

Both files are known by their SHA-256, and refused before anything in them is run.
Shapes: videos ``(n, T, 3, height, width)`` and images ``(n, 3, height, width)``, floats in [0, 1]; features ``(n, d)``.
"""

import hashlib
import io
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

I3D_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
"""Of ``i3d_torchscript.pt`` (51 MB), as StyleGAN-V and the FVD implementations after it load it."""
ALEXNET_SHA256 = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
"""Of ``alexnet-owt-7be5be79.pth`` (244 MB), torchvision's IMAGENET1K_V1 weights."""
HEADS_SHA256 = "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"
"""Of LPIPS' linear heads for AlexNet, version 0.1, which torchmetrics ships."""
I3D_FRAMES = 10
"""Fewest frames that I3D is shown: below nine nothing is left after its strides in time, and ten is the custom."""
RANDOM_NAME = "conv3d-random-v1"
"""Name and version of ``RandomVideoFeatures``; any change to that class that changes a feature needs the next."""


def checked_bytes(path: Path, sha256: str, what: str) -> bytes:
    """The content of a file whose SHA-256 is ``sha256``.

    Raises FileNotFoundError when it is not there and ValueError, naming the hash found, when it is another file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {what} is expected there")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{path}: its SHA-256 is {found}; {what} has {sha256}")
    return content


def i3d_bytes(path: Path) -> bytes:
    """The I3D torchscript at ``path``, checked by its hash."""
    return checked_bytes(path, I3D_SHA256, "the I3D of FVD (i3d_torchscript.pt)")


def alexnet_bytes(path: Path) -> bytes:
    """The AlexNet state dict at ``path``, checked by its hash."""
    return checked_bytes(path, ALEXNET_SHA256, "the AlexNet of LPIPS (alexnet-owt-7be5be79.pth)")


class RandomVideoFeatures(nn.Module):
    """Videos of any length and size to 16 features: log response energies of random spatio-temporal filters.

    Half of the first layer's filters sum to zero over time and so see change only, the other half over space and see
    texture only; the halves stay apart up to the features. Random responses are enough to notice blur, noise, freezing
    and a wrong order of frames; they know nothing of objects. Frames are brought to 64x64; time is continued by its
    first and last frame, so that a still counts as a video in which nothing moves. Runs on the CPU, whatever the
    videos' device: the same numbers everywhere, up to rounding.
    """

    num_features = 16

    def __init__(self) -> None:
        super().__init__()
        # numpy promises that RandomState's stream never changes; torch promises that of no generator.
        draw = np.random.RandomState(0)
        filters = []
        for out, into, size in ((16, 3, 5), (32, 8, 3), (self.num_features, 16, 3)):
            scale = np.sqrt(2 / (into * 3 * size * size))
            filters.append(draw.standard_normal((out, into, 3, size, size)) * scale)
        filters[0][:8] -= filters[0][:8].mean(axis=(3, 4), keepdims=True)
        filters[0][8:] -= filters[0][8:].mean(axis=2, keepdims=True)
        for number, values in enumerate(filters):
            self.register_buffer(f"filters_{number}", torch.from_numpy(values).float())

    @torch.no_grad()
    def forward(self, videos: Tensor) -> Tensor:
        """Features ``(n, 16)`` of ``videos``."""
        count = len(videos)
        frames = rearrange(videos.float().cpu(), "n t c h w -> (n t) c h w")
        if frames.shape[-2:] != (64, 64):
            frames = F.interpolate(frames, (64, 64), mode="bilinear", antialias=True)
        x = rearrange(frames, "(n t) c h w -> n c t h w", n=count) * 2 - 1
        x = F.leaky_relu(self._filtered(x, self.filters_0), 0.2)
        x = F.leaky_relu(self._filtered(x, self.filters_1, groups=2), 0.2)
        x = self._filtered(x, self.filters_2, groups=2)
        return torch.log(x.abs().mean(dim=(2, 3, 4)) + 0.05)

    @staticmethod
    def _filtered(x: Tensor, filters: Tensor, groups: int = 1) -> Tensor:
        edge = filters.shape[-1] // 2
        padded = F.pad(x, (edge, edge, edge, edge, 1, 1), mode="replicate")
        return F.conv3d(padded, filters, stride=(1, 2, 2), groups=groups)


class I3DFeatures:
    """Videos to the 400 features of FVD, by the torchscript I3D at ``path``.

    Videos of fewer than ``I3D_FRAMES`` frames are continued by their last frame. Raises FileNotFoundError and
    ValueError as ``checked_bytes`` does, before the script is loaded.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.device = device
        self.network = torch.jit.load(io.BytesIO(i3d_bytes(path)), map_location=device).eval()

    @torch.no_grad()
    def __call__(self, videos: Tensor) -> Tensor:
        """Features ``(n, 400)`` of ``videos``, before the last layer's softmax as FVD takes them."""
        missing = max(0, I3D_FRAMES - videos.shape[1])
        held = torch.cat([videos, videos[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
        signed = rearrange(held.float().to(self.device), "n t c h w -> n c t h w") * 2 - 1
        # `rescale` would bring [0, 255] to the [-1, 1] that we give; `resize` brings frames to 224x224.
        return self.network(signed.contiguous(), rescale=False, resize=True, return_features=True)


class Lpips(nn.Module):
    """LPIPS version 0.1 on AlexNet: weighted squared differences of unit-length activations, averaged over space.

    Written out here because torchmetrics' own needs torchvision, and downloads; its heads are used. ``path`` is
    torchvision's AlexNet file; FileNotFoundError and ValueError as from ``checked_bytes``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU()),
            nn.Sequential(nn.MaxPool2d(3, stride=2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
            nn.Sequential(nn.MaxPool2d(3, stride=2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        )
        backbone = _tensors(alexnet_bytes(path))
        convolutions = [part for layer in self.layers for part in layer if isinstance(part, nn.Conv2d)]
        for convolution, place in zip(convolutions, (0, 3, 6, 8, 10), strict=True):  # in torchvision's `features`
            convolution.load_state_dict({key: backbone[f"features.{place}.{key}"] for key in ("weight", "bias")})
        heads_path = Path(str(files("torchmetrics"))) / "functional/image/lpips_models/alex.pth"
        heads = _tensors(checked_bytes(heads_path, HEADS_SHA256, "LPIPS' heads in torchmetrics"))
        for number in range(len(self.layers)):
            self.register_buffer(f"head_{number}", heads[f"lin{number}.model.1.weight"])
        # ImageNet's mean and deviation, for pixels in [-1, 1]: LPIPS' own rounding of them.
        self.register_buffer("shift", rearrange(torch.tensor([-0.030, -0.088, -0.188]), "c -> c 1 1"))
        self.register_buffer("scale", rearrange(torch.tensor([0.458, 0.448, 0.450]), "c -> c 1 1"))
        self.requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances ``(n,)`` between images of 32x32 pixels or more."""
        x, y = (((images * 2 - 1) - self.shift) / self.scale for images in (first, second))
        total = first.new_zeros(len(first))
        for number, layer in enumerate(self.layers):
            x, y = layer(x), layer(y)
            difference = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
            total = total + F.conv2d(difference, getattr(self, f"head_{number}")).mean(dim=(1, 2, 3))
        return total


def _tensors(content: bytes) -> dict[str, Tensor]:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
