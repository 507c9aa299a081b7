"""Panoptic counts equal the published rules, written as loops over masks, also where segments or pixels are missing."""

import numpy as np
import pytest

from weakseg.evaluation import (
    PanopticCounts,
    TruthSegment,
    class_qualities,
    panoptic_counts,
    panoptic_quality,
)


def published_counts(prediction, predicted_classes, truth, truth_segments, num_classes):
    """Rows (C, 4) of TP, FP, FN and the sum of IoU, segment by segment on boolean masks."""
    counts = np.zeros((num_classes, 4))
    void = truth == 0
    matched_predictions, matched_truth = set(), set()
    for segment in truth_segments:
        for predicted_id, class_index in predicted_classes.items():
            if segment.is_crowd or class_index != segment.class_index:
                continue
            true_mask, mask = truth == segment.id, prediction == predicted_id
            intersection = (true_mask & mask).sum()
            union = true_mask.sum() + mask.sum() - intersection - (mask & void).sum()
            if intersection > 0 and intersection / union > 0.5:
                counts[class_index] += [1, 0, 0, intersection / union]
                matched_predictions.add(predicted_id)
                matched_truth.add(segment.id)
    crowds = {}
    for segment in truth_segments:
        if segment.is_crowd:
            crowds[segment.class_index] = segment.id
        elif segment.id not in matched_truth:
            counts[segment.class_index, 2] += 1
    for predicted_id, class_index in predicted_classes.items():
        mask = prediction == predicted_id
        excused = void | (truth == crowds[class_index]) if class_index in crowds else void
        if predicted_id not in matched_predictions and not (mask & excused).sum() / mask.sum() > 0.5:
            counts[class_index, 1] += 1
    return counts


def rows(counts):
    return np.stack([counts.true_positives, counts.false_positives, counts.false_negatives, counts.iou], axis=1)


def check(prediction, predicted_classes, truth, truth_segments, num_classes):
    counts = panoptic_counts(prediction, predicted_classes, truth, truth_segments, num_classes=num_classes)
    expected = published_counts(prediction, predicted_classes, truth, truth_segments, num_classes)
    np.testing.assert_allclose(rows(counts), expected, rtol=0, atol=1e-9)
    return counts


