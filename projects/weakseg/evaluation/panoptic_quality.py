"""Panoptic quality from two id maps, in one pass over the pixels and without files (Point2Mask card section 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy import ndarray

_LOOKUP_LIMIT = 1 << 20
"""Ids below this are renumbered by a table (4 MB at most), larger ones by sorting."""


class TruthSegment(NamedTuple):
    """A segment of the truth: its id (from 1) in the id map, its class 0..C-1, whether it is a group not told apart."""

    id: int
    class_index: int
    is_crowd: bool


@dataclass
class PanopticCounts:
    """Per class (C,): matched pairs, predictions without a partner, truth without a partner (int64), and the sum of the
    matched pairs' IoU (float64)."""

    true_positives: ndarray
    false_positives: ndarray
    false_negatives: ndarray
    iou: ndarray

    @classmethod
    def zeros(cls, num_classes: int) -> PanopticCounts:
        integers = np.zeros((3, num_classes), np.int64)
        return cls(integers[0], integers[1], integers[2], np.zeros(num_classes))

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        return PanopticCounts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
            self.iou + other.iou,
        )


def panoptic_counts(
    prediction: ndarray,
    predicted_classes: Mapping[int, int],
    truth: ndarray,
    truth_segments: Sequence[TruthSegment],
    *,
    num_classes: int,
) -> PanopticCounts:
    """Counts of one image, equal to those of the published panopticapi.

    prediction, truth (H, W) integer id maps, 0 is void; predicted_classes: segment id -> class 0..C-1. A pair of one
    class matches when IoU > 0.5, with the predicted segment's void pixels left out of the union. Crowds never match; a
    prediction of which more than half lies on void and on the crowd of its class is not a false positive. Where a class
    has several crowds, the last one counts, as published. True pixels of an id that no segment has are neither void nor
    matched.
    """
    predicted_ids = np.fromiter(predicted_classes, np.int64, len(predicted_classes))
    predicted_class = np.fromiter(predicted_classes.values(), np.int64, len(predicted_classes))
    truth_class = np.array([segment.class_index for segment in truth_segments], np.int64)
    is_crowd = np.array([segment.is_crowd for segment in truth_segments], bool)

    overlap = _overlaps(truth, [segment.id for segment in truth_segments], prediction, predicted_ids)
    _check_prediction(overlap, predicted_ids, predicted_class, num_classes)
    predicted_area = overlap[:, 1:-1].sum(0)
    truth_area = overlap[1:-1].sum(1)
    on_void = overlap[0, 1:-1]
    intersection = overlap[1:-1, 1:-1]

    union = predicted_area - on_void + truth_area[:, None] - intersection
    comparable = (truth_class[:, None] == predicted_class) & ~is_crowd[:, None]
    matched = comparable & (2 * intersection > union)
    truth_row, predicted_row = np.nonzero(matched)
    matched_class = truth_class[truth_row]
    iou = intersection[truth_row, predicted_row] / union[truth_row, predicted_row]

    crowd_of_class = {int(truth_class[row]): row for row in np.flatnonzero(is_crowd)}
    excused = on_void.copy()
    for row in crowd_of_class.values():
        excused += intersection[row] * (predicted_class == truth_class[row])
    false_positive = ~matched.any(0) & (2 * excused <= predicted_area)
    false_negative = ~matched.any(1) & ~is_crowd
    return PanopticCounts(
        np.bincount(matched_class, minlength=num_classes),
        np.bincount(predicted_class[false_positive], minlength=num_classes),
        np.bincount(truth_class[false_negative], minlength=num_classes),
        np.bincount(matched_class, weights=iou, minlength=num_classes),
    )


def class_qualities(counts: PanopticCounts) -> ndarray:
    """PQ, SQ and RQ times 100 per class: (C, 3) float64, NaN for a class that is neither in the truth nor predicted."""
    tp = counts.true_positives
    weight = tp + 0.5 * counts.false_positives + 0.5 * counts.false_negatives
    occurs = weight > 0
    weight = np.where(occurs, weight, 1)
    qualities = np.stack([counts.iou / weight, counts.iou / np.maximum(tp, 1), tp / weight], axis=1)
    return np.where(occurs[:, None], 100 * qualities, np.nan)


def panoptic_quality(counts: PanopticCounts, num_things: int) -> dict[str, float]:
    """PQ, SQ, RQ times 100, of all classes, of things (`_th`) and of stuff (`_st`): means over the classes that occur.
    NaN where none occurs."""
    qualities = class_qualities(counts)
    results = {}
    for suffix, rows in (("", qualities), ("_th", qualities[:num_things]), ("_st", qualities[num_things:])):
        rows = rows[~np.isnan(rows[:, 0])]
        means = rows.mean(0) if len(rows) else np.full(3, np.nan)
        results.update({f"{name}{suffix}": float(mean) for name, mean in zip(("PQ", "SQ", "RQ"), means)})
    return results


def _overlaps(truth: ndarray, truth_ids: Sequence[int], prediction: ndarray, predicted_ids: ndarray) -> ndarray:
    """Pixels per pair of segments (2 + T, 2 + P) int64: first void, then the segments, last all other ids."""
    if truth.shape != prediction.shape:
        raise ValueError(f"panoptic quality: expected id maps of one size; found {prediction.shape} for {truth.shape}.")
    rows, columns = len(truth_ids) + 2, len(predicted_ids) + 2
    pairs = _positions(truth, truth_ids, step=columns)
    pairs += _positions(prediction, predicted_ids)
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)


def _positions(id_map: ndarray, ids: Sequence[int] | ndarray, *, step: int = 1) -> ndarray:
    """`step` times (1 + the position of each pixel's id in `ids`), flat, int64; 0 for void, and an id that is not there
    comes after the last."""
    position = {0: 0} | {int(segment_id): row for row, segment_id in enumerate(ids, start=1)}
    if id_map.size and 0 <= id_map.min() and id_map.max() < _LOOKUP_LIMIT:
        table = np.full(int(id_map.max()) + 1, len(ids) + 1, np.int64)
        for segment_id, row in position.items():
            if 0 <= segment_id < len(table):
                table[segment_id] = row
        return (step * table).take(id_map.ravel())
    present, inverse = np.unique(id_map, return_inverse=True)
    rows = [step * position.get(int(segment_id), len(ids) + 1) for segment_id in present]
    return np.array(rows, np.int64)[inverse.ravel()]


def _check_prediction(overlap: ndarray, ids: ndarray, classes: ndarray, num_classes: int) -> None:
    """A predicted map and its list of segments must be about the same ids and known classes."""
    if overlap[:, -1].any():
        raise ValueError(
            "predicted segments: expected a class for every id of the map; found pixels of an id without one. "
            "Give each id of the map an entry in segments_info."
        )
    for segment_id, class_index, area in zip(ids, classes, overlap[:, 1:-1].sum(0)):
        if area == 0:
            raise ValueError(
                f"predicted segments: expected pixels of every segment; found none of id {segment_id}. "
                "Leave segments without a pixel out of segments_info."
            )
        if not 0 <= class_index < num_classes:
            raise ValueError(
                f"predicted segments: expected classes 0..{num_classes - 1}; found {class_index} for id {segment_id}. "
                "Check that the model was built for this data set."
            )
