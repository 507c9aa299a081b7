"""A folder of maps says what made it, once; and the images that maps are made of, each once."""

import pytest

from hostile import refused
from weakseg.labels import LabelFile, write_label_file
from weakseg.proposals.map_folder import check_output, declare_provenance, find_images, map_file, read_provenance
from weakseg.safe_io import write_json


def test_the_map_of_an_image(tmp_path):
    assert map_file(tmp_path, "photos/deep/a.b.jpg") == tmp_path / "a.b.png"


def test_provenance_is_written_once_and_kept(tmp_path):
    root = tmp_path / "maps"
    assert read_provenance(root) is None
    declare_provenance(root, "a hand", what="maps")
    declare_provenance(root, "a hand", what="maps")
    assert read_provenance(root) == "a hand"
    message = refused(
        "expected region maps made by a foot; found a hand", declare_provenance, root, "a foot", what="region maps"
    )
    assert "Choose another folder" in message


@pytest.mark.parametrize("content", [[], {}, {"provenance": 1}])
def test_another_file_of_that_name_is_refused(tmp_path, content):
    write_json(tmp_path / "provenance.json", content)
    refused("provenance.json: expected", read_provenance, tmp_path)


@pytest.fixture
def photos(tmp_path):
    for name in ("b.JPG", "a.png", "deeper/c.jpg", "notes.txt"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"")
    return tmp_path / "photos"


def test_images_of_folders_and_files_each_once(photos):
    found = find_images([photos, photos / "deeper/../a.png", photos / "deeper/c.jpg"])
    assert [path.name for path in found] == ["a.png", "b.JPG", "c.jpg"]


def test_images_of_a_label_file(photos, tmp_path):
    images = [{"id": 1, "file_name": "deeper/c.jpg", "height": 2, "width": 3}]
    for path in (tmp_path / "labels.json", photos / "labels.json"):
        write_label_file(path, LabelFile([{"id": 1, "name": "cat", "isthing": 1}], images, {}))
    expected = [(photos / "deeper/c.jpg").resolve()]
    assert find_images([], tmp_path / "labels.json", photos) == find_images([], photos / "labels.json") == expected


def test_wrong_images_are_named(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    refused("found neither", find_images, [])
    refused("found both", find_images, [photos], photos / "labels.json")
    refused("--image-root: expected together with --labels", find_images, [photos], None, photos)
    refused(r"empty: expected images \(.bmp, .jpeg, .*found none", find_images, [tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="gone: expected an image or a folder of images; found nothing"):
        find_images([photos / "gone"])


def test_the_output_is_another_folder_and_names_differ(photos, tmp_path):
    images = [photos / "a.png", photos / "deeper/c.jpg"]
    check_output(tmp_path / "maps", images, what="region maps")
    refused("another folder than that of the images", check_output, photos / "deeper", images, what="maps")
    refused("expected a folder at", check_output, photos / "notes.txt", images, what="maps")
    same = [*images, photos / "deeper/a.jpg"]
    refused(
        "as region maps are named after them; found .*a.png and .*a.jpg",
        check_output,
        tmp_path,
        same,
        what="region maps",
    )
