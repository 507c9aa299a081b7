"""COCO's average precision of boxes and masks, against the things of a label file."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import OrderedDict

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from numpy import ndarray
from pycocotools import mask as rle_tools
from tabulate import tabulate

from weakseg.evaluation.gather import gather_by_image
from weakseg.evaluation.truth import Truth

try:
    from faster_coco_eval import COCO
    from faster_coco_eval import COCOeval_faster as COCOeval
except ImportError:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

logger = logging.getLogger(__name__)


class InstanceEvaluator(DatasetEvaluator):
    """Reads "instances" of the results and gives {"bbox": {AP, AP50, AP75, APs, APm, APl, AP-<class>}, "segm": ...},
    times 100; what is undefined because the truth has no such object is left out. "segm" is there when an instance has
    a mask. Computed with faster-coco-eval when it is installed, else with pycocotools: the same numbers."""

    def __init__(self, truth: Truth):
        self._truth = truth
        self.reset()

    def reset(self) -> None:
        self._predictions: list[tuple] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for sample, result in zip(inputs, outputs):
            image_id = sample["image_id"]
            self._predictions.append((image_id, instances_to_coco_json(result["instances"].to("cpu"), image_id)))

    def evaluate(self) -> OrderedDict | None:
        predictions = gather_by_image(self._predictions, self._truth.image_ids)
        if predictions is None:
            return None
        truth = [self._truth.things(image_id) for image_id in self._truth.image_ids]
        sizes = [self._truth.image_size(image_id) for image_id in self._truth.image_ids]
        has_masks = any("segmentation" in prediction for image in predictions for prediction in image)
        results = OrderedDict()
        for task in ("bbox", "segm") if has_masks else ("bbox",):
            precision = average_precision(
                truth, predictions, task=task, sizes=sizes, num_classes=self._truth.num_things
            )
            results[task] = self._scores(precision)
            table = tabulate(results[task].items(), ["", task], tablefmt="pipe", floatfmt=".2f")
            logger.info("Average precision of instances:\n%s", table)
        return results

    def _scores(self, precision: ndarray) -> dict[str, float]:
        thing_names = self._truth.class_names[: self._truth.num_things]
        parts = {
            "AP": precision[..., 0],
            "AP50": precision[0, ..., 0],
            "AP75": precision[5, ..., 0],
            **{f"AP{size}": precision[..., area] for area, size in enumerate("sml", start=1)},
            **{f"AP-{name}": precision[:, :, index, 0] for index, name in enumerate(thing_names)},
        }
        # -1 marks classes and sizes of which the truth has no object.
        return {name: float(100 * part[part > -1].mean()) for name, part in parts.items() if (part > -1).any()}


def average_precision(
    truth: list[list[dict]],
    predictions: list[list[dict]],
    *,
    task: str,
    sizes: list[tuple[int, int]],
    num_classes: int,
) -> ndarray:
    """Precision (10 IoU thresholds 0.5..0.95, 101 recalls, C classes, 4 sizes: all, small, medium, large) at 100
    detections an image, by COCO's algorithm; -1 where the truth has no object. truth, predictions: per image its COCO
    dicts, `category_id` 0..C-1; task "bbox" or "segm"; sizes (H, W) of the images."""
    for image in predictions:
        for prediction in image:
            if not 0 <= prediction["category_id"] < num_classes:
                raise ValueError(
                    f"instances: expected classes 0..{num_classes - 1}; found {prediction['category_id']} in image "
                    f"{prediction['image_id']}. Check that the model was built for this data set."
                )
    found = [[_prediction(prediction, task) for prediction in image] for image in predictions]
    # pycocotools prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(truth, sizes, num_classes), _coco(found, sizes, num_classes), task)
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., -1]


def _prediction(prediction: dict, task: str) -> dict:
    """The object's size, by which small, medium and large are told apart, is that of its box or of its mask."""
    if task == "segm":
        area = float(rle_tools.area(prediction["segmentation"]))
    else:
        area = prediction["bbox"][2] * prediction["bbox"][3]
    return {**prediction, "area": area, "iscrowd": 0}


def _coco(annotations: list[list[dict]], sizes: list[tuple[int, int]], num_classes: int) -> COCO:
    """A COCO data set of annotations per image; images and annotations are numbered here."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": index, "height": height, "width": width} for index, (height, width) in enumerate(sizes)],
        "categories": [{"id": index, "name": str(index)} for index in range(num_classes)],
        "annotations": [],
    }
    for index, image in enumerate(annotations):
        for annotation in image:
            number = len(coco.dataset["annotations"]) + 1
            coco.dataset["annotations"].append({**annotation, "image_id": index, "id": number})
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
