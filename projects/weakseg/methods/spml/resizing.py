"""Images and label maps at other sizes as the published readers have them (card 3.1, 4.3, 5.1). Sizes are (h, w)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch.nn.functional as F
from torch import Tensor


def scaled_size(size: Sequence[int], ratio: float) -> tuple[int, int]:
    """trunc(ratio * side) of both sides, at least 1."""
    return max(int(ratio * size[0]), 1), max(int(ratio * size[1]), 1)


def longer_side_ratio(size: Sequence[int], longer_side: int) -> float:
    """The ratio that brings the longer side to `longer_side`. In double precision `scaled_size` may then give one pixel
    less (374 -> 511 for 512), as published."""
    return min(longer_side / size[0], longer_side / size[1])


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """image (H, W, 3) float32 -> (h, w, 3): linear, half-pixel centres, no antialiasing."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """labels (H, W) or (H, W, C) uint8 -> (h, w[, C]): pixel i takes pixel floor(i * old / new)."""
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST).reshape(*size, *labels.shape[2:])


def labels_at_embedding(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """labels (B, H, W) integers -> (B, h, w) at the size of the embedding: nearest neighbour (card 3.1)."""
    # Values to 255 (and combined labels to 2**24) are exact in float32, the type that the operation wants.
    return F.interpolate(labels[:, None].float(), size, mode="nearest")[:, 0].to(labels.dtype)


def pad_to(values: np.ndarray, size: tuple[int, int], fill: float | Sequence[float]) -> np.ndarray:
    """values (H, W) or (H, W, C) with `fill` (one for all channels, or one for each) added at the right and the bottom
    up to `size`; a side that is larger stays."""
    height, width = values.shape[:2]
    padded = np.empty((max(height, size[0]), max(width, size[1]), *values.shape[2:]), values.dtype)
    padded[:] = fill
    padded[:height, :width] = values
    return padded
