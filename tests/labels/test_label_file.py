"""The label file: read, checked and written."""

import pytest

from labels.content import written
from weakseg.labels import LabelFile, read_label_file, write_label_file
from weakseg.safe_io import read_json, write_json


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
