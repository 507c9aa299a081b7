"""How well the masks that points were grown to fit the true ones; for a model as it is, also one picture per image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from detectron2.data.catalog import Metadata

from weakseg.data.augmentation import resize_map
from weakseg.evaluation.truth import Truth
from weakseg.labels import LabelFile, WeakLabels, decode_segmentation
from weakseg.safe_io import read_image, write_png
from weakseg.visualize import draw_points, paint_map, paint_panoptic, sheet

PSEUDO_MASKS, NEAREST_POINT = "pseudo masks", "nearest-point split"
GROWN = "grown"


class GrowingModel(Protocol):
    """What `show_growth` asks of a model: what it grows the points of a batch to, and what it predicts."""

    def train(self, mode: bool) -> Any: ...

    def pseudo_labels(self, batch: list[dict]) -> list[dict]: ...

    def __call__(self, batch: list[dict]) -> list[dict]: ...


def show_growth(
    model: GrowingModel,
    batches: Iterable[list[dict]],
    metadata: Metadata,
    folder: str | Path,
    *,
    with_prediction: bool = False,
) -> dict[str, float]:
    """Draw image, points, the maps that guide the growth, pseudo masks, prediction (on demand) and truth of each image,
    side by side at the size of the network's input, into `folder`.

    batches: of one sample with its points in `weak`, as of a test loader. Returns the mean IoU in percent, over all
    labelled targets, of the segment that holds a target's first point with the true one: for the pseudo masks, and for
    a split of the image by the nearest point. Empty where there is nothing to compare.
    """
    truth, colors = Truth(metadata), metadata.stuff_colors
    overlaps: dict[str, list[float]] = {PSEUDO_MASKS: [], NEAREST_POINT: []}
    model.train(False)
    for batch in batches:
        (sample,) = batch
        size = tuple(sample["image"].shape[1:])
        image = cv2.resize(read_image(sample["file_name"]), size[::-1], interpolation=cv2.INTER_AREA)
        points, target = _points_of(sample["weak"])
        (grown,) = model.pseudo_labels(batch)
        ids, segments = grown["panoptic_seg"][0].cpu().numpy(), grown["panoptic_seg"][1]
        panels = [("image", image), ("points", draw_points(image, points, sample["weak"].classes[target], colors))]
        panels += [(name, paint_map(values)) for name, values in _guides(sample, grown)]
        panels.append((PSEUDO_MASKS, paint_panoptic(image, ids, segments, colors)))
        if with_prediction:
            with torch.no_grad():
                predicted_ids, predicted = model(batch)[0]["panoptic_seg"]
            predicted_ids = resize_map(predicted_ids.cpu().numpy(), size)
            panels.append(("prediction", paint_panoptic(image, predicted_ids, predicted, colors)))
        if metadata.has_truth:
            true_ids, described = _truth_of(truth, sample["image_id"], size)
            panels.append(("truth", paint_panoptic(image, true_ids, described, colors)))
            known = known_pixels(true_ids > 0, num_stuff=truth.num_classes - truth.num_things)
            first = np.unique(target, return_index=True)[1]
            overlaps[PSEUDO_MASKS] += target_overlaps(ids, true_ids, points[first], known)
            if len(points):
                nearest = nearest_masks(points, target, np.zeros(target.max() + 1, dtype=bool), size)
                overlaps[NEAREST_POINT] += target_overlaps(nearest + 1, true_ids, points[first], known)
        write_png(Path(folder, Path(sample["file_name"]).stem + ".png"), sheet(panels))
    return {name: 100 * float(np.mean(values)) for name, values in overlaps.items() if values}


def compare_growth(labels: LabelFile, grown: Mapping[Any, list[dict]]) -> dict[str, dict[str, float]]:
    """Mean IoU in percent of annotations that have points and, in `labels`, a mask: of the mask that they have in
    `grown`, and of two splits by the nearest point.

    grown: image id -> the annotations of `labels` with grown masks, in the same order; other images do not count.
    Returns split -> which annotations, and how many -> mean IoU. Empty where there is nothing to compare.
    """
    kinds, overlaps = [], []
    for described in (image for image in labels.images if image["id"] in grown):
        annotations, size = labels.annotations[described["id"]], (described["height"], described["width"])
        classes, (points, target) = classes_of(annotations, labels), positive_points(annotations)
        truth, masks = true_masks(annotations, size), true_masks(grown[described["id"]], size)
        compared = sorted(truth.keys() & set(target.tolist()))
        if not compared:
            continue
        known = known_pixels(np.any([*truth.values()], axis=0), num_stuff=labels.num_stuff)
        is_stuff, nothing = classes >= labels.num_things, np.zeros(size, dtype=bool)
        nearest, or_border = (nearest_masks(points, target, is_stuff, size, border=on) for on in (False, True))
        for k in compared:
            found = nearest == k, or_border == k, masks.get(k, nothing)
            kinds.append(classes[k])
            overlaps.append([overlap(mask, truth[k], known) for mask in found])
    if not kinds:
        return {}
    kind, overlap_of = np.array(kinds), 100 * np.array(overlaps)
    is_thing = kind < labels.num_things
    of_classes = [overlap_of[kind == k].mean(axis=0) for k in np.unique(kind[is_thing])]
    columns: dict[str, Any] = {
        f"{is_thing.sum()} things": overlap_of[is_thing],
        f"{len(of_classes)} thing classes": of_classes,
    }
    columns |= {f"{(~is_thing).sum()} stuff": overlap_of[~is_thing], f"all {len(kind)}": overlap_of}
    means = {name: np.mean(values, axis=0).tolist() for name, values in columns.items() if len(values)}
    splits = ("nearest point", "nearest point or border", GROWN)
    return {split: {name: mean[k] for name, mean in means.items()} for k, split in enumerate(splits)}


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


def overlap(mask: np.ndarray, true_mask: np.ndarray, known: np.ndarray) -> float:
    """IoU of two masks over the pixels that are `known`, all (H, W) bool; 0 where both are empty there."""
    union = ((mask | true_mask) & known).sum()
    return float((mask & true_mask & known).sum() / max(union, 1))


def known_pixels(in_true_mask: np.ndarray, *, num_stuff: int) -> np.ndarray:
    """The pixels whose truth is known, (H, W) bool like `in_true_mask`. In a data set with stuff every known pixel is
    of some mask, and the others are void; in one of things alone the others are background."""
    return in_true_mask if num_stuff else np.ones_like(in_true_mask)


def target_overlaps(ids: np.ndarray, true_ids: np.ndarray, points: np.ndarray, known: np.ndarray) -> list[float]:
    """Per point (x, y) in a true segment its `overlap` with the segment of `ids` there; 0 where `ids` is 0.

    ids, true_ids (H, W), 0 for no segment; points (P, 2); known (H, W) bool.
    """
    pixels = [(y, x) for x, y in points.astype(int).tolist() if true_ids[y, x]]
    return [overlap((ids == ids[pixel]) & (ids > 0), true_ids == true_ids[pixel], known) for pixel in pixels]


def true_masks(annotations: list[dict], size: tuple[int, int]) -> dict[int, np.ndarray]:
    """Index of an annotation -> its mask (H, W) bool, of those that have one."""
    shown = {k: item["segmentation"] for k, item in enumerate(annotations) if "segmentation" in item}
    return {k: decode_segmentation(segmentation, *size) for k, segmentation in shown.items()}


def positive_points(annotations: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 2) as (x, y) that lie on their annotation, and the index (P,) of that annotation."""
    rows = []
    for k, annotation in enumerate(annotations):
        coords = annotation.get("point_coords", [])
        rows += [(x, y, k) for (x, y), on in zip(coords, annotation.get("point_labels", [1] * len(coords))) if on]
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return table[:, :2], table[:, 2].astype(np.int64)


def classes_of(annotations: list[dict], labels: LabelFile) -> np.ndarray:
    """The class 0..C-1 (N,) of each annotation."""
    return np.array([labels.class_index[item["category_id"]] for item in annotations], dtype=np.int64)


def _guides(sample: dict, grown: dict) -> list[tuple[str, np.ndarray]]:
    """The maps that say where segments end: evidence, and the boundary that the network has learnt."""
    learned = [("boundary", grown["boundary"].cpu().numpy())] if "boundary" in grown else []
    return [*sample["evidence"].items(), *learned]


def _points_of(weak: WeakLabels) -> tuple[np.ndarray, np.ndarray]:
    positive = weak.point_positive
    return weak.points[positive].numpy(), weak.point_target[positive].numpy()


def _truth_of(truth: Truth, image_id: int, size: tuple[int, int]) -> tuple[np.ndarray, list[dict]]:
    ids, segments = truth.panoptic(image_id)
    described = [
        {"id": k, "category_id": segment.class_index, "isthing": segment.class_index < truth.num_things}
        for k, segment in enumerate(segments, 1)
    ]
    return resize_map(ids, size), described
