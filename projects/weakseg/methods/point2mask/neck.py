"""From three backbone maps to four levels of one width (Point2Mask card 2.2)."""

from __future__ import annotations

from torch import Tensor, nn


class Neck(nn.Module):
    """1x1 convolutions of the maps of stride 8, 16 and 32, and a 3x3 one of stride 2 of the last map, each with
    GroupNorm and without activation."""

    def __init__(self, in_channels: list[int], dim: int):
        super().__init__()
        self.convs = nn.ModuleList(_ConvNorm(channels, dim, kernel_size=1) for channels in in_channels)
        self.convs.append(_ConvNorm(in_channels[-1], dim, kernel_size=3, stride=2, padding=1))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """features: (B, C_l, h_l, w_l) of stride 8, 16, 32. Returns (B, D, h_l, w_l) of stride 8, 16, 32, 64."""
        return [conv(feature) for conv, feature in zip(self.convs, [*features, features[-1]])]


class _ConvNorm(nn.Module):
    def __init__(self, in_channels: int, dim: int, **conv_arguments):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, dim, bias=False, **conv_arguments)
        self.norm = nn.GroupNorm(max(groups for groups in range(1, 33) if dim % groups == 0), dim)
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))
