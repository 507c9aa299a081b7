"""Result files hold exactly what was predicted, in the formats of the test servers."""

import io
import logging
import tarfile

import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from PIL import Image
from pycocotools import mask as rle_tools

from evaluation.scenes import SIZE, instances, write_label_map
from weakseg.evaluation import ResultWriter
from weakseg.evaluation.result_files import ids_to_rgb, segments_with_area, voc_palette
from weakseg.labels import LabelFile, write_label_file
from weakseg.safe_io import read_json, read_label_png

VOC = {"names": ["aeroplane", "bicycle", "background"], "category_ids": [5, 6, 9], "things": 2}


def unlabelled(folder, ids, **classes):
    empty = {image_id: np.zeros((2, 3), int) for image_id in ids}
    return write_label_map(folder, empty, {image_id: [] for image_id in ids}, **classes)


def test_panoptic_files_and_voc_archive(tmp_path, caplog):
    metadata = unlabelled(tmp_path, ["2008_000002", "2008_000001"], **VOC)
    writer = ResultWriter(metadata, tmp_path / "out")
    id_maps = {"2008_000002": [[70000, 70000, 0], [300, 300, 300]], "2008_000001": [[1, 1, 1], [1, 1, 1]]}
    infos = {
        "2008_000002": [{"id": 300, "category_id": 2, "isthing": False}, {"id": 70000, "category_id": 1, "score": 0.5}],
        "2008_000001": [{"id": 1, "category_id": 0}],
    }
    for image_id, id_map in id_maps.items():
        result = {"panoptic_seg": (torch.tensor(id_map, dtype=torch.int32), infos[image_id])}
        writer.process([{"image_id": image_id}], [result])
    with caplog.at_level(logging.INFO, "weakseg"):
        assert writer.evaluate() == {}
    assert "no metric. Wrote panoptic, semantic results of 2 images" in caplog.text

    content = read_json(tmp_path / "out" / "panoptic.json")
    assert [category["id"] for category in content["categories"]] == [5, 6, 9]
    assert content["annotations"] == [
        {
            "image_id": "2008_000002",
            "file_name": "2008_000002.png",
            "segments_info": [{"id": 300, "category_id": 9, "area": 3}, {"id": 70000, "category_id": 6, "area": 2}],
        },
        {
            "image_id": "2008_000001",
            "file_name": "2008_000001.png",
            "segments_info": [{"id": 1, "category_id": 5, "area": 6}],
        },
    ]
    rgb = read_label_png(tmp_path / "out" / "panoptic" / "2008_000002.png").astype(int)
    assert (rgb @ [1, 256, 65536]).tolist() == id_maps["2008_000002"]

    folder = "results/VOC2012/Segmentation/comp6_test_cls"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "comp6.tgz",
        "panoptic",
        "panoptic.json",
        "results",
    ]
    with tarfile.open(tmp_path / "out" / "comp6.tgz") as archive:
        assert archive.getnames() == [f"{folder}/2008_000002.png", f"{folder}/2008_000001.png"]
        png = Image.open(io.BytesIO(archive.extractfile(f"{folder}/2008_000002.png").read()))
    assert png.mode == "P" and np.asarray(png).tolist() == [[2, 2, 0], [0, 0, 0]], "void and background are 0"
    assert png.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert read_label_png(tmp_path / "out" / folder / "2008_000001.png").tolist() == [[1, 1, 1], [1, 1, 1]]


def test_comp5_has_its_own_folder_and_archive(tmp_path):
    writer = ResultWriter(unlabelled(tmp_path, [1], **VOC), tmp_path, competition="comp5")
    writer.process([{"image_id": 1}], [{"sem_seg": torch.tensor([[0, 1, 2]])}])
    writer.evaluate()
    assert read_label_png(tmp_path / "results/VOC2012/Segmentation/comp5_test_cls/1.png").tolist() == [[1, 2, 0]]
    with tarfile.open(tmp_path / "comp5.tgz") as archive:
        assert archive.getnames() == ["results/VOC2012/Segmentation/comp5_test_cls/1.png"]
    assert not (tmp_path / "panoptic.json").exists() and not (tmp_path / "instances.json").exists()


def test_other_data_sets_get_class_maps_without_an_archive(tmp_path):
    writer = ResultWriter(unlabelled(tmp_path, [1]), tmp_path)
    writer.process([{"image_id": 1}], [{"sem_seg": torch.tensor([[0, 3, 4]])}])
    writer.evaluate()
    assert read_label_png(tmp_path / "semantic" / "1.png").tolist() == [[0, 3, 4]]
    assert not list(tmp_path.glob("*.tgz")) and not (tmp_path / "results").exists()


def test_instances_file_is_in_the_order_of_the_images_with_the_files_categories(tmp_path):
    writer = ResultWriter(unlabelled(tmp_path, [9, 4]), tmp_path)
    mask = np.zeros(SIZE, bool)
    mask[3:7, 5:10] = True
    writer.process([{"image_id": 4}], [{"instances": instances([mask], [2], [0.25])}])
    writer.process([{"image_id": 9}], [{"instances": instances([mask, mask], [0, 1], [0.5, 0.75])}])
    writer.evaluate()
    rows = read_json(tmp_path / "instances.json")
    assert [(row["image_id"], row["category_id"], row["score"]) for row in rows] == [
        (9, 11, 0.5),
        (9, 12, 0.75),
        (4, 15, 0.25),
    ]
    assert rows[0]["bbox"] == [5, 3, 5, 4]
    np.testing.assert_array_equal(rle_tools.decode(rows[2]["segmentation"]), mask)


def test_every_image_needs_a_result(tmp_path):
    writer = ResultWriter(unlabelled(tmp_path, [1, 2]), tmp_path)
    writer.process([{"image_id": 1}], [{"sem_seg": torch.tensor([[0]])}])
    with pytest.raises(ValueError, match="image 2 has no result"):
        writer.evaluate()


def test_equal_names_in_different_folders_are_refused(tmp_path):
    images = [{"id": i, "file_name": f"{folder}/1.jpg", "height": 2, "width": 2} for i, folder in enumerate("ab")]
    write_label_file(tmp_path / "labels.json", LabelFile([{"id": 1, "name": "cow", "isthing": 1}], images, {}))
    with pytest.raises(ValueError, match="equal names in different folders"):
        ResultWriter(Metadata(label_file=str(tmp_path / "labels.json")), tmp_path)


def test_ids_become_colours_and_back():
    ids = np.array([[0, 255, 256], [65535, 65536, 2**24 - 1]], np.int32)
    expected = [[[0, 0, 0], [255, 0, 0], [0, 1, 0]], [[255, 255, 0], [0, 0, 1], [255, 255, 255]]]
    assert ids_to_rgb(ids).tolist() == expected and ids_to_rgb(ids).dtype == np.uint8


def test_areas_are_counted_and_nothing_else_is_kept():
    id_map = np.array([[4, 4, 0], [9, 4, 0]])
    segments = [{"id": 9, "category_id": 2, "isthing": True}, {"id": 4, "category_id": 0}, {"id": 5, "category_id": 1}]
    assert segments_with_area(id_map, segments) == [
        {"id": 9, "category_id": 2, "area": 1},
        {"id": 4, "category_id": 0, "area": 3},
        {"id": 5, "category_id": 1, "area": 0},
    ]


def test_voc_colours():
    palette = voc_palette()
    # VOC's development kit: background, aeroplane, bicycle, ..., person (15), tvmonitor (20), void (255).
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0)}
    known |= {15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    assert {index: tuple(palette[index].tolist()) for index in known} == known
