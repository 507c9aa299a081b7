"""COCO's panoptic PNGs and instances become label files with the same masks, ids and boxes, and points on them."""

import numpy as np
import pytest

from weakseg.data.convert.coco import prepare_coco
from weakseg.data.convert.point_png import decode_ids, encode_ids
from weakseg.labels import decode_segmentation, read_label_file
from weakseg.safe_io import read_json, read_label_png, write_json, write_png

IDS = np.array([[70000, 70000, 0, 3], [70000, 5, 5, 3], [258, 258, 258, 3]])
SEGMENTS = [
    {"id": 3, "category_id": 92, "iscrowd": 0, "bbox": [3, 0, 1, 3], "area": 3},
    {"id": 70000, "category_id": 2, "iscrowd": 0, "bbox": [0, 0, 2, 2], "area": 3},
    {"id": 5, "category_id": 1, "iscrowd": 1, "bbox": [1, 1, 2, 1], "area": 2},
    {"id": 258, "category_id": 2, "iscrowd": 0, "bbox": [0, 2, 3, 1], "area": 3},
]
CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1, "supercategory": "person"},
    {"id": 2, "name": "bicycle", "isthing": 1, "color": [9, 8, 7]},
    {"id": 92, "name": "banner", "isthing": 0},
]
IMAGES = [{"id": 40, "file_name": "b.jpg", "height": 3, "width": 4, "coco_url": "http://x"}]


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / "coco"
    annotations = [{"image_id": 40, "file_name": "b.png", "segments_info": SEGMENTS}]
    content = {"images": IMAGES, "annotations": annotations, "categories": CATEGORIES}
    write_json(root / "annotations" / "panoptic_val2017.json", content)
    write_png(root / "panoptic_val2017" / "b.png", encode_ids(IDS))
    return root


def test_panoptic_by_hand(coco, tmp_path):
    assert prepare_coco(coco, tmp_path / "out", splits=["val"], points=2, seed=1) == {
        "val": {"panoptic": 1, "instance": 1}
    }
    labels = read_label_file(tmp_path / "out" / "val_panoptic_p2.json")
    assert labels.images == [{"id": 40, "file_name": "b.jpg", "height": 3, "width": 4, "tags": [1, 2, 92]}]
    assert labels.class_index == {1: 0, 2: 1, 92: 2} and labels.num_things == 2
    # Detectron2's colours where the file has none
    assert [category["color"] for category in labels.categories] == [[220, 20, 60], [9, 8, 7], [255, 255, 128]]
    annotations = labels.annotations[40]
    assert [a["id"] for a in annotations] == [1, 2, 3, 4]
    for annotation, segment in zip(annotations, SEGMENTS, strict=True):
        for key in ("category_id", "iscrowd", "bbox", "area"):
            assert annotation[key] == segment[key]
        mask = decode_segmentation(annotation["segmentation"], 3, 4)
        np.testing.assert_array_equal(mask, segment["id"] == IDS)
        if segment["iscrowd"]:
            assert "point_coords" not in annotation
        else:
            x, y = np.floor(annotation["point_coords"]).astype(int).T
            assert mask[y, x].all() and len({*zip(x, y)}) == 2
    instance = read_label_file(tmp_path / "out" / "val_instance_p2.json")
    assert instance.annotations[40] == annotations[1:] and instance.images[0]["tags"] == [1, 2]
    assert instance.num_stuff == 0 and "things" in instance.info["description"]


def test_official_instances_are_kept_as_they_are(coco, tmp_path):
    polygon = [0.0, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0]
    annotations = [
        {
            "id": 900,
            "image_id": 7,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [0, 0, 2, 2],
            "area": 4.5,
            "segmentation": [polygon],
        },
        {
            "id": 901,
            "image_id": 7,
            "category_id": 2,
            "iscrowd": 1,
            "bbox": [0, 0, 1, 3],
            "area": 3,
            "segmentation": {"size": [3, 4], "counts": [0, 3, 9]},
        },
    ]
    images = [{"id": 7, "file_name": "c.jpg", "height": 3, "width": 4, "license": 1}]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES[:2]}
    write_json(coco / "annotations" / "instances_val2017.json", content)
    prepare_coco(coco, tmp_path / "out", splits=["val"], points=3, workers=2)
    labels = read_label_file(tmp_path / "out" / "val_instance_p3.json")
    assert labels.images == [{"id": 7, "file_name": "c.jpg", "height": 3, "width": 4, "tags": [1, 2]}]
    points = labels.annotations[7][0].pop("point_coords")
    assert labels.annotations[7] == annotations
    assert len(points) == 3 and (np.array(points) < 2).all() and (np.array(points) % 1 == 0.5).all()
    prepare_coco(coco, tmp_path / "plain", splits=["val"])
    assert read_label_file(tmp_path / "plain" / "val_instance.json").annotations[7] == annotations


def test_mistakes_end_in_one_sentence(coco, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"panoptic_train2017\.json"):
        prepare_coco(coco, tmp_path / "out", splits=["train"])

    def failing(match):
        with pytest.raises(ValueError, match=match) as caught:
            prepare_coco(coco, tmp_path / "out", splits=["val"])
        assert "\n" not in str(caught.value)

    write_png(coco / "panoptic_val2017" / "b.png", encode_ids(np.where(IDS == 5, 6, IDS)))
    failing(r"b\.png: expected the segment ids of the json")
    write_png(coco / "panoptic_val2017" / "b.png", encode_ids(IDS.T))
    failing(r"b\.png: expected 4 x 3 pixels; found 3 x 4")
    path = coco / "annotations" / "panoptic_val2017.json"
    content = read_json(path)
    write_json(path, {**content, "annotations": []})
    failing(r"expected segments of every image; found none of b\.jpg")
    content["annotations"][0]["file_name"] = "../b.png"
    write_json(path, content)
    failing("expected the name of a file below")
    write_json(path, {**content, "annotations": [{"id": 1}]})
    failing("expected segments_info")
    write_json(path, [])
    failing("expected images, annotations and categories")


def test_real_photos(data_dir, tmp_path):
    source = data_dir / "coco"
    content = read_json(source / "annotations" / "panoptic_val2017.json")
    kept = {image["id"] for image in content["images"][:3]}
    content["images"] = content["images"][:3]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in kept]
    root = tmp_path / "coco"
    write_json(root / "annotations" / "panoptic_val2017.json", content)
    (root / "panoptic_val2017").symlink_to(source / "panoptic_val2017")
    assert prepare_coco(root, tmp_path / "out", splits=["val"], points=1)["val"]["panoptic"] == 3
    labels = read_label_file(tmp_path / "out" / "val_panoptic.json")
    assert (labels.num_things, labels.num_stuff) == (80, 53)
    assert list(labels.class_index.values()) == list(range(133))
    for entry in content["annotations"]:
        ids = decode_ids(read_label_png(root / "panoptic_val2017" / entry["file_name"]))
        for annotation, segment in zip(labels.annotations[entry["image_id"]], entry["segments_info"], strict=True):
            assert (annotation["area"], annotation["bbox"]) == (segment["area"], segment["bbox"])
            mask = decode_segmentation(annotation["segmentation"], *ids.shape)
            np.testing.assert_array_equal(mask, ids == segment["id"])
            if not segment["iscrowd"]:
                ((x, y),) = np.floor(annotation["point_coords"]).astype(int)
                assert mask[y, x]
