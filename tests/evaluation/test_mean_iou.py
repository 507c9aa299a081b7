"""Mean IoU counts every known pixel once, and finds the class map in whatever form the result has it."""

import numpy as np
import pytest
import torch

from evaluation.scenes import evaluate, noisy_prediction, write_label_map, write_scene
from weakseg.evaluation import MeanIoUEvaluator, Truth, class_iou, confusion_matrix
from weakseg.evaluation.mean_iou import predicted_class_map


def test_confusion_equals_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, 255], (13, 17)).astype(np.uint8)
    prediction = rng.integers(0, 4, (13, 17)).astype(np.uint8)
    expected = np.zeros((4, 4), np.int64)
    for true_class, predicted_class in zip(truth.ravel(), prediction.ravel()):
        if true_class != 255:
            expected[true_class, predicted_class] += 1
    confusion = confusion_matrix(prediction, truth, num_classes=4)
    np.testing.assert_array_equal(confusion, expected)
    assert confusion.dtype == np.int64


def test_more_than_sixteen_classes_do_not_overflow_small_integers():
    confusion = confusion_matrix(np.full((2, 2), 200, np.uint8), np.full((2, 2), 199, np.uint8), num_classes=201)
    assert confusion[199, 200] == 4 and confusion.sum() == 4


def test_class_iou_of_a_hand_drawn_matrix():
    confusion = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    np.testing.assert_allclose(class_iou(confusion), [6 / 9, 3 / 6, 0], rtol=0, atol=1e-12)


def test_one_pixel_void_only_and_nothing():
    assert confusion_matrix(np.array([[1]]), np.array([[0]]), num_classes=2).tolist() == [[0, 1], [0, 0]]
    assert not confusion_matrix(np.array([[9]]), np.array([[255]]), num_classes=2).any()
    assert not confusion_matrix(np.zeros((0, 0)), np.zeros((0, 0)), num_classes=2).any()


def test_class_maps_from_scores_and_from_panoptic_results():
    scores = torch.tensor([[[0.1, 0.9]], [[0.2, 0.3]], [[0.5, 0.1]]])
    assert predicted_class_map({"sem_seg": scores}, 3).tolist() == [[2, 0]]
    panoptic = (
        torch.tensor([[5, 0], [9, 5]], dtype=torch.int32),
        [{"id": 9, "category_id": 0}, {"id": 5, "category_id": 2}],
    )
    assert predicted_class_map({"panoptic_seg": panoptic}, 4).tolist() == [[2, 3], [0, 2]]
    assert predicted_class_map({"panoptic_seg": panoptic, "sem_seg": torch.tensor([[1]])}, 4).tolist() == [[1]]


def test_the_evaluator_gives_both_means_and_the_classes_that_occur(tmp_path):
    id_maps = {1: np.array([[1, 1, 2, 0]]), 2: np.array([[1, 1, 1, 1]])}
    truth = Truth(write_label_map(tmp_path, id_maps, {1: [(1, 0, False), (2, 3, True)], 2: [(1, 3, False)]}))
    evaluator = MeanIoUEvaluator(truth)
    maps = [torch.tensor([[0, 1, 3, 4]]), torch.tensor([[3, 3, 3, 0]])]
    evaluator.process([{"image_id": 1}, {"image_id": 2}], [{"sem_seg": class_map} for class_map in maps])
    scores = evaluator.evaluate()["sem_seg"]
    # cup: 1 right of 2 true and 2 predicted; pen: predicted once; wood: 4 right of 5; wall: predicted on void only.
    iou = {"IoU-cup": 100 / 3, "IoU-pen": 0, "IoU-wood": 80}
    expected = {"mIoU": sum(iou.values()) / 5, "mIoU_present": (100 / 3 + 80) / 2} | iou
    assert scores == pytest.approx(expected, abs=1e-9)
    assert all(type(value) is float for value in scores.values())


def test_many_images_equal_one_long_image_and_results_are_not_changed(tmp_path):
    truth = Truth(write_scene(tmp_path))
    results = [noisy_prediction(truth, image_id) for image_id in truth.image_ids]
    flat_truth = np.concatenate([truth.class_map(image_id) for image_id in truth.image_ids])
    flat = np.concatenate([result["sem_seg"].numpy() for result in results])
    expected = [((flat == c) & (flat_truth == c)).sum() for c in range(5)] / np.array(
        [((flat == c) & (flat_truth != 255) | (flat_truth == c)).sum() for c in range(5)]
    )
    evaluator = MeanIoUEvaluator(truth)
    scores = evaluate(evaluator, truth, truth.image_ids)["sem_seg"]
    assert scores["mIoU"] == pytest.approx(100 * expected.mean(), abs=1e-9)
    evaluator.reset()
    for image_id, result in zip(truth.image_ids, results):
        del result["sem_seg"]
        evaluator.process([{"image_id": image_id}], [result])
    assert evaluator.evaluate()["sem_seg"] == scores, "the scene's class maps are those of its panoptic results"
    assert torch.equal(results[0]["panoptic_seg"][0], noisy_prediction(truth, truth.image_ids[0])["panoptic_seg"][0])


def test_wrong_predictions_name_their_image(tmp_path):
    truth = Truth(write_label_map(tmp_path, {"x": np.array([[1, 1]])}, {"x": [(1, 0, False)]}))
    for prediction, message in (
        (torch.tensor([[0, 5]]), r"image x: .* classes 0\.\.4; found 0\.\.5"),
        (torch.tensor([[-1, 0]]), r"found -1\.\.0"),
        (torch.tensor([[0]]), r"expected a class map of \(1, 2\); found \(1, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            MeanIoUEvaluator(truth).process([{"image_id": "x"}], [{"sem_seg": prediction}])
    with pytest.raises(ValueError, match="image x has no result"):
        MeanIoUEvaluator(truth).evaluate()
