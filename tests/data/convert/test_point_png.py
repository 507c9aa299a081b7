"""Point PNGs of Point2Mask and PSPS: read as targets, and turned into label files and back."""

import numpy as np
import pytest

from weakseg.data.convert.point_png import (
    decode_ids,
    encode_ids,
    labels_from_point_pngs,
    point_labels_from_png,
    write_point_pngs,
)
from weakseg.labels import LabelFile
from weakseg.safe_io import read_json, read_label_png, write_json, write_png

CATEGORIES = [
    {"id": 10, "name": "cat", "isthing": 1},
    {"id": 20, "name": "dog", "isthing": 1},
    {"id": 30, "name": "sky", "isthing": 0},
]
CLASS_INDEX = {10: 0, 20: 1, 30: 2}
SEGMENTS = [
    {"id": 66051, "category_id": 20, "area": 9, "iscrowd": 0, "bbox": [0, 0, 3, 3]},
    {"id": 2, "category_id": 30, "area": 8, "bbox": [0, 0, 4, 2]},
    {"id": 3, "category_id": 10, "area": 7, "iscrowd": 1, "bbox": [0, 0, 4, 2]},
    {"id": 4, "category_id": 10, "area": 0, "iscrowd": 0, "bbox": [0, 0, 4, 2]},
    {"id": 5, "category_id": 10, "area": 3, "iscrowd": 0, "bbox": [0, 0, 4, 0.5]},
    {"id": 6, "category_id": 10, "area": 3, "iscrowd": 0, "bbox": [0, 0, 0.5, 4]},
    {"id": 7, "category_id": 10, "area": 1, "iscrowd": 0, "bbox": [0, 0, 1, 1]},
]
IDS = np.array([[66051, 0, 2, 2], [3, 4, 5, 66051], [6, 0, 8, 0]])


def test_ids_and_colours():
    # 66051 = 3 + 256 * 2 + 65536 * 1
    assert encode_ids(np.array([[66051, 255, 256]])).tolist() == [[[3, 2, 1], [255, 0, 0], [0, 1, 0]]]
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 2**24, (5, 7))
    np.testing.assert_array_equal(decode_ids(encode_ids(ids)), ids)


def test_targets_by_hand():
    classes, points, semantic = point_labels_from_png(encode_ids(IDS), SEGMENTS, CLASS_INDEX, 2)
    assert classes.tolist() == [1, 0] and classes.dtype == np.int64
    assert [p.tolist() for p in points] == [[[0.5, 0.5], [3.5, 1.5]], []]
    assert all(p.dtype == np.float32 and p.shape[1:] == (2,) for p in points)
    assert semantic.tolist() == [[1, 255, 2, 2], [0, 255, 255, 1], [255] * 4] and semantic.dtype == np.uint8


def test_an_image_without_segments():
    classes, points, semantic = point_labels_from_png(np.zeros((2, 3, 3), np.uint8), [], CLASS_INDEX, 2)
    assert classes.shape == (0,) and points == [] and (semantic == 255).all()


def write_published(folder):
    images = [
        {"id": 9, "file_name": "sub/a.jpg", "height": 3, "width": 4},
        {"id": 8, "file_name": "b.jpg", "height": 1, "width": 2},
    ]
    annotations = [
        {"image_id": 9, "file_name": "a.png", "segments_info": SEGMENTS},
        {"image_id": 8, "segments_info": []},
    ]
    write_json(folder / "full.json", {"images": images, "annotations": annotations, "categories": CATEGORIES})
    write_png(folder / "pngs" / "sub" / "a.png", encode_ids(IDS))
    write_png(folder / "pngs" / "b.png", np.zeros((1, 2, 3), np.uint8))


