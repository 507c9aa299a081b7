"""The truth comes out of a label file as it was drawn, and wrong files end in one sentence."""

import numpy as np
import pytest
from detectron2.data.catalog import Metadata

from evaluation.scenes import NAMES, write_label_map
from weakseg.evaluation import Truth, TruthSegment
from weakseg.labels import LabelFile, encode_mask, write_label_file

ID_MAP = np.array([[4, 4, 7, 7], [4, 0, 7, 7], [9, 9, 0, 7]])
SEGMENTS = [(9, 3, False), (4, 0, False), (7, 1, True)]


@pytest.fixture
def truth(tmp_path):
    return Truth(write_label_map(tmp_path, {"a": ID_MAP, "b": np.zeros((2, 5), int)}, {"a": SEGMENTS, "b": []}))


def test_id_map_and_segments_follow_the_file(truth):
    assert (truth.num_things, truth.num_classes, truth.image_ids) == (3, 5, ["a", "b"])
    assert truth.image_size("b") == (2, 5)
    id_map, segments = truth.panoptic("a")
    np.testing.assert_array_equal(id_map, [[2, 2, 3, 3], [2, 0, 3, 3], [1, 1, 0, 3]])
    assert id_map.dtype == np.int32
    assert segments == [TruthSegment(1, 3, False), TruthSegment(2, 0, False), TruthSegment(3, 1, True)]
    id_map, segments = truth.panoptic("b")
    assert not id_map.any() and id_map.shape == (2, 5) and segments == []


def test_class_map_has_the_ignore_label_where_no_segment_is(truth):
    np.testing.assert_array_equal(truth.class_map("a"), [[0, 0, 1, 1], [0, 255, 1, 1], [3, 3, 255, 1]])
    np.testing.assert_array_equal(truth.class_map("b"), np.full((2, 5), 255))


def test_things_have_area_and_box_of_their_mask_unless_the_file_says_otherwise(tmp_path):
    categories = [{"id": 5, "name": "grass", "isthing": 0}, {"id": 2, "name": "cow", "isthing": 1}]
    image = {"id": 1, "file_name": "1.jpg", "height": 3, "width": 4}
    plain = {"id": 1, "image_id": 1, "category_id": 2, "iscrowd": 1, "segmentation": encode_mask(ID_MAP == 7)}
    stated = {**plain, "id": 2, "iscrowd": 0, "area": 4.5, "bbox": [1, 0, 2, 2]}
    grass = {**plain, "id": 3, "category_id": 5}
    write_label_file(tmp_path / "labels.json", LabelFile(categories, [image], {1: [plain, grass, stated]}))
    metadata = Metadata(label_file=str(tmp_path / "labels.json"), stuff_classes=["cow", "grass"], ignore_label=255)
    first, second = Truth(metadata).things(1)
    assert (first["area"], first["bbox"], first["iscrowd"], first["category_id"]) == (5.0, [2.0, 0.0, 2.0, 3.0], 1, 0)
    assert (second["area"], second["bbox"], second["iscrowd"]) == (4.5, [1, 0, 2, 2], 0)
    with pytest.raises(ValueError, match=r"share no pixel; found overlapping ones in image 1\."):
        Truth(metadata).panoptic(1)


def test_an_unknown_image_is_named(truth):
    with pytest.raises(ValueError, match="found one of image c"):
        truth.panoptic("c")


def test_another_number_of_classes_is_refused(tmp_path):
    metadata = write_label_map(tmp_path, {1: ID_MAP}, {1: SEGMENTS})
    metadata = Metadata(label_file=metadata.label_file, stuff_classes=NAMES[:4], ignore_label=255)
    with pytest.raises(ValueError, match="expected the 4 classes of the registered data set; found 5"):
        Truth(metadata)


def test_annotations_without_or_with_a_damaged_mask_are_named(tmp_path):
    image = {"id": 8, "file_name": "8.jpg", "height": 3, "width": 4}
    point = {"id": 31, "image_id": 8, "category_id": 1, "point_coords": [[1.0, 1.0]]}
    damaged = {"id": 32, "image_id": 8, "category_id": 1, "segmentation": {"size": [3, 4], "counts": "72"}}
    for annotation, message in ((point, "found none for annotation 31 of image 8"), (damaged, r"32 \(image 8\)")):
        labels = LabelFile([{"id": 1, "name": "cow", "isthing": 1}], [image], {8: [annotation]})
        write_label_file(tmp_path / "labels.json", labels)
        metadata = Metadata(label_file=str(tmp_path / "labels.json"), stuff_classes=["cow"], ignore_label=255)
        with pytest.raises(ValueError, match=message):
            Truth(metadata).panoptic(8)
