"""datasets/prepare_densepose.py: what it prints and writes, and mistakes in one sentence."""

import numpy as np
import pytest

from weakseg.labels import encode_mask, read_label_file
from weakseg.safe_io import read_label_png, write_json


@pytest.fixture
def root(tmp_path):
    """COCO's folder with one photo a.jpg of 4 x 2 pixels, the left half of which is a torso."""
    torso = encode_mask(np.ones((256, 256), bool))
    person = {"id": 5, "image_id": 9, "category_id": 1, "bbox": [0.0, 0.0, 2.0, 2.0], "dp_masks": [torso] + [[]] * 13}
    content = {
        "info": {},
        "images": [{"id": 9, "file_name": "a.jpg", "height": 2, "width": 4}],
        "annotations": [person],
        "categories": [{"id": 1, "name": "person"}],
    }
    for split in ("train", "minival", "valminusminival"):
        write_json(tmp_path / "coco" / "annotations" / f"densepose_coco_2014_{split}.json", content)
    return tmp_path / "coco"


def failed(done, sentence):
    assert done.returncode == 1 and done.stderr.startswith("prepare_densepose.py: ") and sentence in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def test_splits(root, tmp_path, command):
    files = ("--root", root, "--output", tmp_path / "out")
    splits = ("--splits", "train", "minival", "valminusminival")
    done = command("prepare_densepose.py", *files, *splits, "--points", "1", "--seed", "3", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{s}: 1 photos -> {tmp_path}/out/{s}_sem_seg.json" for s in splits[1:]]
    annotations = read_label_file(tmp_path / "out" / "valminusminival_sem_seg.json").annotations[1]
    assert [(a["category_id"], a["area"], len(a["point_coords"])) for a in annotations] == [(1, 4, 1), (15, 4, 1)]
    assert read_label_png(tmp_path / "out" / "train_sem_seg" / "a.png").tolist() == [[0, 0, 14, 14]] * 2
    done = command("prepare_densepose.py", *files, "--points", "2")
    assert done.stdout.splitlines() == [f"{s}: 1 photos -> {tmp_path}/out/{s}_sem_seg_p2.json" for s in splits[1:3]]


def test_list(root, tmp_path, command):
    (tmp_path / "list.txt").write_text("images/a.jpg labels/a.png labels/a.png\n")
    files = ("--root", root, "--output", tmp_path / "out", "--list", tmp_path / "list.txt")
    done = command("prepare_densepose.py", *files, "--splits", "minival")
    assert done.stdout == f"minival: 1 photos -> {tmp_path}/out/minival_sem_seg.json\n", done.stderr
    failed(command("prepare_densepose.py", *files), "--list: expected one split beside a list; found train minival.")
    (tmp_path / "list.txt").write_text("images/b.jpg\n")
    failed(command("prepare_densepose.py", *files, "--splits", "minival"), "found no b.jpg")


def test_mistakes(root, tmp_path, command):
    failed(command("prepare_densepose.py", "--root", tmp_path), "densepose_coco_2014_train.json: expected")
    failed(command("prepare_densepose.py", "--root", root, "--points", "-1"), "0 or more; found -1")


def test_help_has_an_example(command):
    done = command("prepare_densepose.py", "--help")
    assert done.returncode == 0 and "python datasets/prepare_densepose.py" in done.stdout and "--list" in done.stdout
