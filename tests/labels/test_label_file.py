"""The label file: read, checked and written."""

import copy

import pytest

from weakseg.labels import LabelFile, read_label_file, write_label_file
from weakseg.safe_io import read_json, write_json

CONTENT = {
    "weakseg_version": 1,
    "info": {"note": "x"},
    "categories": [
        {"id": 5, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
        {"id": 3, "name": "cat"},
        {"id": 9, "name": "road", "isthing": 0},
        {"id": 1, "name": "dog", "isthing": 1},
    ],
    "images": [
        {"id": 17, "file_name": "a.jpg", "height": 480, "width": 640, "tags": [3, 5]},
        {"id": 4, "file_name": "b.jpg", "height": 10, "width": 20},
    ],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 1, "point_coords": [[0, 0], [19.99, 9.5]], "point_labels": [1, 0]},
        {"id": 812, "image_id": 17, "category_id": 3, "bbox": [1, 2, 30, 40.5], "iscrowd": 0, "area": 7.5},
        {"id": 2, "image_id": 17, "category_id": 5, "scribbles": [[[1, 2], [3, 4]]], "expressions": ["the sky"]},
        {"id": 3, "image_id": 4, "category_id": 3, "segmentation": [[0, 0, 5, 0, 5, 5]]},
        {"id": 6, "image_id": 4, "category_id": 3, "segmentation": {"size": [10, 20], "counts": [150, 50]}, "bbox": []},
    ],
}


def written(tmp_path, change=lambda content: None):
    content = copy.deepcopy(CONTENT)
    change(content)
    write_json(tmp_path / "labels.json", content)
    return tmp_path / "labels.json"


def test_classes_are_things_in_file_order_then_stuff(tmp_path):
    labels = read_label_file(written(tmp_path))
    assert labels.class_index == {3: 0, 1: 1, 5: 2, 9: 3}
    assert labels.num_things == 2 and labels.num_stuff == 2
    assert [category["isthing"] for category in labels.categories] == [0, 1, 0, 1]


def test_annotations_by_image(tmp_path):
    labels = read_label_file(written(tmp_path))
    assert {image: [a["id"] for a in items] for image, items in labels.annotations.items()} == {
        17: [812, 2],
        4: [1, 3, 6],
    }
    assert labels.annotations[4][0]["point_coords"] == [[0, 0], [19.99, 9.5]] and labels.info == {"note": "x"}
    assert "bbox" not in labels.annotations[4][2] and labels.images[0]["tags"] == [3, 5]


def test_a_plain_coco_file_has_things_only(tmp_path):
    def plain(content):
        del content["weakseg_version"], content["info"]
        content["categories"] = [
            {"id": c["id"], "name": c["name"], "supercategory": "x"} for c in content["categories"]
        ]

    labels = read_label_file(written(tmp_path, plain))
    assert labels.class_index == {5: 0, 3: 1, 9: 2, 1: 3} and labels.num_stuff == 0 and labels.num_things == 4


def test_a_split_without_labels_has_images(tmp_path):
    labels = read_label_file(written(tmp_path, lambda content: content.pop("annotations")))
    assert labels.annotations == {17: [], 4: []}


def test_official_coco_files_are_read(data_dir):
    labels = read_label_file(data_dir / "coco" / "annotations" / "instances_val2017.json")
    content = read_json(data_dir / "coco" / "annotations" / "instances_val2017.json")
    assert labels.num_things == 80 and sum(map(len, labels.annotations.values())) == len(content["annotations"])


def test_writing_and_reading_again(tmp_path):
    labels = read_label_file(written(tmp_path))
    write_label_file(tmp_path / "new" / "b.json", labels)
    again = read_label_file(tmp_path / "new" / "b.json")
    assert again == labels
    content = read_json(tmp_path / "new" / "b.json")
    assert list(content) == ["weakseg_version", "info", "categories", "images", "annotations"]
    assert content["weakseg_version"] == 1
    shuffled = LabelFile(
        [dict(reversed(item.items())) for item in labels.categories],
        [dict(reversed(item.items())) for item in labels.images],
        {key: [dict(reversed(a.items())) for a in labels.annotations[key]] for key in reversed(labels.annotations)},
        labels.info,
    )
    write_label_file(tmp_path / "c.json", shuffled)
    assert (tmp_path / "c.json").read_bytes() == (tmp_path / "new" / "b.json").read_bytes()


def test_what_is_not_valid_is_not_written(tmp_path):
    labels = read_label_file(written(tmp_path))
    labels.annotations[4][0]["point_coords"][0][0] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        write_label_file(tmp_path / "b.json", labels)
    assert not (tmp_path / "b.json").exists()


def test_other_files_are_refused(tmp_path):
    write_json(tmp_path / "labels.json", [1])
    with pytest.raises(ValueError, match="a label file, a JSON object; found a list"):
        read_label_file(tmp_path / "labels.json")
    with pytest.raises(FileNotFoundError, match="gone.json"):
        read_label_file(tmp_path / "gone.json")
