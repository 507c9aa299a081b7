"""ScribbleSup's two forms give the same label file; scribbles from masks stay inside them; mistakes are named."""

import numpy as np
import pytest

from hostile import refused
from weakseg.data.convert.scribblesup import (
    labels_from_scribblesup,
    labels_with_sampled_scribbles,
    read_scribble_text,
    read_scribble_xml,
)
from weakseg.labels import LabelFile, encode_mask, read_label_file, weak_labels, write_label_file
from weakseg.safe_io import read_label_png, write_png

XML = """<annotation><polygon><tag>cow</tag><point><X>3</X><Y>2</Y></point><point><X>9</X><Y>2</Y></point></polygon>
<polygon><tag>background</tag><point><X>0</X><Y>5</Y></point></polygon>
<polygon><tag>cow</tag><point><X>1</X><Y>1</Y></point></polygon></annotation>"""
TEXT = "10,3,2,9,2\n0,0,5\n\n10,1,1,\n"


@pytest.fixture
def folder(tmp_path):
    """Photos a.jpg and b.jpg of 8 x 6 pixels, and the scribbles of both in both forms."""
    for name in "ab":
        write_png(tmp_path / f"{name}.png", np.zeros((6, 8, 3), np.uint8))
        (tmp_path / f"{name}.png").rename(tmp_path / f"{name}.jpg")
        (tmp_path / f"text/{name}_scribble.txt").parent.mkdir(exist_ok=True)
        (tmp_path / f"text/{name}_scribble.txt").write_text(TEXT)
        (tmp_path / f"xml/{name}.xml").parent.mkdir(exist_ok=True)
        (tmp_path / f"xml/{name}.xml").write_text(XML)
    return tmp_path


def test_both_forms(folder, tmp_path):
    labels = labels_from_scribblesup(folder / "xml", folder)
    assert labels == labels_from_scribblesup(folder / "text", folder)
    assert [(image["file_name"], image["height"], image["width"]) for image in labels.images] == [
        ("a.jpg", 6, 8),
        ("b.jpg", 6, 8),
    ]
    assert [image["tags"] for image in labels.images] == [[10, 21]] * 2
    assert {category["isthing"] for category in labels.categories} == {0} and len(labels.categories) == 21
    names = {category["id"]: category["name"] for category in labels.categories}
    assert names[10] == "cow" and names[21] == "background"
    found = [(item["category_id"], item["scribbles"]) for item in labels.annotations[1]]
    assert found == [
        (10, [[[3.5, 2.5], [7.5, 2.5]]]),  # moved onto the border pixel
        (21, [[[0.5, 5.5]]]),
        (10, [[[1.5, 1.5]]]),
    ], "one annotation a scribble, in the order of drawing"
    write_label_file(tmp_path / "labels.json", labels)
    assert read_label_file(tmp_path / "labels.json").annotations == labels.annotations


def test_the_photos_of_a_list(folder):
    (folder / "list.txt").write_text("b\n")
    labels = labels_from_scribblesup(folder / "xml", folder, list_file=folder / "list.txt")
    assert [image["file_name"] for image in labels.images] == ["b.jpg"]
    (folder / "list.txt").write_text("b\nc\n")
    with pytest.raises(FileNotFoundError, match="expected the scribbles of c; found none"):
        labels_from_scribblesup(folder / "xml", folder, list_file=folder / "list.txt")
    with pytest.raises(FileNotFoundError, match="gone.txt: expected a list"):
        labels_from_scribblesup(folder / "xml", folder, list_file=folder / "gone.txt")
    with pytest.raises(FileNotFoundError, match=r"expected ScribbleSup's ID\.xml"):
        labels_from_scribblesup(folder, folder)


def test_shortened_and_points(folder):
    half = labels_from_scribblesup(folder / "xml", folder, fraction=0.5, seed=3)
    ((x0, y0), (x1, y1)) = half.annotations[1][0]["scribbles"][0]
    assert x1 - x0 == pytest.approx(2, abs=1e-3) and y0 == y1 == 2.5 and 3.5 <= x0 <= 5.5
    assert half.annotations == labels_from_scribblesup(folder / "xml", folder, fraction=0.5, seed=3).annotations
    assert half.annotations[1][0] != labels_from_scribblesup(folder / "xml", folder, fraction=0.5).annotations[1][0]
    assert half.annotations[1][0]["scribbles"] != half.annotations[2][0]["scribbles"], "each photo its own numbers"
    points = labels_from_scribblesup(folder / "xml", folder, fraction=0)
    assert not any("scribbles" in item for item in points.annotations[1])
    assert points.annotations[1][1]["point_coords"] == [[0.5, 5.5]]
    ((x, y),) = points.annotations[1][0]["point_coords"]
    assert y == 2.5 and 3.5 <= x <= 7.5


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("<a><polygon><tag>tree</tag><point><X>1</X><Y>1</Y></point></polygon></a>", "found 'tree'"),
        ("<a><polygon><tag>cow</tag></polygon></a>", "expected points x, y"),
        ("<a><polygon><tag>cow</tag><point><X>1</X></point></polygon></a>", "expected points x, y"),
        ("<a><polygon><tag>cow</tag><point><X>1</X><Y>nan</Y></point></polygon></a>", "expected points x, y"),
        ("<a>", "expected XML"),
    ],
)
def test_wrong_xml(tmp_path, content, sentence):
    (tmp_path / "a.xml").write_text(content)
    message = refused(sentence, read_scribble_xml, tmp_path / "a.xml")
    assert str(tmp_path / "a.xml") in message


