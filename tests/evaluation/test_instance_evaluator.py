"""Instance AP is COCO's: equal with faster-coco-eval, pycocotools and Detectron2's evaluator, and right by hand."""

import contextlib
import io

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluation.scenes import SIZE, evaluate, instances, noisy_prediction, write_label_map, write_scene
from weakseg.evaluation import InstanceEvaluator, Truth, instance_evaluator
from weakseg.labels import LabelFile, read_label_file, write_label_file


def box_mask(x0, y0, x1, y1):
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def one_cup(tmp_path):
    truth = box_mask(2, 2, 12, 12).astype(int) + 2 * box_mask(20, 0, 30, 20)
    return Truth(write_label_map(tmp_path, {1: truth}, {1: [(1, 0, False), (2, 4, False)]}))


def scores_of(truth, result):
    evaluator = InstanceEvaluator(truth)
    evaluator.process([{"image_id": 1}], [{"instances": result}])
    return evaluator.evaluate()


def test_a_box_of_iou_72_percent_counts_for_five_of_ten_thresholds(one_cup):
    # 10 x 10 in the truth, 9 x 8 predicted inside it: IoU 0.72, right at 0.5, 0.55, 0.6, 0.65 and 0.7.
    scores = scores_of(one_cup, instances([box_mask(2, 2, 11, 10)], [0], [0.9]))
    expected = {"AP": 50, "AP50": 100, "AP75": 0, "APs": 50, "AP-cup": 50}
    assert scores["bbox"] == pytest.approx(expected, abs=1e-9) and scores["segm"] == pytest.approx(expected, abs=1e-9)


def test_a_stronger_wrong_prediction_halves_the_precision(one_cup):
    scores = scores_of(one_cup, instances([box_mask(2, 2, 12, 12), box_mask(15, 2, 20, 8)], [0, 0], [0.5, 0.8]))
    assert scores["segm"]["AP"] == pytest.approx(50, abs=1e-9)
    # Another class, of which the truth has none, takes no part.
    scores = scores_of(one_cup, instances([box_mask(2, 2, 12, 12), box_mask(15, 2, 20, 8)], [0, 1], [0.5, 0.8]))
    assert scores["segm"] == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100, "APs": 100, "AP-cup": 100}, abs=1e-9)


def test_no_prediction_gives_zero_and_no_truth_gives_no_number(one_cup, tmp_path):
    assert scores_of(one_cup, instances([], [], [])) == {"bbox": {"AP": 0, "AP50": 0, "AP75": 0, "APs": 0, "AP-cup": 0}}
    empty = Truth(write_label_map(tmp_path, {1: np.zeros(SIZE, int)}, {1: []}))
    assert scores_of(empty, instances([], [], [])) == {"bbox": {}}
    assert scores_of(empty, instances([box_mask(0, 0, 3, 3)], [0], [0.5])) == {"bbox": {}, "segm": {}}


def test_masks_are_optional(one_cup):
    result = instances([box_mask(2, 2, 12, 12)], [0], [0.9])
    result.remove("pred_masks")
    assert list(scores_of(one_cup, result)) == ["bbox"]


def test_an_unknown_class_is_refused(one_cup):
    with pytest.raises(ValueError, match=r"expected classes 0\.\.2; found 3 in image 1"):
        scores_of(one_cup, instances([box_mask(2, 2, 12, 12)], [3], [0.9]))


def test_faster_coco_eval_and_pycocotools_give_equal_numbers(tmp_path, monkeypatch):
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed; pip install faster-coco-eval")
    truth = Truth(write_scene(tmp_path))
    assert instance_evaluator.COCOeval is not COCOeval
    fast = evaluate(InstanceEvaluator(truth), truth, truth.image_ids)
    monkeypatch.setattr(instance_evaluator, "COCO", COCO)
    monkeypatch.setattr(instance_evaluator, "COCOeval", COCOeval)
    slow = evaluate(InstanceEvaluator(truth), truth, truth.image_ids)
    assert fast.keys() == slow.keys() == {"bbox", "segm"}
    for task in slow:
        assert fast[task] == pytest.approx(slow[task], abs=1e-9)
        assert 5 < fast[task]["AP"] < 95


def test_numbers_equal_those_of_detectron2_on_the_same_file(tmp_path):
    """The label file is COCO JSON, so Detectron2's own evaluator reads it; crowds and boxes included."""
    metadata = write_scene(tmp_path)
    labels = read_label_file(metadata.label_file)
    truth = Truth(metadata)
    annotations, number = {}, 0
    for image_id in truth.image_ids:
        annotations[image_id] = []
        for index, thing in enumerate(truth.things(image_id)):
            number += 1
            category_id = labels.categories[thing["category_id"]]["id"]
            # Boxes and areas of their own, as polygons have, so that it matters that they are taken from the file.
            thing["bbox"][2] -= index % 3
            thing["area"] *= (1, 20, 90)[index % 3]
            thing |= {"id": number, "image_id": image_id, "category_id": category_id}
            annotations[image_id].append(thing)
    things = [{**category, "color": [1, 2, 3]} for category in labels.categories[:3]]
    write_label_file(tmp_path / "labels.json", LabelFile(things, labels.images, annotations, {}))
    names = [category["name"] for category in things]
    metadata = Metadata(label_file=metadata.label_file, stuff_classes=names, ignore_label=255)
    truth = Truth(metadata)

    name = f"weakseg_test_{tmp_path.name}"
    MetadataCatalog.get(name).set(
        json_file=metadata.label_file,
        thing_classes=names,
        thing_dataset_id_to_contiguous_id={category["id"]: index for index, category in enumerate(things)},
    )
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCOEvaluator(name, ("bbox", "segm"), False, use_fast_impl=False)
        theirs.reset()
        for image_id in truth.image_ids:
            theirs.process([{"image_id": image_id}], [noisy_prediction(truth, image_id)])
        expected = theirs.evaluate()
    MetadataCatalog.remove(name)
    ours = InstanceEvaluator(truth)
    for image_id in truth.image_ids:
        ours.process([{"image_id": image_id}], [noisy_prediction(truth, image_id)])
    scores = ours.evaluate()
    for task in ("bbox", "segm"):
        defined = {key: value for key, value in expected[task].items() if not np.isnan(value)}
        assert scores[task] == pytest.approx(defined, abs=1e-9)
        assert {"APs", "APm", "APl"} <= scores[task].keys()
