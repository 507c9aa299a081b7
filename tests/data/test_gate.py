"""The gate: nothing but the allowed labels passes, whatever else the label file says."""

import copy
import io
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from weakseg.data import WeakMapper, build_train_loader, dataset_names, gate
from weakseg.data.gate import has_label
from weakseg.labels import LabelKind

RECORD = {
    "file_name": "a.png",
    "image_id": 4,
    "height": 30,
    "width": 40,
    "tags": [0, 2],
    "sem_seg_file_name": "a_truth.png",
    "annotations": [
        {
            "id": 1,
            "category_id": 0,
            "iscrowd": 0,
            "bbox": [1, 2, 3, 4],
            "bbox_mode": 1,
            "area": 12,
            "segmentation": [[1, 2, 4, 2, 4, 6]],
            "point_coords": [[2.5, 3.5]],
            "point_labels": [1],
            "scribbles": [[[1, 2], [3, 4]]],
            "expressions": ["the left one"],
            "surprise": "a key of tomorrow",
        },
        {"id": 2, "category_id": 2, "iscrowd": 1, "bbox": [0, 0, 9, 9], "bbox_mode": 1, "point_coords": []},
    ],
}
IMAGE_KEYS = {"file_name", "image_id", "height", "width", "annotations"}


@pytest.mark.parametrize(
    ("kind", "keys", "kept"),
    [
        ("points", {"point_coords", "point_labels"}, 1),
        ("scribbles", {"scribbles"}, 1),
        ("boxes", {"bbox", "bbox_mode"}, 2),
        ("masks", {"segmentation"}, 2),
        ("expressions", {"expressions"}, 1),
    ],
)
def test_each_kind_passes_its_own_keys(kind, keys, kept):
    (record,) = gate([RECORD], (kind,))
    assert set(record) == IMAGE_KEYS
    assert len(record["annotations"]) == kept
    first = record["annotations"][0]
    assert set(first) == {"category_id", "iscrowd"} | keys
    assert all(first[key] == RECORD["annotations"][0][key] for key in first)


def test_tags_pass_without_any_annotation():
    (record,) = gate([RECORD], ("tags",))
    assert record == {"file_name": "a.png", "image_id": 4, "height": 30, "width": 40, "annotations": [], "tags": [0, 2]}


def test_kinds_add_up():
    (record,) = gate([RECORD], ("tags", "points", "boxes"))
    first, second = record["annotations"]
    assert set(first) == {"category_id", "iscrowd", "point_coords", "point_labels", "bbox", "bbox_mode"}
    assert second == {"category_id": 2, "iscrowd": 1, "bbox": [0, 0, 9, 9], "bbox_mode": 1}
    assert record["tags"] == [0, 2]


def test_nothing_allowed_leaves_the_image():
    (record,) = gate([RECORD], ())
    assert record == {"file_name": "a.png", "image_id": 4, "height": 30, "width": 40, "annotations": []}


def test_the_original_records_are_not_changed():
    before = copy.deepcopy(RECORD)
    gate([RECORD], ("points",))
    assert before == RECORD


def test_every_kind_of_label_is_known_to_the_gate():
    for kind in LabelKind:
        assert has_label(gate([RECORD], (kind.value,))[0])


@pytest.mark.parametrize("supervision", [("point",), ("points", "area"), ("proposals",)])
def test_an_unknown_kind_is_named(supervision):
    with pytest.raises(
        ValueError, match=f"INPUT.SUPERVISION: .*points, scribbles, .*found '{supervision[-1]}'. Correct"
    ):
        gate([RECORD], supervision)
    with pytest.raises(ValueError, match=f"^TEST.INPUTS: .*found '{supervision[-1]}'"):
        gate([RECORD], supervision, key="TEST.INPUTS")


def test_images_without_a_label_are_told_apart():
    empty = {**RECORD, "annotations": [RECORD["annotations"][1]], "tags": []}
    for kind, expected in (("points", False), ("masks", False), ("tags", False), ("boxes", True)):
        assert has_label(gate([empty], (kind,))[0]) is expected


