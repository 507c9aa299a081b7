"""tools/evaluate_label_maps.py: the table of hand-made label maps, the published measure, and what is refused."""

import importlib.util
import sys

import numpy as np
import pytest

from hostile import refused
from tiny import ROOT
from weakseg.labels import LabelFile, encode_mask, write_label_file
from weakseg.safe_io import write_png

SCRIPT = ROOT / "tools/evaluate_label_maps.py"
#                        cat 1    cat 2    background            cat      background
TRUTH = {"a": [list("xxxx yyyy bbbbbbbb".replace(" ", ""))], "b": [list("xxbb..")]}
"""x, y: cats; b: background; ".": no mask."""


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the script's main in this process; returns the rows of the table by their first word."""
    specification = importlib.util.spec_from_file_location("evaluate_label_maps", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        module.main()
        head, *rows = capsys.readouterr().out.splitlines()
        call.head = head
        return {row.rsplit(maxsplit=1)[0]: float(row.split()[-1]) for row in rows[2:]}

    return call


@pytest.fixture
def labels(tmp_path):
    return write_labels(tmp_path / "labels.json", ["cat", "dog", "background"])


def write_labels(path, names, things=2):
    categories = [{"id": k + 1, "name": name, "isthing": int(k < things)} for k, name in enumerate(names)]
    images, annotations = [], {}
    for number, (stem, rows) in enumerate(TRUTH.items()):
        drawn = np.array(rows)
        images.append({"id": number, "file_name": f"photos/{stem}.jpg", "height": 1, "width": drawn.shape[1]})
        annotations[number] = [
            {
                "id": f"{stem}{letter}",
                "image_id": number,
                "category_id": category,
                "segmentation": encode_mask(drawn == letter),
            }
            for letter, category in (("b", 3), ("x", 1), ("y", 1))
            if (drawn == letter).any()
        ]
    write_label_file(path, LabelFile(categories, images, annotations))
    return path


def predict(folder, **maps):
    """A label map of one row for each name."""
    for stem, values in maps.items():
        write_png(folder / f"{stem}.png", np.array([values], dtype=np.uint8))
    return folder


A = [1] * 6 + [254] * 2 + [0] * 6 + [2, 3]
"""Of 8 pixels of the cats 6 are right and 2 unlabelled; of 8 of the background 6 are right."""
B = [0, 0, 0, 0, 1, 1]
"""The cat is missed; what is predicted outside all masks does not count."""


def test_the_corrected_measure(run, labels, tmp_path):
    rows = run(labels, predict(tmp_path / "maps", a=A, b=B))
    assert run.head == "2 of 2 images"
    cat, dog, background = 6 / 10, 0, 8 / 12
    assert rows == pytest.approx(
        {
            "background": 100 * background,
            "cat": 100 * cat,
            "dog": 100 * dog,
            "mean": 100 * (cat + dog + background) / 3,
            "accuracy": 100 * 14 / 17,
        },
        abs=0.01,
    )
    assert list(rows)[:3] == ["background", "cat", "dog"], "in the order of the values of label maps"
    predict(tmp_path / "maps", a=[*A[:-2], 0, 0])
    rows = run(labels, tmp_path / "maps")
    assert "dog" not in rows and rows["mean"] == pytest.approx(100 * (6 / 10 + 10 / 12) / 2, abs=0.01)


def test_the_published_measure(run, labels, tmp_path):
    """The value 3 is a prediction of the last class, the dog, which counts though it is nowhere; b is left out."""
    rows = run(labels, predict(tmp_path / "maps", a=[*A[:-2], 3, 0]), "--published")
    assert run.head == "1 of 2 images"
    assert rows == pytest.approx(
        {
            "background": 100 * 7 / 8,
            "cat": 100 * 6 / 8,
            "dog": 0,
            "mean": 100 * (7 / 8 + 6 / 8) / 3,
            "accuracy": 100 * 13 / 14,
        },
        abs=0.01,
    )


def test_without_a_background_the_first_class_is_one(run, tmp_path):
    path = write_labels(tmp_path / "labels.json", ["cat", "dog", "grass"])
    folder = predict(tmp_path / "maps", a=[1] * 6 + [0] * 2 + [3] * 7 + [4], b=[1, 1, 3, 3, 0, 0])
    rows = run(path, folder)
    expected = {"cat": 80, "grass": 90, "mean": 85, "accuracy": 100}
    assert rows == pytest.approx(expected, abs=0.01)
    rows = run(path, folder, "--published")
    assert rows["grass"] == pytest.approx(100 * 9 / 11, abs=0.01) and rows["accuracy"] == pytest.approx(
        100 * 17 / 18, abs=0.01
    )


def test_images_weighted_by_their_things(run, labels, tmp_path):
    folder = predict(tmp_path / "maps", a=[*A[:-2], 0, 0], b=[1, 0, 0, 0, 0, 0])
    rows = run(labels, folder, "--instance-weighted")
    cat = (2 * 6 / 8 + 1 * 1 / 2) / 3
    assert rows == pytest.approx({"cat (3)": 100 * cat, "mean": 100 * cat}, abs=0.01)
    rows = run(labels, folder, "--instance-weighted", "--published")
    # What is no thing is an instance of the background, and the pixels of no mask in b are one of class 0.
    background = (1 * 8 / 8 + 2 * 2 / 3) / 3
    expected = {"background (3)": 100 * background, "cat (3)": 100 * cat, "mean": 100 * (cat + background) / 3}
    assert rows == pytest.approx(expected, abs=0.01)


def test_what_is_refused(run, labels, tmp_path):
    folder = predict(tmp_path / "maps", b=B)
    refused(
        r"maps: expected a label map NAME.png for each of 2 images; found none for 1 \(photos/a.jpg\)",
        run,
        labels,
        folder,
    )
    (tmp_path / "empty").mkdir()
    refused("found none for 2", run, labels, tmp_path / "empty", "--published")
    with pytest.raises(FileNotFoundError, match="nowhere: expected a folder of label maps; found none"):
        run(labels, tmp_path / "nowhere")
    predict(folder, a=A[:-1])
    refused("a.png: expected an 8-bit map, .* of 16 x 1 pixels", run, labels, folder)
    stuff = write_labels(tmp_path / "stuff.json", ["cat", "dog", "background"], things=0)
    refused("--instance-weighted: expected things in .*stuff.json", run, stuff, folder, "--instance-weighted")
