"""Bilinear resizing as every method here means it: half-pixel centres, no antialiasing, whatever the scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_and_crop(
    maps: Tensor, padded_size: tuple[int, int], image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Maps of the network at the original size of the image: to the padded input, crop the image, to the original.

    maps (N, h, w) of any floating type, any N. Sizes are (height, width): `padded_size` of the padded batch input,
    `image_size` of the image in its top left corner, `output_size` of the original. Returns (N, H0, W0).
    """
    padded = F.interpolate(maps[:, None], padded_size, mode="bilinear", align_corners=False)
    image = padded[:, :, : image_size[0], : image_size[1]]
    return F.interpolate(image, output_size, mode="bilinear", align_corners=False)[:, 0]


def interpolation_matrix(source: int, target: int, device: torch.device) -> Tensor:
    """(target, source) float32: the linear map that resizing one side from `source` to `target` is. Resizing (h, w) to
    (H, W) is `rows @ map @ columns.T`; its transpose gathers sums over (H, W) on the small map."""
    identity = torch.eye(source, device=device)
    return F.interpolate(identity[None], target, mode="linear", align_corners=False)[0].T


def resize_label_masks(labels: Tensor, classes: Tensor, size: tuple[int, int]) -> Tensor:
    """The masks `labels == class`, resized to `size`, without making any of them at full size.

    labels (H, W) integers; classes (R,). Returns (R, h, w) float32 in [0, 1], equal to the resized masks: every small
    pixel reads four labels.
    """
    (top, bottom, down), (left, right, across) = (_taps(labels.shape[i], size[i], labels.device) for i in (0, 1))
    masks = torch.zeros(len(classes), *size, device=labels.device)
    for rows, row_weight in ((top, 1 - down), (bottom, down)):
        for columns, column_weight in ((left, 1 - across), (right, across)):
            corner = labels[rows[:, None], columns] == classes[:, None, None]
            masks += corner * (row_weight[:, None] * column_weight)
    return masks


def _taps(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The two source indices and the weight of the second, each (target,), of `F.interpolate` along one side."""
    centre = (torch.arange(target, device=device, dtype=torch.float32) + 0.5) * (source / target) - 0.5
    centre = centre.clamp(min=0)
    first = centre.long().clamp(max=source - 1)
    return first, (first + 1).clamp(max=source - 1), centre - first
