"""Records become `WeakLabels`; masks come from polygons and both forms of run lengths."""

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode

from weakseg.labels import decode_segmentation, encode_mask, weak_labels

MASK = np.zeros((4, 6), dtype=bool)
MASK[1:3, 2:5] = True
# Columns first, starting with zeros: 9 outside, then 2 inside and 2 outside three times, 5 more outside.
RUNS = {"size": [4, 6], "counts": [9, 2, 2, 2, 2, 2, 5]}


def test_run_lengths_both_ways():
    np.testing.assert_array_equal(decode_segmentation(RUNS, 4, 6), MASK)
    generator = np.random.default_rng(0)
    for shape in ((1, 1), (7, 3), (40, 50)):
        for fill in (0.0, 0.3, 1.0):
            mask = generator.random(shape) < fill
            runs = encode_mask(mask)
            assert runs["size"] == list(shape) and isinstance(runs["counts"], str)
            np.testing.assert_array_equal(decode_segmentation(runs, *shape), mask)


def test_polygons_are_united():
    two = [[2, 1, 5, 1, 5, 3, 2, 3], [0, 0, 1, 0, 1, 1, 0, 1]]
    expected = MASK.copy()
    expected[0, 0] = True
    np.testing.assert_array_equal(decode_segmentation(two, 4, 6), expected)
    assert not decode_segmentation([], 4, 6).any()


def record(annotations, **more):
    return {"file_name": "a.jpg", "image_id": 9, "height": 4, "width": 6, "annotations": annotations, **more}


def test_every_kind_of_label_finds_its_target():
    weak = weak_labels(
        record(
            [
                {
                    "category_id": 3,
                    "point_coords": [[1.5, 2.5], [0, 0]],
                    "point_labels": [1, 0],
                    "expressions": ["a", "b"],
                },
                {"category_id": 0, "iscrowd": 1, "bbox": [1, 1, 3, 2], "segmentation": RUNS},
                {"category_id": 7, "scribbles": [[[0, 0], [5, 3]], [[1, 1]]], "point_coords": [[5, 3.5]]},
                {"category_id": 7, "bbox": [1, 1, 3, 2], "bbox_mode": BoxMode.XYXY_ABS, "segmentation": RUNS},
            ],
            tags=[7, 3],
        )
    )
    assert weak.image_size == (4, 6) and weak.classes.tolist() == [3, 0, 7, 7]
    assert weak.is_crowd.tolist() == [False, True, False, False]
    assert weak.points.tolist() == [[1.5, 2.5], [0, 0], [5, 3.5]] and weak.points.dtype == torch.float32
    assert weak.point_target.tolist() == [0, 0, 2] and weak.point_positive.tolist() == [True, False, True]
    assert [line.tolist() for line in weak.scribbles] == [[[0, 0], [5, 3]], [[1, 1]]]
    assert weak.scribble_target.tolist() == [2, 2]
    assert weak.boxes.tolist() == [[1, 1, 4, 3], [1, 1, 3, 2]] and weak.box_target.tolist() == [1, 3]
    assert weak.masks.shape == (2, 4, 6) and weak.masks.dtype == torch.bool and weak.mask_target.tolist() == [1, 3]
    np.testing.assert_array_equal(weak.masks[1].numpy(), MASK)
    assert weak.expressions == ["a", "b"] and weak.expression_target.tolist() == [0, 0]
    assert weak.tags.tolist() == [7, 3]


def test_a_record_without_labels():
    for empty in (record([]), {"height": 4, "width": 6}):
        weak = weak_labels(empty)
        assert len(weak) == 0 and weak.masks is None and weak.tags is None
        assert weak.points.shape == (0, 2) and weak.boxes.shape == (0, 4)
    assert weak_labels(record([], tags=[])).tags.tolist() == []


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [6, 4], "counts": [24]},
        {"size": [4, 6], "counts": [9, 2]},
        {"size": [4, 6], "counts": "???"},
        {"size": [4, 6]},
    ],
)
def test_a_mask_that_does_not_fit_is_named(segmentation):
    with pytest.raises(ValueError, match=r"a\.jpg, annotation 5 \(image 9\): expected a mask of 6 x 4 pixels; found"):
        weak_labels(record([{"id": 5, "category_id": 0, "segmentation": segmentation}]))
