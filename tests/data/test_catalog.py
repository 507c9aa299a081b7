"""Data sets by name and by path: records, metadata, and what is said when a file is missing."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from weakseg.data import class_counts, dataset_metadata, dataset_names, metadata_of, register_label_file


@pytest.fixture
def registered(make_set, tmp_path):
    path = make_set()
    register_label_file("toy_set", path, tmp_path / "images")
    yield "toy_set"
    DatasetCatalog.remove("toy_set")
    MetadataCatalog.remove("toy_set")


def test_records_have_contiguous_classes_and_every_label(registered, tmp_path):
    content = json.loads((tmp_path / "labels.json").read_text())
    records = DatasetCatalog.get(registered)
    assert [record["image_id"] for record in records] == [100, 101, 102, 103, 104, 105]
    third = records[2]
    assert third["file_name"] == str((tmp_path / "images" / "2.png").resolve())
    assert (third["height"], third["width"], third["tags"]) == (40, 30, [0, 1, 2])
    original = [a for a in content["annotations"] if a["image_id"] == 102]
    assert [annotation["category_id"] for annotation in third["annotations"]] == [1, 0, 2]
    for annotation, source in zip(third["annotations"], original):
        assert annotation["bbox_mode"] == BoxMode.XYWH_ABS and annotation["iscrowd"] == 0
        for key in ("id", "bbox", "segmentation", "area", "point_coords", "point_labels", "scribbles", "expressions"):
            assert annotation[key] == source[key]


def test_absent_labels_stay_absent(make_set, tmp_path, cfg):
    def points_only(content):
        content["annotations"] = [
            {key: a[key] for key in ("id", "image_id", "category_id", "point_coords")} for a in content["annotations"]
        ]
        content["annotations"][0]["iscrowd"] = 1
        for image in content["images"][1:]:
            del image["tags"]

    cfg.DATASETS.TRAIN = (str(make_set(change=points_only)),)
    (name,) = dataset_names(cfg, "train")
    first, second = DatasetCatalog.get(name)[:2]
    assert set(first["annotations"][0]) == {"id", "category_id", "iscrowd", "point_coords"}
    assert [a["iscrowd"] for a in first["annotations"]] == [1, 0, 0]
    assert "tags" in first and "tags" not in second
    assert dataset_metadata(name).has_truth is False


def test_metadata_lists_things_first(registered):
    metadata = dataset_metadata(registered)
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.stuff_classes == ["cat", "dog", "grass"]
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0, 3: 1}
    assert metadata.stuff_dataset_id_to_contiguous_id == {5: 2}
    assert class_counts(metadata) == (2, 1)
    assert metadata.thing_colors == metadata.stuff_colors[:2] and metadata.thing_colors[0] == [250, 10, 20]
    assert all(len(color) == 3 and 0 <= min(color) <= max(color) <= 255 for color in metadata.stuff_colors)
    assert (metadata.evaluator_type, metadata.ignore_label, metadata.has_truth) == ("weakseg_panoptic", 255, True)


def test_metadata_is_read_when_first_asked_for(tmp_path, make_set):
    register_label_file("late_set", tmp_path / "labels.json", tmp_path / "images", "weakseg_sem_seg", remedy="Make it.")
    try:
        with pytest.raises(FileNotFoundError, match=r"late_set: expected the label file .*labels\.json.*Make it\."):
            dataset_metadata("late_set")
        make_set()
        assert dataset_metadata("late_set").evaluator_type == "weakseg_sem_seg"
        assert len(DatasetCatalog.get("late_set")) == 6
    finally:
        DatasetCatalog.remove("late_set")
        MetadataCatalog.remove("late_set")


def test_metadata_is_read_once(registered, tmp_path):
    names = dataset_metadata(registered).thing_classes
    (tmp_path / "labels.json").unlink()
    assert dataset_metadata(registered).thing_classes == names


def test_metadata_without_classes_says_so():
    with pytest.raises(ValueError, match="nameless_set: expected metadata with .*; found neither"):
        class_counts(dataset_metadata("nameless_set"))
    MetadataCatalog.remove("nameless_set")


def test_metadata_of_another_origin_needs_no_file():
    MetadataCatalog.get("from_a_checkpoint").set(
        thing_classes=["cat"], thing_dataset_id_to_contiguous_id={4: 0}, stuff_dataset_id_to_contiguous_id={}
    )
    assert class_counts(dataset_metadata("from_a_checkpoint")) == (1, 0)
    MetadataCatalog.remove("from_a_checkpoint")


def test_a_path_is_registered_with_the_image_root(cfg, make_set, tmp_path):
    path = str(make_set())
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (path,), (path,)
    assert dataset_names(cfg, "train") == dataset_names(cfg, "test") == [path]
    assert DatasetCatalog.get(path)[0]["file_name"] == str((tmp_path / "images" / "0.png").resolve())
    assert metadata_of(cfg).evaluator_type == "weakseg_panoptic"
    cfg.DATASETS.IMAGE_ROOT = str(tmp_path / "elsewhere")
    dataset_names(cfg, "train")
    assert DatasetCatalog.get(path)[0]["file_name"] == str(tmp_path / "elsewhere" / "0.png")


def test_without_an_image_root_images_lie_beside_the_label_file(cfg, make_set, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cfg.DATASETS.IMAGE_ROOT = ""
    for path in (make_set(), "../labels.json"):
        cfg.DATASETS.TEST = (str(path),)
        (name,) = dataset_names(cfg, "test")
        assert DatasetCatalog.get(name)[0]["file_name"] == str(tmp_path / "0.png")


@pytest.mark.parametrize(("things", "stuff", "accepted"), [(200, 55, True), (200, 56, False), (256, 0, False)])
def test_the_number_that_marks_no_class_is_none(things, stuff, accepted):
    metadata = MetadataCatalog.get("many_classes")
    metadata.set(
        thing_dataset_id_to_contiguous_id={i: i for i in range(things)},
        stuff_dataset_id_to_contiguous_id={things + i: things + i for i in range(stuff)},
    )
    try:
        if accepted:
            assert class_counts(metadata) == (things, stuff)
        else:
            with pytest.raises(ValueError, match="many_classes: expected at most 255 classes, .*; found 256. Leave"):
                class_counts(metadata)
    finally:
        MetadataCatalog.remove("many_classes")


def test_a_path_without_stuff_is_evaluated_as_instances(cfg, make_set):
    def things_only(content):
        content["categories"] = [c for c in content["categories"] if c["isthing"]]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 5]
        for image in content["images"]:
            image["tags"] = [7]

    cfg.DATASETS.TEST = (str(make_set(change=things_only)),)
    metadata = metadata_of(cfg)
    assert metadata.evaluator_type == "weakseg_instance" and class_counts(metadata) == (2, 0)


def test_the_first_training_set_names_the_classes(cfg, registered, make_set):
    other = str(make_set(name="other.json", change=lambda content: content["categories"][0].update(name="puma")))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (other, registered), (registered,)
    assert metadata_of(cfg).thing_classes == ["puma", "dog"]
    cfg.DATASETS.TRAIN = ()
    assert metadata_of(cfg).thing_classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("weakseg_voc_2012_train_aug_panoptic", "prepare_voc.py --splits train_aug --points 1"),
        ("weakseg_coco_2017_val_instance", "prepare_coco.py --splits val --points 1"),
        ("weakseg_voc_2012_train_aug_panoptic_p10", "prepare_voc.py --splits train_aug --points 10"),
        ("weakseg_voc_2012_train_aug_scribble_30", "prepare_scribbles.py .*--length 0.3"),
        ("weakseg_voc_2012_train_scribble", "prepare_scribbles.py .*--length 1.0"),
        ("weakseg_coco_2017_train_panoptic_p10", "prepare_coco.py --splits train --points 10"),
    ],
)
def test_builtin_names_say_how_to_make_their_files(name, command, cfg, monkeypatch, tmp_path):
    monkeypatch.setitem(vars(MetadataCatalog.get(name)), "label_file", str(tmp_path / "absent.json"))
    cfg.DATASETS.TRAIN = (name,)
    assert dataset_names(cfg, "train") == [name]
    message = rf"{name}: expected the label file .*absent\.json; found none.*python datasets/{command}$"
    with pytest.raises(FileNotFoundError, match=message):
        metadata_of(cfg)


def test_all_builtin_names_are_there():
    for kind in ("panoptic", "instance", "sem_seg"):
        names = [f"weakseg_voc_2012_{split}_{kind}" for split in ("train", "train_aug", "val")]
        if kind != "sem_seg":
            names += [f"weakseg_coco_2017_{split}_{kind}" for split in ("train", "val")]
        assert set(names) <= set(DatasetCatalog)
        assert {MetadataCatalog.get(name).evaluator_type for name in names} == {f"weakseg_{kind}"}
        assert len({MetadataCatalog.get(name).label_file for name in names}) == len(names)


def test_ten_points_have_files_of_their_own_and_the_same_images():
    for name, file in (
        ("weakseg_voc_2012_train_aug_panoptic", "weakseg/voc_2012/train_aug_panoptic"),
        ("weakseg_coco_2017_train_panoptic", "weakseg/coco_2017/train_panoptic"),
    ):
        one, ten = MetadataCatalog.get(name), MetadataCatalog.get(f"{name}_p10")
        assert one.label_file.endswith(f"{file}.json") and ten.label_file.endswith(f"{file}_p10.json")
        assert (one.image_root, one.evaluator_type) == (ten.image_root, ten.evaluator_type)
        assert ten.evaluator_type == "weakseg_panoptic"
    assert MetadataCatalog.get("weakseg_coco_2017_train_panoptic_p10").image_root.endswith("coco/train2017")


def test_wrong_names_say_so(cfg, tmp_path):
    cfg.DATASETS.TRAIN = ("my_voc",)
    with pytest.raises(
        ValueError, match="DATASETS.TRAIN: expected .*found 'my_voc'. Correct the name.*weakseg_voc_2012_train_panoptic"
    ):
        dataset_names(cfg, "train")
    cfg.DATASETS.TEST = (str(tmp_path / "gone.json"),)
    with pytest.raises(FileNotFoundError, match=r"DATASETS.TEST: expected a label file at .*gone\.json; found none"):
        dataset_names(cfg, "test")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ()
    with pytest.raises(ValueError, match="expected a data set that names the classes; found none"):
        metadata_of(cfg)


def test_a_file_name_outside_the_image_folder_is_refused(cfg, make_set):
    cfg.DATASETS.TRAIN = (str(make_set(change=lambda content: content["images"][0].update(file_name="../x.png"))),)
    (name,) = dataset_names(cfg, "train")
    with pytest.raises(ValueError, match=r"\.\./x\.png"):
        DatasetCatalog.get(name)
