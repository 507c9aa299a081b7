"""SegSort's list files and PNGs: three columns, one column, never two; palette indices, never colours."""

import numpy as np
import pytest
from PIL import Image

from hostile import refused
from weakseg.data.convert.segsort import ListEntry, read_label_map, read_list, write_semantic_pngs
from weakseg.data.convert.voc import voc_palette
from weakseg.safe_io import read_image, write_png


def write(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_text(text)
    return path


def test_three_columns_and_images_alone(tmp_path):
    root = (tmp_path / "data").resolve()
    path = write(tmp_path, "VOC/a.jpg VOC/segcls/a.png VOC/hed/a.png\nVOC/b.jpg VOC/c.png VOC/d.png\n\n")
    assert read_list(path, root) == [
        ListEntry(root / "VOC/a.jpg", root / "VOC/segcls/a.png", root / "VOC/hed/a.png"),
        ListEntry(root / "VOC/b.jpg", root / "VOC/c.png", root / "VOC/d.png"),
    ]
    assert read_list(write(tmp_path, "b.jpg\na.jpg"), root) == [ListEntry(root / "b.jpg"), ListEntry(root / "a.jpg")]


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("a.jpg b.png c.png\na.jpg b.png\n", "line 2: expected three paths .*found 2.*panoptic_val.txt"),
        ("a b c d", "line 1: expected three paths .*found 4"),
        ("", "found an empty file"),
        ("../a.jpg", "expected the name of a file below"),
        ("/etc/a.jpg b.png c.png", "expected the name of a file below"),
    ],
)
def test_other_lists_are_refused(tmp_path, text, sentence):
    refused(sentence, read_list, write(tmp_path, text), tmp_path)


def test_a_missing_list(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.txt: expected a list of images; found nothing"):
        read_list(tmp_path / "gone.txt", tmp_path)


def test_labels_are_indices(tmp_path):
    labels = np.array([[0, 1, 20], [21, 254, 255]], np.uint8)
    write_png(tmp_path / "grey.png", labels)
    write_png(tmp_path / "palette.png", labels, palette=voc_palette())
    for name in ("grey", "palette"):
        found = read_label_map(tmp_path / f"{name}.png")
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, labels)
    write_png(tmp_path / "rgb.png", voc_palette()[labels])
    refused("found 3 channel", read_label_map, tmp_path / "rgb.png")
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "deep.png")
    refused(r"found 1 channel\(s\) of (u?int16|int32)", read_label_map, tmp_path / "deep.png")


def test_real_labels_have_a_palette(data_dir):
    found = read_label_map(data_dir / "voc/SegmentationClass/2007_000720.png")
    assert set(np.unique(found)) <= {*range(21), 255} and 12 in found, "a dog"


def test_results(tmp_path):
    classes = np.array([[0, 1], [15, 255]])
    write_semantic_pngs(tmp_path, "2007_000001", classes)
    np.testing.assert_array_equal(read_label_map(tmp_path / "semantic_gray/2007_000001.png"), classes)
    colours = [[[0, 0, 0], [128, 0, 0]], [[192, 128, 128], [224, 224, 192]]]
    np.testing.assert_array_equal(read_image(tmp_path / "semantic_color/2007_000001.png"), colours)
