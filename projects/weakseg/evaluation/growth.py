"""What points are grown to by a model as it is: one picture per image, and how well the masks fit the true ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data.catalog import Metadata

from weakseg.data.augmentation import resize_map
from weakseg.evaluation.truth import Truth
from weakseg.labels import WeakLabels
from weakseg.safe_io import read_image, write_png
from weakseg.visualize import draw_points, paint_map, paint_panoptic, sheet

PSEUDO_MASKS, NEAREST_POINT = "pseudo masks", "nearest-point split"


def show_growth(
    model: Any,
    batches: Iterable[list[dict]],
    metadata: Metadata,
    folder: str | Path,
    *,
    with_prediction: bool = False,
) -> dict[str, float]:
    """Draw image, points, the maps that guide the growth, pseudo masks, prediction (on demand) and truth of each image,
    side by side at the size of the network's input, into `folder`.

    model: a module with `pseudo_labels(batch)`; batches: of one sample with its points in `weak`, as of a test loader.
    Returns the mean IoU in percent, over all labelled targets, of the segment that holds a target's first point with
    the true one: for the pseudo masks, and for a split of the image by the nearest point.
    """
    truth, colors = Truth(metadata), metadata.stuff_colors
    overlaps: dict[str, list[float]] = {PSEUDO_MASKS: [], NEAREST_POINT: []}
    model.eval()
    for batch in batches:
        (sample,) = batch
        size = tuple(sample["image"].shape[1:])
        image = cv2.resize(read_image(sample["file_name"]), size[::-1], interpolation=cv2.INTER_AREA)
        points, target = _positive_points(sample["weak"])
        (grown,) = model.pseudo_labels(batch)
        ids, segments = grown["panoptic_seg"]
        panels = [("image", image), ("points", draw_points(image, points, sample["weak"].classes[target], colors))]
        panels += [(name, paint_map(values)) for name, values in _guides(sample, grown)]
        panels.append((PSEUDO_MASKS, paint_panoptic(image, ids.cpu().numpy(), segments, colors)))
        if with_prediction:
            with torch.no_grad():
                predicted_ids, predicted = model(batch)[0]["panoptic_seg"]
            predicted_ids = resize_map(predicted_ids.cpu().numpy(), size)
            panels.append(("prediction", paint_panoptic(image, predicted_ids, predicted, colors)))
        if metadata.has_truth:
            true_ids, described = _truth_of(truth, sample["image_id"], size)
            panels.append(("truth", paint_panoptic(image, true_ids, described, colors)))
            first = np.unique(target, return_index=True)[1]
            for name, split in (
                (PSEUDO_MASKS, ids.cpu().numpy()),
                (NEAREST_POINT, nearest_masks(points, target, np.zeros(len(sample["weak"].classes), bool), size) + 1),
            ):
                overlaps[name] += target_overlaps(split, true_ids, points[first])
        write_png(Path(folder, Path(sample["file_name"]).stem + ".png"), sheet(panels))
    return {name: 100 * float(np.mean(values)) for name, values in overlaps.items() if values}


def nearest_masks(
    points: np.ndarray, target: np.ndarray, is_stuff: np.ndarray, size: tuple[int, int], *, border: bool = False
) -> np.ndarray:
    """What grown masks are to be compared with: pixels go to the target of the nearest point, whatever the image shows.

    points (P, 2) as (x, y), at least one; target (P,) 0..N-1; is_stuff (N,) bool. border: the border of the image
    counts as points of stuff, each of the stuff nearest to it. Returns (H, W) int32 for the `size` (H, W).
    """
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    distance = np.full((len(is_stuff), height, width), np.inf)
    for (point_x, point_y), k in zip(points, target):
        distance[k] = np.minimum(distance[k], np.hypot(x - point_x, y - point_y))
    stuff = [k for k in np.flatnonzero(is_stuff) if np.isfinite(distance[k, 0, 0])]
    if border and stuff:
        rim = np.zeros(size, dtype=bool)
        rim[[0, -1]], rim[:, [0, -1]] = True, True
        nearest_stuff = np.array(stuff)[distance[stuff].argmin(axis=0)]
        for k in stuff:
            elsewhere = (~(rim & (nearest_stuff == k))).astype(np.uint8)
            if not elsewhere.all():
                from_rim = cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
                distance[k] = np.minimum(distance[k], from_rim)
    return distance.argmin(axis=0).astype(np.int32)


def target_overlaps(ids: np.ndarray, true_ids: np.ndarray, points: np.ndarray) -> list[float]:
    """Per point (x, y) the IoU of the true segment there with the segment of `ids` there; 0 where `ids` is 0."""
    overlaps = []
    for x, y in points.astype(int):
        grown, true = ids == ids[y, x], true_ids == true_ids[y, x]
        overlaps.append(float((grown & true).sum() / (grown | true).sum()) if ids[y, x] else 0.0)
    return overlaps


def _guides(sample: dict, grown: dict) -> list[tuple[str, np.ndarray]]:
    """The maps that say where segments end: evidence, and the boundary that the network has learnt."""
    learned = [("boundary", grown["boundary"].cpu().numpy())] if "boundary" in grown else []
    return [*sample["evidence"].items(), *learned]


def _positive_points(weak: WeakLabels) -> tuple[np.ndarray, np.ndarray]:
    positive = weak.point_positive
    return weak.points[positive].numpy(), weak.point_target[positive].numpy()


def _truth_of(truth: Truth, image_id: int, size: tuple[int, int]) -> tuple[np.ndarray, list[dict]]:
    ids, segments = truth.panoptic(image_id)
    described = [
        {"id": k, "category_id": segment.class_index, "isthing": segment.class_index < truth.num_things}
        for k, segment in enumerate(segments, 1)
    ]
    return resize_map(ids, size), described
