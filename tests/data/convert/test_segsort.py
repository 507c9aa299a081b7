"""SegSort's list files: three columns, one column, never two."""

import pytest

from hostile import refused
from weakseg.data.convert.segsort import ListEntry, read_list


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