# The poison test. What a points run may not see is true, random or absent in three files that are alike otherwise.


def randomise(content):
    generator = np.random.default_rng(99)
    for annotation in content["annotations"]:
        x, y, width, height = generator.uniform(1, 14, 4).round(2).tolist()
        annotation["bbox"] = [x, y, width, height]
        annotation["segmentation"] = [[x, y, x + width, y, x, y + height]]
        annotation["area"] = width * height / 2
        annotation["scribbles"] = [[[y, x], [x, y]]]
        annotation["expressions"] = ["noise"]
    for image in content["images"]:
        image["tags"] = generator.permutation([7, 3, 5])[:1].tolist()


def remove(content):
    for annotation in content["annotations"]:
        for key in ("bbox", "segmentation", "area", "scribbles", "expressions"):
            del annotation[key]
    for image in content["images"]:
        del image["tags"]


def samples_of(cfg, path, count=8):
    """The first batches of a training run as bytes, with everything that a sample holds."""
    cfg = cfg.clone()
    cfg.DATASETS.TRAIN = (str(path),)
    buffer = io.BytesIO()
    batches = iter(build_train_loader(cfg, WeakMapper(cfg, True)))
    samples = [sample for _ in range(count) for sample in next(batches)]
    for sample in samples:
        weak = sample.pop("weak")
        torch.save([sample, vars(weak)], buffer)
    return buffer.getvalue()


@pytest.fixture
def poisoned(make_set):
    return {
        "true": make_set(name="true.json"),
        "random": make_set(name="random.json", change=randomise),
        "absent": make_set(name="absent.json", change=remove),
    }


def test_a_points_run_sees_no_poison(cfg, poisoned):
    true, random, absent = (samples_of(cfg, path) for path in poisoned.values())
    assert true == random == absent


def test_the_poison_is_in_the_files_and_reaches_the_records(cfg, poisoned):
    contents = {name: json.loads(path.read_text()) for name, path in poisoned.items()}
    cfg.DATASETS.TRAIN = tuple(str(path) for path in poisoned.values())
    for name, path in zip(poisoned, dataset_names(cfg, "train")):
        records = DatasetCatalog.get(path)
        assert len(records) == len(contents[name]["images"])
        for record in records:
            for annotation in record["annotations"]:
                assert ("segmentation" in annotation) == ("bbox" in annotation) == (name != "absent")
    for true, random in zip(contents["true"]["annotations"], contents["random"]["annotations"]):
        assert true["point_coords"] == random["point_coords"]
        for key in ("bbox", "segmentation", "area"):
            assert true[key] != random[key]


def test_a_reader_without_a_gate_would_be_seen(cfg, poisoned, monkeypatch):
    monkeypatch.setattr("weakseg.data.loader.gate", lambda records, supervision: list(records))
    true, random, absent = (samples_of(cfg, path) for path in poisoned.values())
    assert len({true, random, absent}) == 3


@pytest.mark.parametrize("kind", ["masks", "boxes", "scribbles", "tags", "expressions"])
def test_a_run_of_another_kind_does_learn_from_it(cfg, poisoned, kind):
    cfg.INPUT.SUPERVISION = (kind,)
    assert samples_of(cfg, poisoned["true"]) != samples_of(cfg, poisoned["random"])


def test_images_that_nobody_pointed_at_stay_out_alike(cfg, make_set):
    """The filter sees points only: an image whose only target is a tiny box stays, one without points goes."""

    def shrink(content):
        for annotation in content["annotations"]:
            annotation["area"], annotation["bbox"] = 0.01, [1, 1, 0.1, 0.1]
            if annotation["image_id"] == 101:
                del annotation["point_coords"], annotation["point_labels"]

    cfg.DATASETS.TRAIN = (str(make_set(change=shrink)),)
    batches = iter(build_train_loader(cfg, WeakMapper(cfg, True)))
    seen = {sample["image_id"] for _ in range(15) for sample in next(batches)}
    assert seen == {100, 102, 103, 104, 105}
