"""What is appended to the embedding for clustering: where a pixel is and, for DensePose, its smoothed colour."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_KERNEL_SIZE = 5
_GAUSSIAN_SIGMA = 1.0
_LEAST_CONTRAST = 1e-4
"""Below a hundredth of a grey level of the normalised image: rounding of a plain colour, not contrast."""


def position_features(height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """(h, w, 2) float32 of (y, x), each a ramp from -0.5 to 0.5, both ends included; -0.5 where a side has one pixel
    (card section 2.3)."""
    y, x = (torch.linspace(-0.5, 0.5, size, device=device) for size in (height, width))
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)


class ColorFeatures(nn.Module):
    """Smoothed colours of an image, centred and scaled per image and channel (card section 2.3).

    The published kernel grows with the distance and is 0 at its centre, and its image loses two pixels at each border
    and is stretched back. `gaussian` is what was meant (card fault h): a Gaussian of sigma 1 on an image whose border
    is repeated. The kernel is a frozen part of the state dict under its published name.
    """

    def __init__(self, *, gaussian: bool = False):
        super().__init__()
        self.padding = _KERNEL_SIZE // 2 if gaussian else 0
        self.smooth_kernel = nn.Conv2d(3, 3, _KERNEL_SIZE, groups=3, bias=False).requires_grad_(False)
        with torch.no_grad():
            self.smooth_kernel.weight.copy_(_kernel(gaussian).expand(3, 1, -1, -1))

    @torch.no_grad()
    def forward(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """images (N, 3, H, W) after mean and standard deviation, at least 5 x 5; `size` (h, w) of the embedding.
        Returns (N, h, w, 3) in [-1, 1], 0 for a channel without contrast, no gradient."""
        with torch.autocast(images.device.type, enabled=False):
            weight = self.smooth_kernel.weight
            images = F.pad(images.to(weight.dtype), (self.padding,) * 4, mode="replicate")
            smooth = F.interpolate(F.conv2d(images, weight, groups=3), size, mode="bilinear", align_corners=False)
            centred = smooth - smooth.mean((2, 3), keepdim=True)
            largest = centred.abs().amax((2, 3), keepdim=True)
            return (centred / largest.clamp(min=_LEAST_CONTRAST)).permute(0, 2, 3, 1)


def _kernel(gaussian: bool) -> Tensor:
    """(5, 5) with sum 1."""
    offset = torch.arange(_KERNEL_SIZE) - _KERNEL_SIZE // 2
    distance = torch.hypot(offset[:, None].float(), offset.float())
    kernel = torch.exp(-(distance**2) / (2 * _GAUSSIAN_SIGMA**2)) if gaussian else distance
    return kernel / kernel.sum()
