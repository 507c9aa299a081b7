"""Panoptic quality, mean IoU and instance AP of a data set, and result files where it has no truth."""

from weakseg.evaluation.build import build_evaluator
from weakseg.evaluation.instance_evaluator import InstanceEvaluator
from weakseg.evaluation.mean_iou import MeanIoUEvaluator, class_iou, confusion_matrix
from weakseg.evaluation.panoptic_evaluator import PanopticEvaluator
from weakseg.evaluation.panoptic_quality import (
    PanopticCounts,
    TruthSegment,
    class_qualities,
    panoptic_counts,
    panoptic_quality,
)
from weakseg.evaluation.result_files import ResultWriter
from weakseg.evaluation.truth import Truth

__all__ = [
    "InstanceEvaluator",
    "MeanIoUEvaluator",
    "PanopticCounts",
    "PanopticEvaluator",
    "ResultWriter",
    "Truth",
    "TruthSegment",
    "build_evaluator",
    "class_iou",
    "class_qualities",
    "confusion_matrix",
    "panoptic_counts",
    "panoptic_quality",
]
