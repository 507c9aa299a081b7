"""The evaluator of a data set, chosen by its metadata."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from weakseg.data.catalog import dataset_metadata
from weakseg.evaluation.instance_evaluator import InstanceEvaluator
from weakseg.evaluation.mean_iou import MeanIoUEvaluator
from weakseg.evaluation.panoptic_evaluator import PanopticEvaluator
from weakseg.evaluation.pictures import PictureWriter
from weakseg.evaluation.result_files import ResultWriter
from weakseg.evaluation.truth import Truth

_EVALUATORS = {
    "weakseg_panoptic": (PanopticEvaluator, MeanIoUEvaluator),
    "weakseg_instance": (InstanceEvaluator,),
    "weakseg_sem_seg": (MeanIoUEvaluator,),
}


_READS = {PanopticEvaluator: "panoptic_seg", MeanIoUEvaluator: "sem_seg", InstanceEvaluator: "instances"}
"""The key of a result that an evaluator measures."""


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | Path, *, gives: Collection[str] = tuple(_READS.values())
) -> DatasetEvaluator:
    """The evaluators of the data set's `evaluator_type`, which share one reader of the truth; for a data set without
    truth (`has_truth` False) a writer of result files below `output_folder`. With `TEST.SHOW_DIR` also pictures.

    gives: keys of the head's results; where the data set's evaluators read none of them, mean IoU is measured."""
    metadata = dataset_metadata(dataset_name)
    evaluators: list[DatasetEvaluator] = []
    if cfg.TEST.SHOW_DIR:
        evaluators.append(PictureWriter(metadata, Path(cfg.TEST.SHOW_DIR, Path(dataset_name).stem)))
    if not metadata.has_truth:
        evaluators.append(ResultWriter(metadata, output_folder, competition=cfg.TEST.VOC_COMPETITION))
        return DatasetEvaluators(evaluators)
    if metadata.evaluator_type not in _EVALUATORS:
        raise ValueError(
            f"{dataset_name}: expected an evaluator_type of {', '.join(_EVALUATORS)}; found "
            f"{metadata.evaluator_type!r}. Register it with weakseg.data.catalog, or pass an evaluator of your own."
        )
    usual = _EVALUATORS[metadata.evaluator_type]
    chosen = [evaluator for evaluator in usual if _READS[evaluator] in gives] or [MeanIoUEvaluator]
    truth = Truth(metadata)
    return DatasetEvaluators(evaluators + [evaluator(truth) for evaluator in chosen])
