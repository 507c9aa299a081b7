"""Where a token lies: padding of each level, sine positions, and reference points (Point2Mask card 2.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def level_paddings(
    image_sizes: list[tuple[int, int]],
    padded_size: tuple[int, int],
    sizes: list[tuple[int, int]],
    *,
    device: torch.device | None = None,
) -> list[Tensor]:
    """Padding masks (B, h, w) bool, True outside the image, for every level of `sizes` (h, w).

    image_sizes: (h, w) per image inside the padded_size (H, W). The mask at image size is resized by nearest.
    """
    height, width = padded_size
    limits = torch.tensor(image_sizes, device=device).view(-1, 2)
    rows = torch.arange(height, device=device) >= limits[:, :1]
    columns = torch.arange(width, device=device) >= limits[:, 1:]
    outside = (rows[:, :, None] | columns[:, None, :]).float()[:, None]
    return [F.interpolate(outside, size=size, mode="nearest")[:, 0].bool() for size in sizes]


def sine_position(padding: Tensor, dim: int) -> Tensor:
    """Sine position (B, dim, h, w) float32 from `padding` (B, h, w) bool: dim / 2 channels of y, then of x.

    Rows and columns are counted over the unpadded part and scaled to (0, 2 pi), so that a position does not depend on
    how far the batch was padded.
    """
    inside = (~padding).float()
    half = dim // 2
    channel = torch.arange(half, dtype=torch.float32, device=padding.device)
    period = 10000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)
    parts = []
    for axis in (1, 2):
        count = inside.cumsum(axis)
        last = count.narrow(axis, count.shape[axis] - 1, 1)
        # A row or column of padding alone has last = 0, and angles of millions of radians, where every rounding shows:
        # published weights need these operations in this order.
        angle = ((count - 0.5) / (last + 1e-6) * (2 * math.pi))[..., None] / period
        parts.append(torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2))
    return torch.cat(parts, dim=-1).permute(0, 3, 1, 2)


def valid_ratios(paddings: list[Tensor]) -> Tensor:
    """Unpadded part of each level's width and height: (B, levels, 2) as (x, y), from paddings (B, h, w) bool."""
    ratios = [torch.stack([(~p[:, 0]).float().mean(-1), (~p[:, :, 0]).float().mean(-1)], dim=-1) for p in paddings]
    return torch.stack(ratios, dim=1)


def encoder_reference_points(sizes: list[tuple[int, int]], ratios: Tensor) -> Tensor:
    """Centre of every token as a place in every level: (B, S, levels, 2) as (x, y), in [0, 1] of the padded level.

    ratios (B, levels, 2) of `valid_ratios`. A centre is first expressed in [0, 1] of the unpadded image.
    """
    centres = []
    for level, (h, w) in enumerate(sizes):
        y, x = torch.meshgrid(
            torch.arange(h, device=ratios.device) + 0.5, torch.arange(w, device=ratios.device) + 0.5, indexing="ij"
        )
        extent = ratios[:, level] * ratios.new_tensor([w, h])
        centres.append(torch.stack([x, y], dim=-1).view(1, h * w, 2) / extent[:, None])
    return torch.cat(centres, dim=1)[:, :, None] * ratios[:, None]