@pytest.mark.parametrize("line", ["21,1,1", "-1,1,1", "cow,1,1", "3,1", "3", "3,1,x", "3,1,inf"])
def test_wrong_text(tmp_path, line):
    (tmp_path / "a.txt").write_text(f"1,2,3\n{line}\n")
    refused(r"a\.txt, line 2: expected", read_scribble_text, tmp_path / "a.txt")


def test_real_scribbles_lie_on_their_class(data_dir):
    formats = data_dir / "formats"
    labels = labels_from_scribblesup(formats / "scribblesup_xml", formats / "scribble_txt")
    assert labels == labels_from_scribblesup(formats / "scribble_txt", formats / "scribble_txt")
    assert len(labels.images) == 4
    for image in labels.images:
        name = f"{image['file_name'].removesuffix('.jpg')}.png"
        truth = read_label_png(formats / "scribble_txt/SegmentationClass" / name)
        for item in labels.annotations[image["id"]]:
            (line,) = item["scribbles"]
            x, y = np.floor(np.array(line)).astype(int).T
            assert np.isin(truth[y, x], [item["category_id"] % 21, 255]).mean() > 0.9


MASK = np.zeros((12, 16), bool)
MASK[1:10, 2:7] = MASK[3:6, 11:14] = True


@pytest.fixture
def truth(tmp_path):
    common = {"image_id": 1, "category_id": 1}
    annotations = [
        {"id": 1, **common, "iscrowd": 0, "segmentation": encode_mask(MASK), "point_coords": [[1, 1]]},
        {"id": 2, **common, "iscrowd": 1, "segmentation": encode_mask(~MASK)},
        {"id": 3, **common, "iscrowd": 0, "scribbles": [[[1, 1]]]},
    ]
    images = [{"id": 1, "file_name": "a.jpg", "height": 12, "width": 16}]
    labels = LabelFile([{"id": 1, "name": "cat", "isthing": 1}], images, {1: annotations}, {"description": "cats"})
    write_label_file(tmp_path / "truth.json", labels)
    return tmp_path / "truth.json"


def test_scribbles_from_masks(truth, tmp_path):
    labels = labels_with_sampled_scribbles(truth, seed=2)
    first, crowd, without = labels.annotations[1]
    assert len(first["scribbles"]) == 2 and "point_coords" not in first and "segmentation" in first
    for line in first["scribbles"]:
        x, y = np.floor(np.array(line)).astype(int).T
        assert MASK[y, x].all()
    assert "scribbles" not in crowd and "scribbles" not in without
    assert labels.info["description"] == "cats; scribbles from masks, seed 2, 100% of their length"
    write_label_file(tmp_path / "out.json", labels)
    record = {"file_name": "a.jpg", "image_id": 1, "height": 12, "width": 16}
    weak = weak_labels({**record, "annotations": [{**item, "category_id": 0} for item in labels.annotations[1]]})
    assert weak.scribble_target.tolist() == [0, 0]
    assert labels.annotations == labels_with_sampled_scribbles(truth, seed=2, workers=2).annotations
    runs = [labels_with_sampled_scribbles(truth, seed=seed).annotations[1][0]["scribbles"] for seed in range(4)]
    assert any(run != runs[0] for run in runs[1:])


def test_points_from_masks(truth):
    points = labels_with_sampled_scribbles(truth, fraction=0).annotations[1][0]
    assert "scribbles" not in points
    assert sorted(points["point_coords"])[1] == [12.5, 4.5] and sorted(points["point_coords"])[0][0] == 4.5
    full = labels_with_sampled_scribbles(truth, seed=1).annotations[1][0]["scribbles"]
    half = labels_with_sampled_scribbles(truth, seed=1, fraction=0.5).annotations[1][0]["scribbles"]
    for long, short in zip(full, half):
        lengths = [np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in (np.array(long), np.array(short))]
        assert lengths[1] == pytest.approx(lengths[0] / 2, abs=0.01)
