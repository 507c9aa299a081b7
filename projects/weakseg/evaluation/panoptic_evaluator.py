"""Panoptic quality of a data set, in memory: per image only counts are kept."""

from __future__ import annotations

import logging
from collections import OrderedDict

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from weakseg.evaluation.gather import gather_by_image
from weakseg.evaluation.panoptic_quality import PanopticCounts, class_qualities, panoptic_counts, panoptic_quality
from weakseg.evaluation.truth import Truth

logger = logging.getLogger(__name__)


class PanopticEvaluator(DatasetEvaluator):
    """Reads "panoptic_seg" of the results and gives {"panoptic_seg": {PQ, SQ, RQ, PQ_th, ..., RQ_st, PQ-<class>}},
    times 100; what is undefined because no class occurs is left out. Any number of processes gives the same numbers:
    counts are integers, and IoU is summed in float64 in the order of the images on the main process."""

    def __init__(self, truth: Truth):
        self._truth = truth
        self.reset()

    def reset(self) -> None:
        self._counts = PanopticCounts.zeros(self._truth.num_classes)
        self._iou: list[tuple] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for sample, result in zip(inputs, outputs):
            id_map, segments_info = result["panoptic_seg"]
            truth_map, truth_segments = self._truth.panoptic(sample["image_id"])
            try:
                counts = panoptic_counts(
                    id_map.cpu().numpy(),
                    {segment["id"]: segment["category_id"] for segment in segments_info},
                    truth_map,
                    truth_segments,
                    num_classes=self._truth.num_classes,
                )
            except ValueError as error:
                raise ValueError(f"image {sample['image_id']}: {error}") from error
            matched = np.flatnonzero(counts.true_positives)
            self._iou.append((sample["image_id"], (matched, counts.iou[matched])))
            self._counts += counts

    def evaluate(self) -> OrderedDict | None:
        iou_of_images = gather_by_image(self._iou, self._truth.image_ids)
        counts_of_processes = comm.gather(self._counts)
        if iou_of_images is None:
            return None
        counts = sum(counts_of_processes, PanopticCounts.zeros(self._truth.num_classes))
        # The order of the images, not of the processes: float sums would differ in the last bits.
        counts.iou = np.zeros(self._truth.num_classes)
        for matched, iou in iou_of_images:
            counts.iou[matched] += iou
        results = panoptic_quality(counts, self._truth.num_things)
        per_class = class_qualities(counts)
        self._log(counts, results, per_class)
        results |= {f"PQ-{name}": float(row[0]) for name, row in zip(self._truth.class_names, per_class)}
        return OrderedDict(panoptic_seg={name: value for name, value in results.items() if not np.isnan(value)})

    def _log(self, counts: PanopticCounts, results: dict[str, float], per_class: np.ndarray) -> None:
        occurs = ~np.isnan(per_class[:, 0])
        things = occurs[: self._truth.num_things].sum()
        numbers = {"": occurs.sum(), "_th": things, "_st": occurs.sum() - things}
        groups = [
            (name, *(results[f"{quality}{suffix}"] for quality in ("PQ", "SQ", "RQ")), numbers[suffix])
            for name, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st"))
        ]
        logger.info("Panoptic quality:\n%s", _table(groups, ["", "PQ", "SQ", "RQ", "classes"]))
        totals = zip(counts.true_positives, counts.false_positives, counts.false_negatives)
        classes = [
            (name, *row, *total)
            for name, row, total, there in zip(self._truth.class_names, per_class, totals, occurs)
            if there
        ]
        logger.info("Per class:\n%s", _table(classes, ["class", "PQ", "SQ", "RQ", "TP", "FP", "FN"]))


def _table(rows: list[tuple], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f")
