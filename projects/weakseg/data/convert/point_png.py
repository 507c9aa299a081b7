"""Sparse PNG point labels (Point2Mask and PSPS, card section 6), read, and turned into a label file and back."""

from __future__ import annotations

import numpy as np

VOID = 255


def decode_ids(png: np.ndarray) -> np.ndarray:
    """Segment ids (H, W) int64 of a panoptic PNG (H, W, 3) uint8: R + 256 G + 65536 B."""
    return png.astype(np.int64) @ np.array([1, 256, 65536])


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """The panoptic PNG (H, W, 3) uint8 of segment ids (H, W) below 2**24."""
    return np.stack([ids & 255, (ids >> 8) & 255, ids >> 16], axis=-1).astype(np.uint8)


def point_labels_from_png(
    png: np.ndarray, segments_info: list[dict], class_index: dict[int, int], num_things: int
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Instances and semantic point map of one image (card section 6).

    png (H, W, 3) uint8; `segments_info` of the full panoptic json: dicts of id, category_id, area, iscrowd (default
    0), bbox [x, y, w, h]; `class_index`: category id -> class, things 0..num_things-1 first. Segments without area, or
    with a box side below 1, are skipped.

    Returns classes (N,) int64 of the things that are no crowd, in json order; for each of them its points (P_n, 2)
    float32 as (x, y) at pixel centres, P_n = 0 where no pixel carries its id; and the map (H, W) uint8 of the classes
    of all kept segments (stuff and crowds too) at their pixels, 255 elsewhere.
    """
    ids = decode_ids(png)
    classes, points = [], []
    semantic = np.full(ids.shape, VOID, dtype=np.uint8)
    for segment in segments_info:
        if not _is_kept(segment):
            continue
        class_ = class_index[segment["category_id"]]
        rows, columns = np.nonzero(ids == segment["id"])
        semantic[rows, columns] = class_
        if class_ < num_things and not segment.get("iscrowd", 0):
            classes.append(class_)
            points.append(np.stack([columns, rows], axis=1).astype(np.float32) + 0.5)
    return np.array(classes, dtype=np.int64), points, semantic


def _is_kept(segment: dict) -> bool:
    return segment["area"] > 0 and min(segment["bbox"][2:]) >= 1
