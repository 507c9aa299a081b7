"""From the backbone's map to an embedding per pixel: the DeepLab head and the pyramid pooling head (card 2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakseg.layers.sync_batch_norm import batch_norm

DILATIONS = (6, 12, 18, 24)
"""Of the branches of the DeepLab head, in cells of a map of stride 8."""
POOLED_SIZES = (1, 2, 3, 6)
"""Sides of the maps of the pyramid."""


class DeepLabHead(nn.Module):
    """The sum of four dilated 3x3 convolutions with bias; no norm, no ReLU (DeepLab v2)."""

    def __init__(self, in_channels: int, embedding_dim: int, dilations: Sequence[int] = DILATIONS):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, embedding_dim, kernel_size=3, padding=dilation, dilation=dilation)
            for dilation in dilations
        )

    def forward(self, feature: Tensor) -> Tensor:
        """feature (B, in_channels, h, w). Returns (B, embedding_dim, h, w), not normalised."""
        first, *others = self.branches
        embedding = first(feature)
        for branch in others:
            embedding = embedding + branch(feature)
        return embedding


class PyramidPooling(nn.Module):
    """The map beside its averages over coarse grids, mixed by a 3x3 convolution (PSPNet)."""

    def __init__(self, in_channels: int, hidden_dim: int, *, norm: str = "SyncBN"):
        """hidden_dim: channels of each level, and of the output. norm: see `layers.sync_batch_norm.batch_norm`."""
        super().__init__()
        make_norm = batch_norm(norm)
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_channels, hidden_dim, kernel_size=1, bias=False), make_norm(hidden_dim))
            for _ in POOLED_SIZES
        )
        channels = in_channels + len(POOLED_SIZES) * hidden_dim
        self.mix = nn.Sequential(
            nn.Conv2d(channels, hidden_dim, kernel_size=3, padding=1, bias=False), make_norm(hidden_dim)
        )

    def forward(self, feature: Tensor) -> Tensor:
        """feature (B, in_channels, h, w). Returns (B, hidden_dim, h, w), >= 0."""
        maps = [feature]
        for size, level in zip(POOLED_SIZES, self.levels):
            pooled = F.relu(level(F.adaptive_avg_pool2d(feature, size)))
            maps.append(F.interpolate(pooled, feature.shape[-2:], mode="bilinear", align_corners=False))
        return F.relu(self.mix(torch.cat(maps, dim=1)))


class PSPHead(nn.Module):
    """Pyramid pooling, then a 1x1 convolution with bias."""

    def __init__(self, in_channels: int, embedding_dim: int, *, hidden_dim: int = 512, norm: str = "SyncBN"):
        super().__init__()
        self.pooling = PyramidPooling(in_channels, hidden_dim, norm=norm)
        self.project = nn.Conv2d(hidden_dim, embedding_dim, kernel_size=1)

    def forward(self, feature: Tensor) -> Tensor:
        """feature (B, in_channels, h, w). Returns (B, embedding_dim, h, w), not normalised."""
        return self.project(self.pooling(feature))
