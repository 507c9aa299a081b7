"""Colours of normalised images: back to 0..255, and sRGB to CIE Lab."""

from __future__ import annotations

import torch
from torch import Tensor

_SRGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE_D65 = (0.95047, 1.0, 1.08883)


def denormalize(images: Tensor, pixel_mean: Tensor, pixel_std: Tensor) -> Tensor:
    """Undo `(image - pixel_mean) / pixel_std`.

    images (B, 3, H, W); pixel_mean, pixel_std (3,) in the images' channel order, in units of 0..255. Returns
    (B, 3, H, W) floats clipped to 0..255, channels in the same order.
    """
    return (images * pixel_std[:, None, None] + pixel_mean[:, None, None]).clamp(0, 255)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """CIE Lab (D65, 2 degrees) of sRGB colours (Point2Mask card, section 3.2).

    rgb (B, 3, H, W) in [0, 1], channels R, G, B. Returns (B, 3, H, W): L in [0, 100], a, b about [-110, 110].
    """
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    # A sum of products, as autocast would turn a matrix product into half precision.
    matrix = rgb.new_tensor(_SRGB_TO_XYZ) / rgb.new_tensor(_WHITE_D65)[:, None]
    xyz = (matrix[:, :, None, None] * linear[:, None]).sum(2)
    x, y, z = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
