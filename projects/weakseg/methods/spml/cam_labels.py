"""Label maps from class activation maps and what is known of the image: its tags, or its boxes (card 3.11, end).

Activation maps are (K', H, W) float in 0..1, one for each class that is not the background, 0 where a class is not in
the image. Label maps (H, W) int64 count the background as class 0 where the data set has one, so that CAM c is class
c + 1, else CAM c is class c; 254 is unlabelled.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from weakseg.labels import UNLABELLED

MIN_PEAK = 1e-5
"""Least divisor of an activation map: a class that is nowhere active stays 0."""


def cam_scores(cams: Tensor, alpha: float) -> Tensor:
    """Scores (1 + K', H, W) of all classes: the background's, (1 - largest activation)^alpha, before the maps."""
    background = (1 - cams.amax(dim=0, keepdim=True)) ** alpha
    return torch.cat([background, cams])


def labels_from_tags(cams: Tensor, *, alpha: float, threshold: float, has_background: bool = True) -> Tensor:
    """The class of the largest score; unlabelled where that is below `threshold`.

    Without a background only the maps compete. With one, the score of a pixel is at least max(m, (1 - m)^alpha): for
    alpha 6 that is 0.22, and the published threshold of 0.2 leaves no pixel unlabelled.
    """
    best, label = (cam_scores(cams, alpha) if has_background else cams).max(dim=0)
    return torch.where(best < threshold, UNLABELLED, label)


def labels_from_boxes(
    cams: Tensor, boxes: Tensor, classes: Tensor, *, threshold: float, has_background: bool = True
) -> Tensor:
    """Inside a box, the pixels whose activation is at least `threshold` of the largest one there have the box's class;
    of several boxes the one where that share is larger, of equal ones the first. Other pixels inside are unlabelled;
    outside all boxes is the background, without a background unlabelled.

    boxes (M, 4) continuous (x0, y0, x1, y1), of which every touched pixel is inside; classes (M,): indices of `cams`.
    """
    height, width = cams.shape[1:]
    share = cams.new_full((height, width), -1.0)
    owner = torch.zeros_like(share, dtype=torch.int64)
    for (x0, y0, x1, y1), number in zip(boxes.tolist(), classes.tolist(), strict=True):
        rows = slice(max(math.floor(y0), 0), max(math.ceil(y1), 0))
        columns = slice(max(math.floor(x0), 0), max(math.ceil(x1), 0))
        inside = cams[number, rows, columns]
        if not inside.numel():
            continue
        inside = inside / inside.max().clamp(min=MIN_PEAK)
        is_larger = inside > share[rows, columns]
        owner[rows, columns] = torch.where(is_larger, number + int(has_background), owner[rows, columns])
        share[rows, columns] = torch.maximum(inside, share[rows, columns])
    outside = 0 if has_background else UNLABELLED
    return torch.where(share < 0, outside, torch.where(share >= threshold, owner, UNLABELLED))
