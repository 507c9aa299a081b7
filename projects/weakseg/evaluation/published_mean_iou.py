"""Mean IoU as SPML's figures were made (card section 7), and its variant weighted by instances.

Beside `mean_iou`, which refuses predictions that are no class: here pseudo labels with "unlabelled" are measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

BACKGROUND, BOUNDARY = 0, 255
"""Values of an instance map that are no instance."""


@dataclass(frozen=True)
class IoUCounts:
    """Pixels per class, each (K,) int64; counts of several images add up."""

    correct: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray

    def __add__(self, other: IoUCounts) -> IoUCounts:
        return IoUCounts(self.correct + other.correct, self.truth + other.truth, self.predicted + other.predicted)


def iou_counts(prediction: np.ndarray, truth: np.ndarray, *, num_classes: int, official: bool = False) -> IoUCounts:
    """The counts of one image. prediction, truth (H, W) integers; pixels whose truth is `num_classes` or more are left
    out. A prediction of `num_classes` or more is an error and no false positive of any class; official: of exactly
    `num_classes`, a false positive of the last class (fault w)."""
    if prediction.shape != truth.shape:
        raise ValueError(
            f"mean IoU: expected a label map of {truth.shape} as the truth; found {prediction.shape}. "
            "Predict at the original size of the image."
        )
    known = truth < num_classes
    predicted, true = prediction[known].astype(np.int64), truth[known].astype(np.int64)
    correct = true[predicted == true]
    if official:
        predicted[predicted == num_classes] = num_classes - 1
    return IoUCounts(*(_histogram(values, num_classes) for values in (correct, true, predicted)))


def class_iou(counts: IoUCounts) -> np.ndarray:
    """IoU (K,) in 0..1; 0 for a class that is neither in the truth nor predicted."""
    return counts.correct / (counts.truth + counts.predicted - counts.correct + 1e-12)


def mean_iou(counts: IoUCounts, *, official: bool = False) -> float:
    """Mean of `class_iou` over the classes that are in the truth or predicted; official: over all (fault v)."""
    counted = np.ones(len(counts.truth), dtype=bool) if official else (counts.truth + counts.predicted) > 0
    return float(class_iou(counts)[counted].mean()) if counted.any() else 0.0


def pixel_accuracy(counts: IoUCounts) -> float:
    """Correct pixels over the pixels whose prediction was counted."""
    return float(counts.correct.sum() / max(counts.predicted.sum(), 1))


def instance_weighted_iou(
    images: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], *, num_classes: int, official: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """IoU of each image, weighted by its number of instances of a class: (K,) in 0..1, 0 for a class without any; and
    the number of instances (K,) int64.

    images: prediction, truth and instance map, (H, W) integers each. The class of an instance is the one that most of
    its pixels have in the truth, the smallest on ties. The background, the boundary and an instance without any known
    pixel are left out; official: all three count, the last as class 0 (fault u).
    """
    weighted, instances = np.zeros(num_classes), np.zeros(num_classes, dtype=np.int64)
    for prediction, truth, instance_map in images:
        number = np.zeros(num_classes, dtype=np.int64)
        for instance in np.unique(instance_map):
            votes = _histogram(truth[instance_map == instance], num_classes)
            if official or (instance not in (BACKGROUND, BOUNDARY) and votes.any()):
                number[votes.argmax()] += 1
        counts = iou_counts(prediction, truth, num_classes=num_classes, official=official)
        weighted += number * class_iou(counts)
        instances += number
    return weighted / np.maximum(instances, 1), instances


def _histogram(values: np.ndarray, num_classes: int) -> np.ndarray:
    """Number of each value in 0..num_classes - 1; larger ones are left out."""
    return np.bincount(values[values < num_classes].astype(np.int64), minlength=num_classes)
