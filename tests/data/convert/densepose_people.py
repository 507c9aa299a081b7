"""People as COCO-DensePose annotates them, made by hand."""

import numpy as np
from pycocotools import mask as coco_mask

V = 255
"""Void in a map of classes."""
TORSO, RIGHT_HAND, HEAD = 1, 2, 14


def runs(mask):
    """Compressed run lengths as they stand in the published JSON."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def part_masks(grid):
    """The 14 `dp_masks` of a grid (256, 256) of parts 0..14; [] for an absent part."""
    return [runs(grid == part) if (grid == part).any() else [] for part in range(1, 15)]


def quarters(*parts):
    """A grid of four parts: top left, top right, bottom left, bottom right."""
    return np.kron(np.array(parts).reshape(2, 2), np.ones((128, 128), int))


def person(number, box, *parts, image_id=7, **keys):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "area": 10.5,
        "num_keypoints": 0,
        "keypoints": [0] * 51,
        "bbox": box,
        "dp_masks": part_masks(quarters(*parts)),
        "dp_x": [12.5],
        "dp_y": [200.25],
        "dp_I": [2.0],
        "dp_U": [0.5],
        "dp_V": [0.25],
        "segmentation": [[0.0, 0.0, 3.0, 0.0, 3.0, 3.0]],
        **keys,
    }


def unseen(number, polygon, **keys):
    """A person without part masks whose COCO mask is a polygon."""
    others = person(number, [0, 0, 1, 1], 0, 0, 0, 0, segmentation=[polygon], **keys)
    return {key: value for key, value in others.items() if not key.startswith("dp_")}


def rectangle(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]
