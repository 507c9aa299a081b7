"""What the converters share: annotations from an id map, sampled points, numbering, work on several processes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from weakseg.labels import boxes_from_masks, encode_mask, sample_points
from weakseg.safe_io import read_json


def read_panoptic_json(path: Path) -> dict:
    """A COCO panoptic json: images, categories, and annotations with segments_info."""
    content = read_json(path)
    groups = [content.get(key) for key in ("images", "annotations", "categories")] if isinstance(content, dict) else []
    if not groups or not all(isinstance(group, list) for group in groups):
        raise ValueError(
            f"{path}: expected images, annotations and categories; found others. Name a COCO panoptic json."
        )
    if any("segments_info" not in entry for entry in content["annotations"]):
        raise ValueError(f"{path}: expected segments_info in every annotation; found none. Name a COCO panoptic json.")
    return content


def annotations_of(ids: np.ndarray, segments: Iterable[dict]) -> tuple[list[dict], list[np.ndarray]]:
    """Annotations (category_id, iscrowd, bbox, area, segmentation) of the segments that have a pixel, in order, and
    their masks (H, W) bool.

    ids (H, W) integer; segments: dicts of id, category_id, iscrowd (default 0).
    """
    annotations, masks = [], []
    for segment in segments:
        mask = ids == segment["id"]
        area = int(mask.sum())
        if not area:
            continue
        x0, y0, x1, y1 = boxes_from_masks([mask])[0].astype(int).tolist()
        annotations.append(
            {
                "category_id": segment["category_id"],
                "iscrowd": segment.get("iscrowd", 0),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": area,
                "segmentation": encode_mask(mask),
            }
        )
        masks.append(mask)
    return annotations, masks


def add_points(
    annotations: list[dict], masks: Sequence[np.ndarray], count: int, generator: np.random.Generator
) -> None:
    """Add `count` sampled `point_coords` to every annotation that is no crowd and whose mask (H, W) has a pixel."""
    if count < 0:
        raise ValueError(f"points: expected a number of points in each segment, 0 or more; found {count}. Correct it.")
    single = [k for k, annotation in enumerate(annotations) if not annotation["iscrowd"] and masks[k].any()]
    if count:
        for k, points in zip(single, sample_points([masks[k] for k in single], count, generator)):
            annotations[k]["point_coords"] = points.tolist()


def image_generator(seed: int, file_name: str) -> np.random.Generator:
    """The random numbers of one image: the same whatever list it stands in and whichever process works on it."""
    return np.random.default_rng([seed, zlib.crc32(file_name.encode())])


def tags_of(annotations: Iterable[dict]) -> list[int]:
    """The category ids of the annotations, each once, in increasing order."""
    return sorted({annotation["category_id"] for annotation in annotations})


def numbered(images: Sequence[dict], annotations: Iterable[Sequence[dict]]) -> dict[Any, list[dict]]:
    """Annotations by image id, numbered from 1; `annotations` holds one list for each image, in order."""
    by_image: dict[Any, list[dict]] = {}
    number = 0
    for image, items in zip(images, annotations, strict=True):
        by_image[image["id"]] = [
            {"id": number + k, "image_id": image["id"], **annotation} for k, annotation in enumerate(items, 1)
        ]
        number += len(items)
    return by_image


def mapped(function: Callable, items: Sequence, *, workers: int, description: str) -> list:
    """[function(item) for item in items] with a progress bar, on `workers` processes; the order is that of `items`."""
    if workers <= 1:
        return [function(item) for item in tqdm(items, desc=description, disable=None)]
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(function, items, chunksize=16)
        return list(tqdm(results, total=len(items), desc=description, disable=None))
