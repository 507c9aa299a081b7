"""VOC and SBD become label files whose masks are those of the PNGs, without void, with points on them."""

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image

from weakseg.data.convert.point_png import decode_ids
from weakseg.data.convert.voc import prepare_voc, semantic_map, voc_categories, voc_palette, voc_segments
from weakseg.labels import decode_segmentation, read_label_file
from weakseg.safe_io import read_json, read_label_png, write_png

V = 255
CLASS_MAP = np.array(
    [[0, 0, 15, 15, V, 8], [0, V, 15, V, 8, 8], [0, 0, V, 15, V, 8], [8, 0, 0, 15, 15, 0]], dtype=np.uint8
)
OBJECT_MAP = np.array([[0, 0, 1, 1, V, 3], [0, V, 1, V, 3, 3], [0, 0, V, 2, V, 3], [3, 0, 0, 2, 2, 0]], dtype=np.uint8)


def test_segments_by_hand():
    ids, segments = voc_segments(CLASS_MAP, OBJECT_MAP)
    assert segments == [
        {"id": 1, "category_id": 15},
        {"id": 2, "category_id": 15},
        {"id": 3, "category_id": 8},
        {"id": 4, "category_id": 21},
    ]
    assert ids.tolist() == [[4, 4, 1, 1, 0, 3], [4, 0, 1, 0, 3, 3], [4, 4, 0, 2, 0, 3], [3, 4, 4, 2, 2, 4]]


def test_pixels_on_which_the_maps_disagree_are_void():
    class_map = np.array([[5, 5, 7, 0, 0, 0, 5, V, 0]], dtype=np.uint8)
    object_map = np.array([[9, 9, 9, 9, 9, 9, 0, 9, V]], dtype=np.uint8)
    ids, segments = voc_segments(class_map, object_map)
    assert ids.tolist() == [[1, 1, 0, 0, 0, 0, 0, 0, 0]] and segments == [{"id": 1, "category_id": 5}]
    ids, segments = voc_segments(np.full((2, 2), V, np.uint8), np.full((2, 2), 1, np.uint8))
    assert not ids.any() and segments == []


def test_semantic_map_has_the_class_order_of_the_label_file():
    assert semantic_map(np.array([[0, 1, 20, V]], np.uint8)).tolist() == [[20, 0, 19, 255]]


def test_classes_and_the_standard_colours():
    categories = voc_categories()
    assert [c["id"] for c in categories] == list(range(1, 22)) and [c["isthing"] for c in categories] == [1] * 20 + [0]
    names = [c["name"] for c in categories]
    assert names[:-1] == sorted(names[:-1]) and names[14] == "person" and names[-1] == "background"
    # background, aeroplane, person, tvmonitor, void of the development kit
    expected = {0: [0, 0, 0], 1: [128, 0, 0], 15: [192, 128, 128], 20: [0, 64, 128], 255: [224, 224, 192]}
    assert {k: voc_palette()[k].tolist() for k in expected} == expected
    assert categories[14]["color"] == [192, 128, 128] and categories[20]["color"] == [0, 0, 0]


@pytest.fixture
def voc(tmp_path):
    """A folder of VOC with one made photo for training and two for validation."""
    root = tmp_path / "VOC2012"
    for name, flip in (("2007_000001", 1), ("2007_000002", -1), ("2007_000004", -1)):
        for folder, array in (("SegmentationClass", CLASS_MAP), ("SegmentationObject", OBJECT_MAP)):
            write_png(root / folder / f"{name}.png", np.ascontiguousarray(array[:, ::flip]), voc_palette())
        write_png(root / "photo.png", np.full((4, 6, 3), 99, np.uint8))
        (root / "JPEGImages").mkdir(exist_ok=True)
        Image.open(root / "photo.png").save(root / "JPEGImages" / f"{name}.jpg")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000001\n")
    (lists / "val.txt").write_text("2007_000002\n2007_000004\n")
    return root


