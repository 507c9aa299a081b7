"""Weak labels drawn from dense truth: points with a seed, boxes and tags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def sample_points(masks: Iterable[np.ndarray], count: int, generator: np.random.Generator) -> list[np.ndarray]:
    """`count` distinct pixels of each mask, uniformly; all of them where there are fewer (card section 6).

    masks: (H, W) bool each, thing instances and stuff segments in file order, without void and crowds. Returns for each
    mask (P, 2) float32, the centres (x, y) of its pixels; P = 0 for an empty mask.
    """
    points = []
    for mask in masks:
        pixels = np.flatnonzero(mask)
        chosen = generator.choice(pixels, size=min(count, len(pixels)), replace=False)
        rows, columns = np.divmod(chosen, mask.shape[1])
        points.append(np.stack([columns, rows], axis=1).astype(np.float32) + 0.5)
    return points


def boxes_from_masks(masks: Sequence[np.ndarray]) -> np.ndarray:
    """The tight box of each mask (H, W) bool: (N, 4) float32 as (x0, y0, x1, y1) at the outer borders of its pixels;
    zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def tags_from_masks(masks: Sequence[np.ndarray], classes: Sequence[int]) -> list[int]:
    """The classes that have a pixel, each once, in increasing order. `classes`: one for each mask (H, W) bool."""
    return sorted({int(class_) for mask, class_ in zip(masks, classes) if mask.any()})
