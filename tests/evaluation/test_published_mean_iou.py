"""Mean IoU as SPML's figures were made, and the corrected one, on examples small enough to count."""

import numpy as np
import pytest

from hostile import refused
from weakseg.evaluation.published_mean_iou import (
    class_iou,
    instance_weighted_iou,
    iou_counts,
    mean_iou,
    pixel_accuracy,
)

#                      right  right  wrong  K     > K  not counted (truth >= K)
TRUTH = np.array([[0, 0, 1, 1, 1, 255, 4]])
PREDICTION = np.array([[0, 1, 1, 3, 9, 2, 2]])


def test_counts_of_three_classes():
    counts = iou_counts(PREDICTION, TRUTH, num_classes=3)
    assert counts.correct.tolist() == [1, 1, 0]
    assert counts.truth.tolist() == [2, 3, 0]
    assert counts.predicted.tolist() == [1, 2, 0]
    np.testing.assert_allclose(class_iou(counts), [1 / 2, 1 / 4, 0], atol=1e-9)
    assert mean_iou(counts) == pytest.approx((1 / 2 + 1 / 4) / 2), "the class that occurs nowhere is left out"
    assert pixel_accuracy(counts) == pytest.approx(2 / 3)


def test_the_published_last_bin_is_closed():
    """The prediction 3 = K is a false positive of class 2, and class 2 counts though it is nowhere."""
    counts = iou_counts(PREDICTION, TRUTH, num_classes=3, official=True)
    assert counts.correct.tolist() == [1, 1, 0] and counts.predicted.tolist() == [1, 2, 1]
    assert mean_iou(counts, official=True) == pytest.approx((1 / 2 + 1 / 4 + 0) / 3)
    assert pixel_accuracy(counts) == pytest.approx(2 / 4)
    last = iou_counts(np.array([[3, 2]]), np.array([[2, 2]]), num_classes=3, official=True)
    assert last.correct[2] == 1 and last.predicted[2] == 2, "no hit even where the truth is the last class"
    assert class_iou(last)[2] == pytest.approx(1 / 3)


def test_counts_of_images_add_up():
    generator = np.random.default_rng(0)
    prediction, truth = generator.integers(0, 7, (2, 6, 10))
    halves = [iou_counts(prediction[:, part], truth[:, part], num_classes=5) for part in (np.s_[:4], np.s_[4:])]
    whole = iou_counts(prediction, truth, num_classes=5)
    for name in ("correct", "truth", "predicted"):
        np.testing.assert_array_equal(getattr(halves[0] + halves[1], name), getattr(whole, name))
    for k in range(5):
        known = truth < 5
        union = ((prediction == k) | (truth == k)) & known
        assert class_iou(whole)[k] == pytest.approx(((prediction == k) & (truth == k)).sum() / union.sum())


def test_nothing_known_is_zero():
    counts = iou_counts(np.zeros((2, 2), int), np.full((2, 2), 255), num_classes=3)
    assert mean_iou(counts) == mean_iou(counts, official=True) == pixel_accuracy(counts) == 0


def test_another_size_is_refused():
    refused(r"expected a label map of \(2, 3\)", iou_counts, np.zeros((3, 2)), np.zeros((2, 3)), num_classes=2)


def test_instances_weight_their_image():
    """Class 1 has two instances in the first image (IoU 1/3) and one in the second (IoU 1)."""
    first = np.array([[1, 1, 0, 0, 0]]), np.array([[1, 0, 1, 0, 0]]), np.array([[1, 0, 2, 0, 255]])
    second = np.array([[1, 2]]), np.array([[1, 2]]), np.array([[7, 8]])
    iou_first = 1 / 3
    iou, instances = instance_weighted_iou([first, second], num_classes=4)
    assert instances.tolist() == [0, 3, 1, 0]
    np.testing.assert_allclose(iou, [0, (2 * iou_first + 1) / 3, 1, 0], atol=1e-9)


def test_published_instances_are_also_background_boundary_and_unknown():
    prediction = truth = np.array([[2, 2, 0, 0, 255, 0]])
    instance = np.array([[1, 1, 0, 255, 5, 0]])
    iou, instances = instance_weighted_iou([(prediction, truth, instance)], num_classes=3)
    assert instances.tolist() == [0, 0, 1] and iou.tolist() == pytest.approx([0, 0, 1])
    iou, instances = instance_weighted_iou([(prediction, truth, instance)], num_classes=3, official=True)
    assert instances.tolist() == [3, 0, 1] and iou.tolist() == pytest.approx([1, 0, 1])


def test_the_class_of_an_instance_is_that_of_most_pixels_and_the_smaller_on_ties():
    truth = np.array([[2, 2, 1, 1, 255, 255, 255]])
    _, instances = instance_weighted_iou([(truth, truth, np.ones_like(truth))], num_classes=3)
    assert instances.tolist() == [0, 1, 0]
    truth[0, 2] = 2
    _, instances = instance_weighted_iou([(truth, truth, np.ones_like(truth))], num_classes=3)
    assert instances.tolist() == [0, 0, 1]