@pytest.fixture
def sbd(voc, tmp_path):
    """SBD's masks of a new photo and of a photo of each split, with the sparse boundaries of the real files."""
    folder = tmp_path / "SBD"
    (folder / "cls").mkdir(parents=True)
    (folder / "inst").mkdir()
    boundaries = np.empty(2, dtype=object)
    boundaries[:] = [scipy.sparse.csc_matrix(np.eye(2)), scipy.sparse.csc_matrix((2, 2))]
    classes, objects = (np.where(array == V, 0, array) for array in (CLASS_MAP, OBJECT_MAP))
    for name in ("2007_000001", "2007_000002", "2007_000003"):
        common = {"Boundaries": boundaries}
        scipy.io.savemat(folder / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": classes, **common}})
        scipy.io.savemat(
            folder / "inst" / f"{name}.mat", {"GTinst": {"Segmentation": objects, "Categories": [15, 15, 8], **common}}
        )
    Image.new("RGB", (6, 4)).save(voc / "JPEGImages" / "2007_000003.jpg")
    return folder


def masks_of(labels, image_id):
    image = next(image for image in labels.images if image["id"] == image_id)
    size = image["height"], image["width"]
    return [decode_segmentation(a["segmentation"], *size) for a in labels.annotations[image_id]]


def test_every_file_of_a_split(voc, tmp_path):
    output = tmp_path / "out"
    assert prepare_voc(voc, output, splits=["train", "val"], points=2, seed=4) == {"train": 1, "val": 2}
    panoptic = read_label_file(output / "train_panoptic_p2.json")
    assert panoptic.images == [{"id": 1, "file_name": "2007_000001.jpg", "height": 4, "width": 6, "tags": [8, 15, 21]}]
    assert (panoptic.num_things, panoptic.num_stuff) == (20, 1)
    annotations = panoptic.annotations[1]
    assert [(a["id"], a["category_id"], a["area"], a["bbox"]) for a in annotations] == [
        (1, 15, 3, [2, 0, 2, 2]),
        (2, 15, 3, [3, 2, 2, 2]),
        (3, 8, 5, [0, 0, 6, 4]),
        (4, 21, 8, [0, 0, 6, 4]),
    ]
    ids, _ = voc_segments(CLASS_MAP, OBJECT_MAP)
    for number, (mask, annotation) in enumerate(zip(masks_of(panoptic, 1), annotations), 1):
        np.testing.assert_array_equal(mask, ids == number)
        x, y = np.floor(annotation["point_coords"]).astype(int).T
        assert mask[y, x].all() and len({*zip(x, y)}) == 2
    instance = read_label_file(output / "train_instance_p2.json")
    assert (instance.num_things, instance.num_stuff) == (20, 0) and instance.images[0]["tags"] == [8, 15]
    assert instance.annotations[1] == annotations[:3]
    np.testing.assert_array_equal(decode_ids(read_label_png(output / "train_panoptic_png" / "2007_000001.png")), ids)
    coco = read_json(output / "train_coco_panoptic.json")
    assert coco["annotations"][0]["file_name"] == "2007_000001.png" and coco["annotations"][0]["image_id"] == 1
    assert coco["annotations"][0]["segments_info"][2] == {
        "id": 3,
        "category_id": 8,
        "iscrowd": 0,
        "bbox": [0, 0, 6, 4],
        "area": 5,
    }
    assert [image["id"] for image in read_label_file(output / "val_panoptic_p2.json").images] == [1, 2]


def test_semantic_truth_has_one_segment_a_class(voc, tmp_path):
    prepare_voc(voc, tmp_path / "out", splits=["val"], points=1)
    semantic = read_label_file(tmp_path / "out" / "val_sem_seg.json")
    assert (semantic.num_things, semantic.num_stuff) == (0, 21)
    class_map = read_label_png(tmp_path / "out" / "val_sem_seg" / "2007_000002.png")
    np.testing.assert_array_equal(class_map, semantic_map(CLASS_MAP[:, ::-1]))
    decoded = np.full((4, 6), V)
    for mask, annotation in zip(masks_of(semantic, 1), semantic.annotations[1]):
        decoded[mask] = semantic.class_index[annotation["category_id"]]
        assert len(annotation["point_coords"]) == 1
    np.testing.assert_array_equal(decoded, class_map)
    assert [a["id"] for a in semantic.annotations[2]] == [4, 5, 6]


def test_points_do_not_depend_on_the_list_or_the_processes(voc, sbd, tmp_path):
    prepare_voc(voc, tmp_path / "a", splits=["train", "val"], points=1, seed=4)
    prepare_voc(voc, tmp_path / "b", splits=["train_aug", "val"], sbd=sbd, points=1, seed=4, workers=2)
    prepare_voc(voc, tmp_path / "c", splits=["val"], points=1, seed=5)
    for name in ("val_panoptic.json", "val_instance.json", "val_sem_seg.json", "val_coco_panoptic.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    first, augmented = (
        read_label_file(tmp_path / name) for name in ("a/train_panoptic.json", "b/train_aug_panoptic.json")
    )
    assert augmented.annotations[1] == first.annotations[1]
    assert (tmp_path / "a" / "val_panoptic.json").read_bytes() != (tmp_path / "c" / "val_panoptic.json").read_bytes()


def test_no_points_unless_asked_for(voc, tmp_path):
    prepare_voc(voc, tmp_path / "out", splits=["val"])
    labels = read_label_file(tmp_path / "out" / "val_panoptic.json")
    assert not any("point_coords" in annotation for annotation in labels.annotations[1])


def test_files_with_several_points_stand_beside_those_with_one(voc, tmp_path):
    output = tmp_path / "out"
    for points in (10, 1):
        prepare_voc(voc, output, splits=["train"], points=points)
    kinds = ("panoptic", "instance", "sem_seg")
    names = {f"train_{kind}{suffix}.json" for kind in kinds for suffix in ("", "_p10")}
    assert {path.name for path in output.glob("*.json")} == names | {"train_coco_panoptic.json"}
    # Up to ten, all different, of each segment: those of 3, 3, 5 and 8 pixels have no more.
    many, one = (read_label_file(output / f"train_panoptic{suffix}.json").annotations[1] for suffix in ("_p10", ""))
    assert [len({*map(tuple, a["point_coords"])}) for a in many] == [3, 3, 5, 8]
    assert [len(a["point_coords"]) for a in many] == [3, 3, 5, 8]
    assert [len(a["point_coords"]) for a in one] == [1, 1, 1, 1]
    without = [[{k: v for k, v in a.items() if k != "point_coords"} for a in items] for items in (many, one)]
    assert without[0] == without[1]


@pytest.mark.parametrize("listed", [True, False])
def test_train_aug_adds_sbd_without_the_validation_photos(listed, voc, sbd, tmp_path):
    if listed:
        (sbd / "train.txt").write_text("2007_000001\n2007_000002")
        (sbd / "val.txt").write_text("2007_000003\n")
    prepare_voc(voc, tmp_path / "out", splits=["train_aug"], sbd=sbd)
    labels = read_label_file(tmp_path / "out" / "train_aug_panoptic.json")
    assert [image["file_name"] for image in labels.images] == ["2007_000001.jpg", "2007_000003.jpg"]
    # VOC's own masks for the photo that both have: 5 void pixels. SBD's have none: they are background.
    assert sum(a["area"] for a in labels.annotations[1]) == 24 - 5
    assert sum(a["area"] for a in labels.annotations[2]) == 24
    assert [a["category_id"] for a in labels.annotations[2]] == [15, 15, 8, 21]


def test_mistakes_end_in_one_sentence(voc, tmp_path):
    for error, sentence, arguments in (
        (ValueError, "train_aug: expected the folder of SBD", {"splits": ["train_aug"]}),
        (FileNotFoundError, "expected SBD's train.txt", {"splits": ["train_aug"], "sbd": tmp_path / "none"}),
        (FileNotFoundError, "expected a list of photos", {"root": tmp_path / "none", "splits": ["train"]}),
        (ValueError, "0 or more; found -1", {"splits": ["train"], "points": -1}),
    ):
        with pytest.raises(error, match=sentence) as caught:
            prepare_voc(**{"root": voc, "output": tmp_path / "out"} | arguments)
        assert "\n" not in str(caught.value)
    Image.new("RGB", (6, 5)).save(voc / "JPEGImages" / "2007_000001.jpg")
    with pytest.raises(ValueError, match="2007_000001: expected maps and photo of one height and width"):
        prepare_voc(voc, tmp_path / "out", splits=["train"])
    (voc / "JPEGImages" / "2007_000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"2007_000001\.jpg: expected an image"):
        prepare_voc(voc, tmp_path / "out", splits=["train"])
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("../../secret\n")
    with pytest.raises(ValueError, match="expected the name of a file below"):
        prepare_voc(voc, tmp_path / "out", splits=["train"])
    assert not (tmp_path / "out" / "train_panoptic.json").exists()


def test_real_photos(data_dir, tmp_path):
    names = (data_dir / "voc" / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:3]
    root = tmp_path / "VOC2012"
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject"):
        (root / folder).symlink_to(data_dir / "voc" / folder)
    assert prepare_voc(root, tmp_path / "out", splits=["val"], points=1, seed=3) == {"val": 3}
    labels = read_label_file(tmp_path / "out" / "val_panoptic.json")
    for image in labels.images:
        name = image["file_name"].removesuffix(".jpg")
        class_map, object_map = (
            read_label_png(root / f / f"{name}.png") for f in ("SegmentationClass", "SegmentationObject")
        )
        masks = np.array(masks_of(labels, image["id"]))
        assert masks.sum(axis=0).max() == 1 and not masks[:, class_map == V].any()
        assert len(masks) == len(np.setdiff1d(object_map, [0, V])) + 1
        for mask, annotation in zip(masks, labels.annotations[image["id"]]):
            ((x, y),) = np.floor(annotation["point_coords"]).astype(int)
            assert mask[y, x] and (class_map[mask] == annotation["category_id"] % 21).all()


def test_real_matlab_files(data_dir, tmp_path):
    sbd = data_dir / "formats" / "sbd_layout_made"
    root = tmp_path / "VOC2012"
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split in ("train", "val"):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("")
    (root / "JPEGImages").symlink_to(data_dir / "voc" / "JPEGImages")
    prepare_voc(root, tmp_path / "out", splits=["train_aug"], sbd=sbd)
    labels = read_label_file(tmp_path / "out" / "train_aug_panoptic.json")
    assert [image["file_name"] for image in labels.images] == ["2007_000032.jpg", "2007_000033.jpg"]
    assert [a["category_id"] for a in labels.annotations[1]] == [1, 1, 15, 15, 21]
