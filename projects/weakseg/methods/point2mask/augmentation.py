"""Training images of Point2Mask (card section 4): resize within limits, flip, and what becomes of labelled pixels."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from weakseg.data.augmentation import AUGMENTATION_REGISTRY, ResizeFlip, resize_flip_arguments
from weakseg.labels import WeakLabels
from weakseg.labels.geometry import resize


@AUGMENTATION_REGISTRY.register()
def point2mask(cfg, is_train: bool) -> ResizeFlip:
    """Points move as coordinates; with `OFFICIAL_COMPAT` labelled pixels go through nearest resizing (fault ad)."""
    official = cfg.MODEL.POINT2MASK.OFFICIAL_COMPAT
    resize_labels = resize_labelled_pixels if official else resize
    return ResizeFlip(**resize_flip_arguments(cfg, is_train), resize_labels=resize_labels)


def resize_labelled_pixels(labels: WeakLabels, size: tuple[int, int]) -> WeakLabels:
    """Labels at `size` (h, w), with points as the published reader gets them from a resized point map: each becomes the
    pixels that nearest resizing (OpenCV) fills from its pixel, a block when upscaling, none or one when downscaling.

    The new points are pixel centres, each with the target and sign of the point it came from.
    """
    rows, columns = (_source_index(old, new) for old, new in zip(labels.image_size, size))
    x, y = labels.points.floor().long().T.contiguous()
    point, new_y, new_x = _filled_pixels(y, x, rows, columns)
    return resize(labels, size).replace(
        points=torch.stack([new_x, new_y], dim=1) + 0.5,
        point_target=labels.point_target[point],
        point_positive=labels.point_positive[point],
    )


def _source_index(old: int, new: int) -> Tensor:
    """(new,) int64, rising: the index of `old` that each index of `new` is filled from."""
    line = cv2.resize(np.arange(old, dtype=np.int32)[None], (new, 1), interpolation=cv2.INTER_NEAREST)
    return torch.from_numpy(line[0].astype(np.int64))


def _filled_pixels(y: Tensor, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For all pairs of a point (P,) and a pixel filled from it: point index, row, column, each (pairs,) int64."""
    top, bottom = torch.searchsorted(rows, y), torch.searchsorted(rows, y, right=True)
    left, right = torch.searchsorted(columns, x), torch.searchsorted(columns, x, right=True)
    width = right - left
    count = (bottom - top) * width
    point = torch.repeat_interleave(count)
    within = torch.arange(len(point)) - (count.cumsum(0) - count)[point]
    width = width[point].clamp(min=1)
    return point, top[point] + within // width, left[point] + within % width
