"""Label files of COCO-DensePose: classes, maps, points on the parts of people, and what is refused."""

import copy

import numpy as np
import pytest
from data.convert.densepose_people import (
    HEAD,
    RIGHT_HAND,
    TORSO,
    V,
    part_masks,
    person,
    quarters,
    rectangle,
    runs,
    unseen,
)
from detectron2.data import DatasetCatalog, MetadataCatalog

from hostile import refused
from weakseg.data.convert.densepose import densepose_categories, prepare_densepose
from weakseg.data.convert.voc import voc_palette
from weakseg.labels import decode_segmentation, read_label_file
from weakseg.safe_io import read_label_png, write_json


def test_classes_in_the_order_of_the_published_masks():
    categories = densepose_categories()
    assert [category["id"] for category in categories] == list(range(1, 16))
    names = [category["name"] for category in categories]
    assert names[0] == "torso" and names[7] == "right leg" and names[13:] == ["head", "background"]
    # Pairs that a mirrored image swaps (card 4.3).
    for one, other in ((2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13)):
        sides, parts = zip(*(names[k - 1].split() for k in (one, other)))
        assert {*sides} == {"left", "right"} and len({*parts}) == 1
    assert {category["isthing"] for category in categories} == {0}
    assert [category["color"] for category in categories] == [*voc_palette()[1:15].tolist(), [0, 0, 0]]


CONTENT = {
    "info": {"description": "made", "version": "1.0"},
    "licenses": [],
    "images": [
        {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "height": 6, "width": 12, "license": 1},
        {"id": 3, "file_name": "COCO_train2014_000000000003.jpg", "height": 4, "width": 4, "license": 1},
    ],
    "annotations": [
        person(100, [0, 0, 4, 4], TORSO, TORSO, 0, HEAD),
        person(101, [8, 0, 4, 4], TORSO, RIGHT_HAND, 0, 0),
        unseen(102, rectangle(4, 3, 10, 6)),
        person(103, [0, 0, 4, 4], 0, 0, 0, HEAD, image_id=3),
    ],
    "categories": [{"id": 1, "name": "person", "supercategory": "person", "keypoints": ["nose"], "skeleton": [[1, 1]]}],
}
FIRST = [
    [0, 0, 0, 0, 14, 14, 14, 14, 0, 0, 1, 1],
    [0, 0, 0, 0, 14, 14, 14, 14, 0, 0, 1, 1],
    [14, 14, 13, 13, 14, 14, 14, 14, 14, 14, 14, 14],
    [14, 14, 13, 13, V, V, V, V, V, V, 14, 14],
    [14, 14, 14, 14, V, V, V, V, V, V, 14, 14],
    [14, 14, 14, 14, V, V, V, V, V, V, 14, 14],
]
SECOND = [[14] * 4, [14] * 4, [14, 14, 13, 13], [14, 14, 13, 13]]


@pytest.fixture
def root(tmp_path):
    write_json(tmp_path / "coco/annotations/densepose_coco_2014_train.json", CONTENT)
    return tmp_path / "coco"


def labels_of(folder, name="train_sem_seg.json"):
    return read_label_file(folder / name)


