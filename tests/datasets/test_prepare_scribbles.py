"""datasets/prepare_scribbles.py: what it prints and writes, and mistakes in one sentence."""

import numpy as np

from weakseg.labels import LabelFile, encode_mask, read_label_file, write_label_file
from weakseg.safe_io import write_png

XML = "<a><polygon><tag>cow</tag><point><X>1</X><Y>2</Y></point><point><X>5</X><Y>2</Y></point></polygon></a>"


def failed(done, sentence):
    assert done.returncode == 1 and done.stderr.startswith("prepare_scribbles.py: ") and sentence in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def test_scribblesup(tmp_path, command):
    write_png(tmp_path / "a.png", np.zeros((6, 8, 3), np.uint8))
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    (tmp_path / "a.xml").write_text(XML)
    source = ("scribblesup", "--scribbles", tmp_path, "--images", tmp_path, "--output", tmp_path / "out.json")
    done = command("prepare_scribbles.py", *source)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"1 images with 1 scribbles and 0 points -> {tmp_path}/out.json\n"
    (item,) = read_label_file(tmp_path / "out.json").annotations[1]
    assert item["scribbles"] == [[[1.5, 2.5], [5.5, 2.5]]]
    done = command("prepare_scribbles.py", *source, "--length", "0", "--seed", "1")
    assert done.stdout == f"1 images with 0 scribbles and 1 points -> {tmp_path}/out.json\n"
    failed(command("prepare_scribbles.py", *source, "--length", "2"), "a length from 0 to 1; found 2.0")
    failed(command("prepare_scribbles.py", *source, "--list", tmp_path / "gone.txt"), "gone.txt: expected a list")


def test_masks(tmp_path, command):
    mask = np.zeros((12, 16), bool)
    mask[2:10, 2:14] = True
    item = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": encode_mask(mask)}
    images = [{"id": 1, "file_name": "a.jpg", "height": 12, "width": 16}]
    write_label_file(tmp_path / "in.json", LabelFile([{"id": 1, "name": "cat", "isthing": 1}], images, {1: [item]}))
    arguments = ("masks", "--masks", tmp_path / "in.json", "--output", tmp_path / "out.json")
    done = command("prepare_scribbles.py", *arguments, "--length", "0.5", "--seed", "4", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"1 images with 1 scribbles and 0 points -> {tmp_path}/out.json\n"
    labels = read_label_file(tmp_path / "out.json")
    assert "seed 4, 50% of their length" in labels.info["description"]
    failed(command("prepare_scribbles.py", "masks", "--masks", tmp_path / "no.json", *arguments[3:]), "no.json")


def test_help_has_an_example(command):
    done = command("prepare_scribbles.py", "--help")
    assert done.returncode == 0 and "python datasets/prepare_scribbles.py" in done.stdout
