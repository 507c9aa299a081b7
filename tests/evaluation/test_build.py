"""The metadata's evaluator_type chooses the evaluators, which share one truth; without truth files are written."""

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from evaluation.scenes import evaluate, write_label_map, write_scene
from weakseg.data.catalog import register_label_file
from weakseg.evaluation import (
    InstanceEvaluator,
    MeanIoUEvaluator,
    PanopticEvaluator,
    ResultWriter,
    Truth,
    build_evaluator,
)

CFG = CfgNode({"TEST": {"VOC_COMPETITION": "comp5", "SHOW_DIR": ""}})


@pytest.fixture
def register(tmp_path):
    names = []

    def registered(metadata, evaluator_type):
        names.append(f"{tmp_path.name}_{len(names)}")
        register_label_file(names[-1], metadata.label_file, tmp_path, evaluator_type)
        return names[-1]

    yield registered
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    ("evaluator_type", "expected", "keys"),
    [
        ("weakseg_panoptic", [PanopticEvaluator, MeanIoUEvaluator], ["panoptic_seg", "sem_seg"]),
        ("weakseg_instance", [InstanceEvaluator], ["bbox", "segm"]),
        ("weakseg_sem_seg", [MeanIoUEvaluator], ["sem_seg"]),
    ],
)
def test_evaluator_type_chooses(tmp_path, register, evaluator_type, expected, keys):
    metadata = write_scene(tmp_path, 3)
    evaluator = build_evaluator(CFG, register(metadata, evaluator_type), tmp_path)
    assert [type(part) for part in evaluator._evaluators] == expected
    assert len({id(part._truth) for part in evaluator._evaluators}) == 1
    truth = Truth(metadata)
    assert list(evaluate(evaluator, truth, truth.image_ids)) == keys


def test_without_truth_files_are_written(tmp_path, register):
    metadata = write_label_map(tmp_path, {1: np.zeros((2, 2), int)}, {1: []})
    (writer,) = build_evaluator(CFG, register(metadata, "weakseg_panoptic"), tmp_path / "results")._evaluators
    assert isinstance(writer, ResultWriter)
    assert writer._folder == tmp_path / "results" and writer._competition == "comp5"


def test_an_unknown_evaluator_type_is_refused(tmp_path, register):
    name = register(write_scene(tmp_path, 1), "coco")
    with pytest.raises(ValueError, match="expected an evaluator_type of weakseg_panoptic, .*; found 'coco'"):
        build_evaluator(CFG, name, tmp_path)
