"""The commands of datasets/: what they print and write, and that a mistake ends in one sentence without a traceback.

What the files hold is tested in tests/data/convert."""

import numpy as np
import pytest

from weakseg.data.convert.point_png import decode_ids, encode_ids
from weakseg.labels import read_label_file
from weakseg.safe_io import read_label_png, write_json, write_png

IDS = np.array([[1, 1, 0, 2]])
SEGMENTS = [
    {"id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 2, 1], "area": 2},
    {"id": 2, "category_id": 9, "iscrowd": 0, "bbox": [3, 0, 1, 1], "area": 1},
]


def write_panoptic(json, png):
    """One photo a.jpg of 4 x 1 pixels with two segments, in COCO's panoptic form."""
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 1, "width": 4}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": SEGMENTS}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0}],
    }
    write_json(json, content)
    write_png(png, encode_ids(IDS))


def failed(done, script, sentence):
    assert done.returncode == 1 and done.stderr.startswith(f"{script}: ") and sentence in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["prepare_voc.py", "prepare_coco.py", "point_pngs.py"])
def test_help_has_an_example(script, command):
    done = command(script, "--help")
    assert done.returncode == 0 and f"python datasets/{script}" in done.stdout


def test_prepare_voc(tmp_path, command):
    root, output = tmp_path / "voc", tmp_path / "out"
    class_map = np.array([[8, 8, 255, 0]], np.uint8)
    write_png(root / "SegmentationClass" / "a.png", class_map)
    write_png(root / "SegmentationObject" / "a.png", np.array([[1, 1, 255, 0]], np.uint8))
    write_png(root / "JPEGImages" / "a.jpg.png", np.zeros((1, 4, 3), np.uint8))
    (root / "JPEGImages" / "a.jpg.png").rename(root / "JPEGImages" / "a.jpg")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    done = command("prepare_voc.py", "--root", root, "--output", output, "--splits", "val", "--points", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"val: 1 photos -> {output}/val_{{panoptic,instance,sem_seg}}.json\n"
    annotations = read_label_file(output / "val_panoptic.json").annotations[1]
    assert [(a["category_id"], a["area"], len(a["point_coords"])) for a in annotations] == [(8, 2, 1), (21, 1, 1)]

    done = command("prepare_voc.py", "--root", root, "--output", output, "--splits", "val", "--points", "10")
    assert done.stdout == f"val: 1 photos -> {output}/val_{{panoptic,instance,sem_seg}}_p10.json\n", done.stderr
    annotations = read_label_file(output / "val_panoptic_p10.json").annotations[1]
    assert [len(a["point_coords"]) for a in annotations] == [2, 1]

    def mistake(sentence, *arguments):
        failed(command("prepare_voc.py", "--root", root, "--output", output, *arguments), "prepare_voc.py", sentence)

    mistake("train_aug: expected the folder of SBD", "--splits", "train_aug")
    mistake("expected a list of photos", "--splits", "train")
    mistake("0 or more; found -1", "--splits", "val", "--points", "-1")


def test_prepare_coco(tmp_path, command):
    root, output = tmp_path / "coco", tmp_path / "out"
    write_panoptic(root / "annotations" / "panoptic_val2017.json", root / "panoptic_val2017" / "a.png")
    files = ("--root", root, "--output", output)
    done = command("prepare_coco.py", *files, "--splits", "val", "--points", "1", "--seed", "2", "--workers", "1")
    assert done.returncode == 0, done.stderr
    lines = [f"val: 1 photos -> {output}/val_{kind}.json" for kind in ("panoptic", "instance")]
    assert sorted(done.stdout.splitlines()) == sorted(lines)
    annotations = read_label_file(output / "val_panoptic.json").annotations[1]
    assert [(a["category_id"], len(a["point_coords"])) for a in annotations] == [(1, 1), (9, 1)]
    done = command("prepare_coco.py", *files, "--splits", "val", "--points", "10")
    lines = [f"val: 1 photos -> {output}/val_{kind}_p10.json" for kind in ("panoptic", "instance")]
    assert sorted(done.stdout.splitlines()) == sorted(lines), done.stderr
    assert [len(a["point_coords"]) for a in read_label_file(output / "val_instance_p10.json").annotations[1]] == [2]
    failed(command("prepare_coco.py", *files), "prepare_coco.py", "panoptic_train2017.json")


def test_point_pngs_there_and_back(tmp_path, command):
    write_panoptic(tmp_path / "full.json", tmp_path / "pngs" / "a.png")
    labels = ("--labels", tmp_path / "labels.json")
    done = command("point_pngs.py", "to-labels", "--json", tmp_path / "full.json", "--pngs", tmp_path / "pngs", *labels)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"1 images with 3 points -> {tmp_path / 'labels.json'}\n"
    again = ("--json", tmp_path / "again.json", "--pngs", tmp_path / "again")
    done = command("point_pngs.py", "to-pngs", *again, *labels)
    assert done.returncode == 0 and done.stdout == f"1 images with 3 points -> {tmp_path / 'again'}\n", done.stderr
    np.testing.assert_array_equal(decode_ids(read_label_png(tmp_path / "again" / "a.png")), IDS)
    gone = ("--json", tmp_path / "gone.json", "--pngs", tmp_path)
    failed(command("point_pngs.py", "to-labels", *gone, *labels), "point_pngs.py", "gone.json")