def test_to_labels_by_hand(tmp_path):
    write_published(tmp_path)
    labels = labels_from_point_pngs(tmp_path / "full.json", tmp_path / "pngs")
    assert [image["file_name"] for image in labels.images] == ["sub/a.jpg", "b.jpg"] and labels.annotations[8] == []
    assert [(a["id"], a["category_id"], a["iscrowd"], a.get("point_coords")) for a in labels.annotations[9]] == [
        (1, 20, 0, [[0.5, 0.5], [3.5, 1.5]]),
        (2, 30, 0, [[2.5, 0.5], [3.5, 0.5]]),
        (3, 10, 1, [[0.5, 1.5]]),
        (4, 10, 0, None),
    ]
    assert labels.annotations[9][0]["bbox"] == [0, 0, 3, 3] and labels.annotations[9][0]["area"] == 9


def test_there_and_back(tmp_path):
    write_published(tmp_path)
    labels = labels_from_point_pngs(tmp_path / "full.json", tmp_path / "pngs")
    write_point_pngs(labels, tmp_path / "again", tmp_path / "again.json")
    again = labels_from_point_pngs(tmp_path / "again.json", tmp_path / "again")
    assert again == labels
    ids = decode_ids(read_label_png(tmp_path / "again" / "sub" / "a.png"))
    assert ids.tolist() == [[1, 0, 2, 2], [3, 0, 0, 1], [0, 0, 0, 0]]
    first, second = (
        point_labels_from_png(
            read_label_png(tmp_path / folder / "sub" / "a.png"), json["annotations"][0]["segments_info"], CLASS_INDEX, 2
        )
        for folder, json in (("pngs", read_json(tmp_path / "full.json")), ("again", read_json(tmp_path / "again.json")))
    )
    np.testing.assert_array_equal(first[2], second[2])
    np.testing.assert_array_equal(first[0], second[0])
    for a, b in zip(first[1], second[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_points_alone_get_their_own_box_and_area(tmp_path):
    annotation = {"id": 1, "image_id": 1, "category_id": 20, "point_coords": [[1.9, 0], [3.2, 2.5], [1.1, 0.7], [0, 0]]}
    annotation["point_labels"] = [1, 1, 1, 0]
    images = [{"id": 1, "file_name": "a.jpg", "height": 3, "width": 4}]
    labels = LabelFile(CATEGORIES, images, {1: [annotation, {"id": 2, "image_id": 1, "category_id": 30}]})
    write_point_pngs(labels, tmp_path / "pngs", tmp_path / "full.json")
    assert decode_ids(read_label_png(tmp_path / "pngs" / "a.png")).tolist() == [[0, 1, 0, 0], [0] * 4, [0, 0, 0, 1]]
    with_points, without = read_json(tmp_path / "full.json")["annotations"][0]["segments_info"]
    assert with_points == {"id": 1, "category_id": 20, "iscrowd": 0, "bbox": [1, 0, 3, 3], "area": 2}
    assert without["area"] == 0


def test_mistakes_end_in_one_sentence(tmp_path):
    images = [{"id": 1, "file_name": "a.jpg", "height": 3, "width": 4}]
    items = [{"id": k, "image_id": 1, "category_id": 20, "point_coords": [[2.5, 1.5 + k / 10]]} for k in (1, 2)]
    with pytest.raises(ValueError, match=r"a\.jpg: expected at most one annotation at a pixel; found two at \(2, 1\)"):
        write_point_pngs(LabelFile(CATEGORIES, images, {1: items}), tmp_path / "pngs", tmp_path / "full.json")
    write_published(tmp_path)
    write_png(tmp_path / "pngs" / "b.png", np.zeros((2, 1, 3), np.uint8))
    with pytest.raises(ValueError, match=r"b\.png: expected 2 x 1 pixels; found 1 x 2"):
        labels_from_point_pngs(tmp_path / "full.json", tmp_path / "pngs")
    (tmp_path / "pngs" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        labels_from_point_pngs(tmp_path / "full.json", tmp_path / "pngs")
    content = read_json(tmp_path / "full.json")
    write_json(tmp_path / "full.json", {**content, "images": content["images"][:1]})
    with pytest.raises(ValueError, match="expected as many images as annotations; found 1 images and 2"):
        labels_from_point_pngs(tmp_path / "full.json", tmp_path / "pngs")
