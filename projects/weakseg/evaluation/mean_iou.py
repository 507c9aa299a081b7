"""Mean IoU of a data set from one confusion matrix (Point2Mask card section 7)."""

from __future__ import annotations

import logging
from collections import OrderedDict

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy import ndarray
from tabulate import tabulate

from weakseg.evaluation.gather import check_images
from weakseg.evaluation.truth import Truth

logger = logging.getLogger(__name__)


def confusion_matrix(prediction: ndarray, truth: ndarray, *, num_classes: int, ignore_label: int = 255) -> ndarray:
    """Pixels per (true class, predicted class): (C, C) int64. prediction, truth (H, W) class maps; pixels whose truth
    is `ignore_label` do not count. Raises ValueError for another predicted class than 0..C-1 or another size."""
    if prediction.shape != truth.shape:
        raise ValueError(f"mean IoU: expected a class map of {truth.shape}; found {prediction.shape}.")
    known = truth != ignore_label
    predicted = prediction[known].astype(np.int64)
    if predicted.size and not (predicted.min() >= 0 and predicted.max() < num_classes):
        raise ValueError(
            f"mean IoU: expected predicted classes 0..{num_classes - 1}; found {predicted.min()}..{predicted.max()}. "
            "Check that the model was built for this data set."
        )
    pairs = truth[known].astype(np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_iou(confusion: ndarray) -> ndarray:
    """IoU per class (C,) in 0..1 of a confusion matrix (C, C); 0 for a class neither in the truth nor predicted."""
    correct = np.diag(confusion)
    return correct / (confusion.sum(0) + confusion.sum(1) - correct + 1e-12)


def predicted_class_map(result: dict, num_classes: int) -> ndarray:
    """Class map (H, W) of one image's result: "sem_seg" as it is, or the best of its scores (C, H, W). Without it the
    classes of "panoptic_seg", where void counts as the last class (card section 7)."""
    if "sem_seg" in result:
        classes = result["sem_seg"]
        return (classes.argmax(0) if classes.ndim == 3 else classes).cpu().numpy()
    id_map, segments_info = result["panoptic_seg"]
    ids, inverse = np.unique(id_map.cpu().numpy(), return_inverse=True)
    class_of_id = {0: num_classes - 1} | {segment["id"]: segment["category_id"] for segment in segments_info}
    return np.array([class_of_id[segment_id] for segment_id in ids.tolist()], np.int64)[inverse].reshape(id_map.shape)


class MeanIoUEvaluator(DatasetEvaluator):
    """Reads "sem_seg" (else "panoptic_seg") of the results and gives {"sem_seg": {mIoU, mIoU_present, IoU-<class>}},
    times 100: the mean over all C classes, as published, and over the classes that are in the truth. A class that is
    neither in the truth nor predicted has no IoU-<class>."""

    def __init__(self, truth: Truth):
        self._truth = truth
        self.reset()

    def reset(self) -> None:
        self._confusion = np.zeros((self._truth.num_classes, self._truth.num_classes), np.int64)
        self._image_ids: list = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        num_classes = self._truth.num_classes
        for sample, result in zip(inputs, outputs):
            truth = self._truth.class_map(sample["image_id"])
            prediction = predicted_class_map(result, num_classes)
            try:
                self._confusion += confusion_matrix(
                    prediction, truth, num_classes=num_classes, ignore_label=self._truth.ignore_label
                )
            except ValueError as error:
                raise ValueError(f"image {sample['image_id']}: {error}") from error
            self._image_ids.append(sample["image_id"])

    def evaluate(self) -> OrderedDict | None:
        check_images(self._image_ids, self._truth.image_ids)
        confusions = comm.gather(self._confusion)
        if not comm.is_main_process():
            return None
        confusion = sum(confusions)
        iou = 100 * class_iou(confusion)
        in_truth = confusion.sum(1) > 0
        occurs = in_truth | (confusion.sum(0) > 0)
        results = {"mIoU": float(iou.mean())}
        if in_truth.any():
            results["mIoU_present"] = float(iou[in_truth].mean())
        per_class = {name: float(value) for name, value, there in zip(self._truth.class_names, iou, occurs) if there}
        rows = [*per_class.items(), *results.items()]
        logger.info("Mean IoU:\n%s", tabulate(rows, ["class", "IoU"], tablefmt="pipe", floatfmt=".2f"))
        return OrderedDict(sem_seg=results | {f"IoU-{name}": value for name, value in per_class.items()})