def random_case(rng, num_classes=4, offset=1, scale=1):
    height, width = rng.integers(1, 13, 2)
    true_ids = rng.permutation(9)[: rng.integers(0, 8)]
    truth = rng.choice([-1, *true_ids], (height, width)) * scale + offset
    prediction = np.where(
        rng.random((height, width)) < 0.7, truth, rng.integers(0, 5, (height, width)) * scale + offset
    )
    truth = np.where(rng.random((height, width)) < 0.1, 0, np.where(truth == offset - scale, 0, truth))
    prediction = np.where(prediction == offset - scale, 0, prediction)
    class_of = rng.integers(0, num_classes, 10)
    segments = [TruthSegment(int(i) * scale + offset, int(class_of[i]), bool(rng.random() < 0.25)) for i in true_ids]
    present = [int(i) for i in np.unique(prediction) if i > 0]
    wrong = rng.random(10) < 0.2
    predicted_class = np.where(wrong, rng.integers(0, num_classes, 10), class_of)
    predicted = {i: int(predicted_class[(i - offset) // scale]) for i in present}
    return prediction.astype(np.int32), predicted, truth.astype(np.int32), segments


@pytest.mark.parametrize(("offset", "scale"), [(1, 1), (7, 1000), (2**20 - 2, 1), (2**20 + 3, 65536)])
def test_random_maps_equal_the_published_counts(offset, scale):
    rng = np.random.default_rng(offset)
    total = np.zeros((4, 4))
    for _ in range(150):
        total += rows(check(*random_case(rng, offset=offset, scale=scale), num_classes=4))
    assert (total > 0).all(), "the cases must contain every kind of count in every class"


def test_a_hand_drawn_image():
    truth = np.array([[1, 1, 1, 2], [1, 1, 1, 2], [0, 3, 3, 3], [0, 3, 3, 3]])
    prediction = np.array([[5, 5, 5, 6], [5, 5, 6, 6], [5, 7, 7, 0], [5, 7, 7, 0]])
    segments = [TruthSegment(1, 0, False), TruthSegment(2, 1, False), TruthSegment(3, 2, False)]
    counts = check(prediction, {5: 0, 6: 1, 7: 0}, truth, segments, 3)
    # 5 matches 1: IoU 5 / 6, its two void pixels apart. 6 matches 2: IoU 2 / 3. 7 has another class than 3.
    assert counts.true_positives.tolist() == [1, 1, 0]
    assert counts.false_positives.tolist() == [1, 0, 0]
    assert counts.false_negatives.tolist() == [0, 0, 1]
    np.testing.assert_allclose(counts.iou, [5 / 6, 2 / 3, 0], rtol=0, atol=1e-15)
    np.testing.assert_allclose(
        class_qualities(counts), 100 * np.array([[5 / 9, 5 / 6, 2 / 3], [2 / 3, 2 / 3, 1], [0, 0, 0]]), atol=1e-12
    )
    results = panoptic_quality(counts, 2)
    expected = {"PQ": (5 / 9 + 2 / 3) / 3, "SQ": (5 / 6 + 2 / 3) / 3, "RQ": (2 / 3 + 1) / 3}
    expected |= {"PQ_th": (5 / 9 + 2 / 3) / 2, "SQ_th": (5 / 6 + 2 / 3) / 2, "RQ_th": (2 / 3 + 1) / 2}
    expected |= {"PQ_st": 0.0, "SQ_st": 0.0, "RQ_st": 0.0}
    assert results == pytest.approx({name: 100 * value for name, value in expected.items()}, abs=1e-12)


def test_an_iou_of_exactly_one_half_is_no_match():
    truth, prediction = np.array([[1, 1, 0, 0]]), np.array([[2, 0, 0, 0]])
    counts = check(prediction, {2: 0}, truth, [TruthSegment(1, 0, False)], 1)
    assert rows(counts).tolist() == [[0, 1, 1, 0]]


def test_exactly_half_on_void_is_a_false_positive_and_more_is_none():
    segments = [TruthSegment(1, 0, False)]
    half = check(np.array([[3, 3, 3, 3]]), {3: 1}, np.array([[1, 1, 0, 0]]), segments, 2)
    more = check(np.array([[3, 3, 3, 3]]), {3: 1}, np.array([[1, 0, 0, 0]]), segments, 2)
    assert half.false_positives.tolist() == [0, 1]
    assert more.false_positives.tolist() == [0, 0]


def test_a_crowd_excuses_predictions_of_its_class_only_and_is_never_missing():
    truth = np.array([[1, 1, 1, 0, 2, 2]])
    segments = [TruthSegment(1, 0, True), TruthSegment(2, 1, False)]
    prediction = np.array([[4, 4, 5, 5, 5, 0]])
    assert rows(check(prediction, {4: 0, 5: 0}, truth, segments, 2)).tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]
    prediction = np.array([[4, 4, 5, 5, 5, 5]])
    assert rows(check(prediction, {4: 0, 5: 0}, truth, segments, 2)).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    prediction = np.array([[4, 4, 4, 0, 5, 5]])
    assert rows(check(prediction, {4: 1, 5: 1}, truth, segments, 2)).tolist() == [[0, 0, 0, 0], [1, 1, 0, 1]]


def test_of_two_crowds_of_a_class_the_last_counts():
    truth = np.array([[1, 1, 1, 2]])
    crowds = [TruthSegment(1, 0, True), TruthSegment(2, 0, True)]
    prediction = np.array([[4, 4, 4, 4]])
    assert check(prediction, {4: 0}, truth, crowds, 1).false_positives.tolist() == [1]
    assert check(prediction, {4: 0}, truth, crowds[::-1], 1).false_positives.tolist() == [0]


def test_true_pixels_of_an_unlisted_id_are_neither_void_nor_matched():
    truth = np.array([[1, 9, 9, 9]])
    counts = check(np.array([[4, 4, 4, 4]]), {4: 0}, truth, [TruthSegment(1, 0, False)], 1)
    assert rows(counts).tolist() == [[0, 1, 1, 0]]


@pytest.mark.parametrize("shape", [(1, 1), (0, 0), (3, 2)])
def test_nothing_at_all(shape):
    empty = np.zeros(shape, np.int32)
    assert not rows(check(empty, {}, empty, [], 3)).any()


def test_void_only_truth_excuses_and_void_only_prediction_misses():
    void, full = np.zeros((2, 3), np.int32), np.ones((2, 3), np.int32)
    assert not rows(check(full, {1: 0}, void, [], 2)).any()
    assert rows(check(void, {}, full, [TruthSegment(1, 0, False)], 2)).tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]


def test_a_true_segment_without_a_pixel_is_missed():
    counts = check(np.array([[4]]), {4: 0}, np.array([[1]]), [TruthSegment(1, 0, False), TruthSegment(2, 0, False)], 1)
    assert rows(counts).tolist() == [[1, 0, 1, 1]]


def test_sums_over_images_add_up():
    rng = np.random.default_rng(3)
    total, expected = PanopticCounts.zeros(4), np.zeros((4, 4))
    for _ in range(5):
        counts = check(*random_case(rng), num_classes=4)
        total, expected = total + counts, expected + rows(counts)
    np.testing.assert_array_equal(rows(total), expected)


def test_classes_that_do_not_occur_take_no_part_in_the_means():
    counts = PanopticCounts(np.array([2, 0, 0]), np.array([1, 0, 0]), np.array([0, 0, 3]), np.array([1.5, 0.0, 0.0]))
    qualities = class_qualities(counts)
    np.testing.assert_allclose(qualities[[0, 2]], [[60, 75, 80], [0, 0, 0]], atol=1e-12)
    assert np.isnan(qualities[1]).all()
    results = panoptic_quality(counts, 1)
    assert results["PQ"] == pytest.approx(30) and results["PQ_th"] == pytest.approx(60) and results["PQ_st"] == 0
    assert np.isnan(panoptic_quality(PanopticCounts.zeros(2), 1)["PQ"])
    assert np.isnan(panoptic_quality(counts, 3)["PQ_st"])


@pytest.mark.parametrize("scale", [1, 2**21])
def test_a_prediction_that_contradicts_its_list_is_refused(scale):
    truth, prediction = np.array([[0, 0]]), np.array([[1, 2]]) * scale
    with pytest.raises(ValueError, match="pixels of an id without one"):
        panoptic_counts(prediction, {scale: 0}, truth, [], num_classes=2)
    with pytest.raises(ValueError, match=f"found none of id {3 * scale}"):
        panoptic_counts(prediction, {scale: 0, 2 * scale: 1, 3 * scale: 1}, truth, [], num_classes=2)
    with pytest.raises(ValueError, match=r"classes 0\.\.1; found 2 for id"):
        panoptic_counts(prediction, {scale: 0, 2 * scale: 2}, truth, [], num_classes=2)
    with pytest.raises(ValueError, match="id without one"):
        panoptic_counts(np.array([[-1, 1]]), {1: 0}, truth, [], num_classes=2)
    with pytest.raises(ValueError, match=r"found \(2, 1\) for \(1, 2\)"):
        panoptic_counts(prediction.T, {scale: 0, 2 * scale: 1}, truth, [], num_classes=2)