def test_the_files_of_a_split(root, tmp_path):
    assert prepare_densepose(root, tmp_path / "out", splits=["train"]) == {"train": 2}
    labels = labels_of(tmp_path / "out")
    assert labels.categories == densepose_categories() and (labels.num_things, labels.num_stuff) == (0, 15)
    assert labels.images == [
        {"id": 1, "file_name": "COCO_train2014_000000000007.jpg", "height": 6, "width": 12, "tags": [1, 2, 14, 15]},
        {"id": 2, "file_name": "COCO_train2014_000000000003.jpg", "height": 4, "width": 4, "tags": [14, 15]},
    ]
    for image, expected in zip(labels.images, (FIRST, SECOND)):
        stem = image["file_name"].removesuffix(".jpg")
        stored = read_label_png(tmp_path / "out" / "train_sem_seg" / f"{stem}.png")
        assert stored.dtype == np.uint8 and stored.tolist() == expected
        decoded = np.full(stored.shape, V)
        for annotation in labels.annotations[image["id"]]:
            mask = decode_segmentation(annotation["segmentation"], *stored.shape)
            assert (decoded[mask] == V).all() and "point_coords" not in annotation
            decoded[mask] = labels.class_index[annotation["category_id"]]
        assert decoded.tolist() == expected
    assert [(a["id"], a["category_id"], a["area"], a["bbox"]) for a in labels.annotations[1]] == [
        (1, 1, 12, [0, 0, 10, 2]),
        (2, 2, 4, [10, 0, 2, 2]),
        (3, 14, 4, [2, 2, 2, 2]),
        (4, 15, 34, [0, 0, 12, 6]),
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_points_are_drawn_in_each_part_of_each_person(count, root, tmp_path):
    prepare_densepose(root, tmp_path, splits=["train"], points=count, seed=5)
    name = {1: "train_sem_seg.json", 3: "train_sem_seg_p3.json"}[count]
    torso, hand, head, background = labels_of(tmp_path, name).annotations[1]
    left, right = ((1, [0, 4]), (1, [8, 10]))
    for annotation, targets in (
        (torso, (left, right)),
        (hand, ((2, [10, 12]),)),
        (head, ((14, [2, 4]),)),
        (background, ((15, [0, 12]),)),
    ):
        assert annotation["category_id"] == targets[0][0]
        points = np.array(annotation["point_coords"])
        assert len(points) == count * len(targets) == len({*map(tuple, points.tolist())})
        x, y = np.floor(points).astype(int).T
        assert (np.array(FIRST)[y, x] == annotation["category_id"] - 1).all()
        assert [((x >= first) & (x < end)).sum() for _, (first, end) in targets] == [count] * len(targets)


def test_points_depend_on_the_seed_and_the_photo_alone(root, tmp_path):
    list_file = tmp_path / "list.txt"
    list_file.write_text("images/train2014/COCO_train2014_000000000003.jpg segcls/a.png segcls/a.png\n")
    options = {"splits": ["train"], "points": 2}
    prepare_densepose(root, tmp_path / "a", seed=1, **options)
    prepare_densepose(root, tmp_path / "b", seed=1, workers=2, **options)
    prepare_densepose(root, tmp_path / "c", seed=2, **options)
    assert prepare_densepose(root, tmp_path / "d", seed=1, list_file=list_file, **options) == {"train": 1}
    a, b, c = ((tmp_path / folder / "train_sem_seg_p2.json").read_bytes() for folder in "abc")
    assert a == b and a != c
    every, listed = (labels_of(tmp_path / folder, "train_sem_seg_p2.json") for folder in "ad")
    (image,) = listed.images
    assert image == {**every.images[1], "id": 1}
    points = [[a["point_coords"] for a in labels.annotations[k]] for labels, k in ((every, 2), (listed, 1))]
    assert points[0] == points[1]
    assert [path.name for path in (tmp_path / "d/train_sem_seg").iterdir()] == ["COCO_train2014_000000000003.png"]


def test_a_list_keeps_the_order_of_the_json(root, tmp_path):
    names = [image["file_name"] for image in CONTENT["images"]]
    (tmp_path / "list.txt").write_text("".join(f"images/{name}\n" for name in (*reversed(names), names[1])))
    prepare_densepose(root, tmp_path, splits=["train"], list_file=tmp_path / "list.txt")
    assert [image["file_name"] for image in labels_of(tmp_path).images] == names


def test_the_other_published_name(root, tmp_path):
    folder = root / "annotations"
    (folder / "densepose_coco_2014_train.json").rename(folder / "densepose_minival2014.json")
    assert prepare_densepose(root, tmp_path, splits=["minival"]) == {"minival": 2}
    assert labels_of(tmp_path, "minival_sem_seg.json").info["description"].endswith("2014 minival, sem_seg")


def changed(root, **keys):
    """The content with `keys` set in the first person (None: removed), in place of the file."""
    content = copy.deepcopy(CONTENT)
    content["annotations"][0] |= keys
    for key in [key for key, value in keys.items() if value is None]:
        del content["annotations"][0][key]
    write_json(root / "annotations/densepose_coco_2014_train.json", content)


GOOD = part_masks(quarters(1, 1, 1, 1))
EARLY_END = {"size": [256, 256], "counts": runs(quarters(1, 0, 0, 1))["counts"][:-2]}


@pytest.mark.parametrize(
    "keys, sentence",
    [
        ({"dp_masks": GOOD[:13]}, "dp_masks, run lengths or .. for each of 14 parts; found 13 of them"),
        ({"dp_masks": GOOD[0]}, "dp_masks, run lengths or .. for each of 14 parts; found {'size'"),
        ({"dp_masks": [*GOOD[:13], None]}, "dp_masks, run lengths or .. for each of 14 parts; found "),
        ({"dp_masks": [*GOOD[:13], [[1, 2, 3, 4, 5, 6]]]}, "dp_masks, run lengths or .. for each of 14 parts; found "),
        ({"dp_masks": [EARLY_END, *GOOD[1:]]}, "run lengths of torso, 256 x 256 pixels; found "),
        ({"dp_masks": [*GOOD[:13], {"size": [256, 256], "counts": ""}]}, "run lengths of head, .* incomplete run"),
        ({"dp_masks": [*GOOD[:13], {"size": [256, 256], "counts": "hello you"}]}, "run lengths of head, .*run lengths"),
        ({"dp_masks": [*GOOD[:13], runs(np.ones((128, 256)))]}, "run lengths of head, .* a mask of 256 x 128 pixels"),
        ({"dp_masks": [*GOOD[:13], {"size": [256, 256]}]}, "run lengths of head, .*'counts'"),
        ({"dp_masks": [*GOOD[:13], {"size": [256, 256], "counts": 4}]}, "run lengths of head, "),
        ({"dp_masks": None, "segmentation": {"size": [6, 12], "counts": "0"}}, "run lengths of the person, 12 x 6 pix"),
        ({"bbox": None}, "the bbox that its dp_masks cover; found none"),
        ({"bbox": [0, 0, 40, 4]}, "lies outside the image of 12 x 6"),
    ],
)
def test_damaged_annotations_are_named(keys, sentence, root, tmp_path):
    changed(root, **keys)
    for workers in (1, 2) if "bbox" in keys else (1,):
        message = refused(sentence, prepare_densepose, root, tmp_path / "out", splits=["train"], workers=workers)
        assert "densepose_coco_2014_train.json, annotation 100 (image 7): " in message
    assert not (tmp_path / "out" / "train_sem_seg.json").exists()


def test_other_mistakes(root, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(
        FileNotFoundError, match=r"densepose_coco_2014_minival\.json: .* or densepose_minival2014\.json"
    ):
        prepare_densepose(root, output, splits=["minival"])
    refused("0 or more; found -1", prepare_densepose, root, output, splits=["train"], points=-1)
    (tmp_path / "list.txt").write_text("x/b.jpg\nx/a.jpg\nx/COCO_train2014_000000000003.jpg\n")
    listed = {"list_file": tmp_path / "list.txt"}
    refused("every photo of .*list.txt; found no a.jpg", prepare_densepose, root, output, splits=["train"], **listed)
    refused("--list: expected one split", prepare_densepose, root, output, splits=["train", "minival"], **listed)
    others = [{k: v for k, v in a.items() if k != "dp_masks"} for a in CONTENT["annotations"]]
    write_json(root / "annotations/densepose_coco_2014_train.json", {**CONTENT, "annotations": others})
    refused(
        r"train\.json: expected annotations with dp_masks; found none",
        prepare_densepose,
        root,
        output,
        splits=["train"],
    )
    write_json(root / "annotations/densepose_coco_2014_train.json", [])
    refused(r"train\.json: expected a label file, a JSON object", prepare_densepose, root, output, splits=["train"])


def test_registered_names():
    for split, photos in (("train", "train"), ("minival", "val"), ("valminusminival", "val")):
        name = f"weakseg_densepose_2014_{split}_sem_seg"
        metadata = MetadataCatalog.get(name)
        assert name in DatasetCatalog and metadata.evaluator_type == "weakseg_sem_seg"
        assert metadata.label_file.endswith(f"weakseg/densepose_2014/{split}_sem_seg.json")
        assert metadata.image_root.endswith(f"coco/{photos}2014")
        assert metadata.remedy.endswith(f"python datasets/prepare_densepose.py --splits {split} --points 1")
