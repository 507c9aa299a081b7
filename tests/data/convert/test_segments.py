"""What the converters share: annotations of an id map, points that depend on the photo alone, numbering, processes."""

import numpy as np
import pytest

from weakseg.data.convert.segments import (
    add_points,
    annotations_of,
    image_generator,
    mapped,
    numbered,
    read_panoptic_json,
    tags_of,
)
from weakseg.labels import decode_segmentation
from weakseg.safe_io import write_json

IDS = np.array([[7, 7, 0, 2], [7, 0, 0, 2]])


def doubled(number):
    return 2 * number


def test_annotations_by_hand():
    segments = [{"id": 2, "category_id": 5, "iscrowd": 1}, {"id": 9, "category_id": 5}, {"id": 7, "category_id": 3}]
    annotations, masks = annotations_of(IDS, segments)
    assert [(a["category_id"], a["iscrowd"], a["bbox"], a["area"]) for a in annotations] == [
        (5, 1, [3, 0, 1, 2], 2),
        (3, 0, [0, 0, 2, 2], 3),
    ]
    for annotation, mask, number in zip(annotations, masks, (2, 7), strict=True):
        np.testing.assert_array_equal(mask, number == IDS)
        np.testing.assert_array_equal(decode_segmentation(annotation["segmentation"], 2, 4), mask)
    assert tags_of(annotations) == [3, 5]


def test_points_are_drawn_in_what_is_no_crowd_and_not_empty():
    annotations = [{"iscrowd": 0}, {"iscrowd": 1}, {"iscrowd": 0}]
    masks = [IDS == 7, IDS == 2, np.zeros_like(IDS, dtype=bool)]
    add_points(annotations, masks, 2, np.random.default_rng(0))
    assert annotations[1:] == [{"iscrowd": 1}, {"iscrowd": 0}]
    x, y = np.floor(annotations[0]["point_coords"]).astype(int).T
    assert masks[0][y, x].all() and len({*zip(x, y)}) == 2
    add_points(untouched := [{"iscrowd": 0}], masks[:1], 0, np.random.default_rng(0))
    assert untouched == [{"iscrowd": 0}]
    with pytest.raises(ValueError, match="points: expected .* 0 or more; found -1"):
        add_points(untouched, masks[:1], -1, np.random.default_rng(0))


def test_random_numbers_depend_on_seed_and_name():
    first = image_generator(3, "a").random(4)
    np.testing.assert_array_equal(first, image_generator(3, "a").random(4))
    assert (first != image_generator(4, "a").random(4)).all()
    assert (first != image_generator(3, "b").random(4)).all()


def test_annotations_are_numbered_from_one_through_all_images():
    images = [{"id": 40}, {"id": 7}, {"id": 8}]
    by_image = numbered(images, [[{"x": 1}, {"x": 2}], [], [{"x": 3}]])
    assert by_image == {
        40: [{"id": 1, "image_id": 40, "x": 1}, {"id": 2, "image_id": 40, "x": 2}],
        7: [],
        8: [{"id": 3, "image_id": 8, "x": 3}],
    }
    with pytest.raises(ValueError):
        numbered(images, [[]])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_order_stays_on_any_number_of_processes(workers):
    numbers = list(range(40))
    assert mapped(doubled, numbers, workers=workers, description="") == [2 * number for number in numbers]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "expected images, annotations and categories"),
        ({"images": [], "annotations": []}, "expected images, annotations and categories"),
        ({"images": [], "annotations": {}, "categories": []}, "expected images, annotations and categories"),
        ({"images": [], "annotations": [{"bbox": []}], "categories": []}, "expected segments_info"),
    ],
)
def test_other_json_is_refused(content, sentence, tmp_path):
    write_json(tmp_path / "a.json", content)
    with pytest.raises(ValueError, match=r"a\.json: " + sentence):
        read_panoptic_json(tmp_path / "a.json")
