"""The panoptic evaluator's numbers are those of all images together; it changes no result and invents no number."""

import logging

import numpy as np
import pytest
import torch

from evaluation.scenes import NAMES, evaluate, noisy_prediction, write_label_map, write_scene
from weakseg.evaluation import (
    PanopticCounts,
    PanopticEvaluator,
    Truth,
    class_qualities,
    panoptic_counts,
    panoptic_quality,
)


def info(segment_id, class_index):
    return {"id": segment_id, "category_id": class_index}


def test_two_hand_drawn_images(tmp_path, caplog):
    id_maps = {1: np.array([[1, 1, 1, 2]]), 2: np.array([[1, 1, 0]])}
    truth = Truth(write_label_map(tmp_path, id_maps, {1: [(1, 0, False), (2, 4, False)], 2: [(1, 0, False)]}))
    evaluator = PanopticEvaluator(truth)
    results = [
        {"panoptic_seg": (torch.tensor([[7, 7, 0, 9]]), [info(7, 0), info(9, 4)])},
        {"panoptic_seg": (torch.tensor([[3, 3, 3]]), [info(3, 1)])},
    ]
    evaluator.process([{"image_id": 1}, {"image_id": 2}], results)
    with caplog.at_level(logging.INFO, "weakseg"):
        scores = evaluator.evaluate()["panoptic_seg"]
    # cup: one match of IoU 2/3, one miss; pen: one false positive; wall: one perfect match.
    pq = {"PQ-cup": 100 * (2 / 3) / 1.5, "PQ-pen": 0, "PQ-wall": 100}
    expected = pq | {"PQ": sum(pq.values()) / 3, "PQ_th": pq["PQ-cup"] / 2, "PQ_st": 100}
    expected |= {"SQ": (200 / 3 + 100) / 3, "SQ_th": 100 / 3, "SQ_st": 100}
    expected |= {"RQ": (200 / 3 + 100) / 3, "RQ_th": 100 / 3, "RQ_st": 100}
    assert scores == pytest.approx(expected, abs=1e-9)
    assert all(type(value) is float for value in scores.values())
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in caplog.text.splitlines()]
    assert ["things", "22.22", "33.33", "33.33", "2"] in lines
    assert ["cup", "44.44", "66.67", "66.67", "1", "0", "1"] in lines
    assert ["pen", "0.00", "0.00", "0.00", "0", "1", "0"] in lines
    assert not any(line[:1] == ["key"] for line in lines)


def test_many_images_equal_the_counts_of_each(tmp_path):
    truth = Truth(write_scene(tmp_path))
    total = PanopticCounts.zeros(5)
    for image_id in truth.image_ids:
        id_map, infos = noisy_prediction(truth, image_id)["panoptic_seg"]
        classes = {segment["id"]: segment["category_id"] for segment in infos}
        total += panoptic_counts(id_map.numpy(), classes, *truth.panoptic(image_id), num_classes=5)
    expected = panoptic_quality(total, 3) | {f"PQ-{name}": row[0] for name, row in zip(NAMES, class_qualities(total))}
    evaluator = PanopticEvaluator(truth)
    scores = evaluate(evaluator, truth, truth.image_ids)["panoptic_seg"]
    assert scores == pytest.approx(expected, abs=1e-9)
    assert 5 < scores["PQ"] < 95
    assert evaluate(evaluator, truth, truth.image_ids[::-1])["panoptic_seg"] == scores, "order or a second run matters"


def test_results_are_not_changed(tmp_path):
    truth = Truth(write_scene(tmp_path, 1))
    image_id = truth.image_ids[0]
    result, untouched = noisy_prediction(truth, image_id), noisy_prediction(truth, image_id)
    PanopticEvaluator(truth).process([{"image_id": image_id}], [result])
    assert torch.equal(result["panoptic_seg"][0], untouched["panoptic_seg"][0])
    assert result["panoptic_seg"][1] == untouched["panoptic_seg"][1]


def test_a_wrong_prediction_names_its_image(tmp_path):
    truth = Truth(write_label_map(tmp_path, {5: np.array([[1, 1]])}, {5: [(1, 0, False)]}))
    with pytest.raises(ValueError, match="image 5: predicted segments"):
        PanopticEvaluator(truth).process([{"image_id": 5}], [{"panoptic_seg": (torch.tensor([[2, 0]]), [])}])


def test_images_are_counted_once_each(tmp_path):
    truth = Truth(write_scene(tmp_path, 4))
    evaluator = PanopticEvaluator(truth)
    with pytest.raises(ValueError, match=r"each of 4 images; image 10 \(and 2 others\) has no result"):
        evaluate(evaluator, truth, [3])
    with pytest.raises(ValueError, match="image 10 has two results"):
        evaluate(evaluator, truth, [3, 10, 10, 17, 24])
