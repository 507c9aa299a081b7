"""tools/grow_points.py end to end: a photo, a label file, a stopped run, and errors of one sentence."""

import importlib.util
import sys

import numpy as np
import pytest

from tiny import ROOT, scenes
from weakseg.labels import LabelFile, decode_segmentation, encode_mask, read_label_file, write_label_file
from weakseg.proposals.map_folder import declare_provenance
from weakseg.safe_io import read_image, write_png

SCRIPT = ROOT / "tools/grow_points.py"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the script's main in this process; returns the module and what it printed."""
    specification = importlib.util.spec_from_file_location("grow_points", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        module.main()
        return capsys.readouterr().out

    call.module = module
    return call


@pytest.fixture
def photo(tmp_path):
    """40 x 80: red to the left of x = 50, blue from there on."""
    image = np.zeros((40, 80, 3), dtype=np.uint8)
    image[:, :50], image[:, 50:] = (200, 30, 30), (30, 30, 200)
    write_png(tmp_path / "photos" / "a.png", image)
    return tmp_path / "photos" / "a.png"


LEFT, RIGHT = np.broadcast_to(np.arange(80) < 50, (40, 80)), np.broadcast_to(np.arange(80) >= 50, (40, 80))


def masks(label_file, image_id=1):
    return [decode_segmentation(item["segmentation"], 40, 80) for item in label_file.annotations[image_id]]


def two_photos(photo):
    """A label file of a.png and b.png, a thing left and stuff right. The true masks are wrong by ten columns; the area
    and box of the thing are nonsense."""
    write_png(photo.with_name("b.png"), read_image(photo))
    categories = [{"id": 4, "name": "wall", "isthing": 0, "color": [1, 2, 3]}, {"id": 9, "name": "cat", "isthing": 1}]
    images = [{"id": k, "file_name": f"{name}.png", "height": 40, "width": 80} for k, name in ((1, "a"), (2, "b"))]
    thing = np.broadcast_to(np.arange(80) < 40, (40, 80))
    annotations = {
        k: [
            {
                "category_id": 9,
                "point_coords": [[3.5, 5.5]],
                "area": 1.0,
                "bbox": [1, 1, 2, 2],
                "segmentation": encode_mask(thing),
            },
            {"category_id": 4, "point_coords": [[77.5, 30.5]], "segmentation": encode_mask(~thing)},
        ]
        for k in (1, 2)
    }
    for k, items in annotations.items():
        for number, item in enumerate(items):
            item |= {"id": 10 * k + number, "image_id": k}
    path = photo.parent / "labels.json"
    write_label_file(path, LabelFile(categories, images, annotations, {"year": 2012}))
    return path


def test_a_photo(run, photo, tmp_path):
    points = ["--point", "3,5,cat", "--point", "77,30,background", "--no-border"]
    printed = run(photo, *points, "--output", tmp_path / "out")
    assert printed.startswith("2 masks") and "a.png" in printed and "a.json" in printed
    grown = read_label_file(tmp_path / "out/a.json")
    assert [(c["name"], c["isthing"]) for c in grown.categories] == [("cat", 1), ("background", 0)]
    np.testing.assert_array_equal(masks(grown), [LEFT, RIGHT])
    assert [item["bbox"] for item in grown.annotations[1]] == [[0, 0, 50, 40], [50, 0, 30, 40]]
    assert read_image(tmp_path / "out/a.png").shape == (40, 80, 3)


def test_points_of_one_object_and_of_stuff(run, photo, tmp_path):
    points = ["--point", "3,5,20,30,cat", "--point", "77,30,sea", "--point", "60,2,sea", "--point", "40,20,cat"]
    run(photo, *points, "--stuff", "sea", "--output", tmp_path)
    annotations = read_label_file(tmp_path / "a.json").annotations[1]
    assert [item["point_coords"] for item in annotations] == [[[3, 5], [20, 30]], [[77, 30], [60, 2]], [[40, 20]]]


def test_classes_of_a_label_file(run, photo, tmp_path):
    labels = two_photos(photo)
    run(photo, "--point", "3,5,wall", "--labels", labels, "--output", tmp_path)
    grown = read_label_file(tmp_path / "a.json")
    assert grown.categories == read_label_file(labels).categories and grown.annotations[1][0]["category_id"] == 4
    assert run.module.names_and_colors(grown) == (["cat", "wall"], [[0, 113, 188], [1, 2, 3]])  # Detectron2's first
    with pytest.raises(ValueError, match=r"--point: expected a class of .*labels.json \(wall, cat\); found 'dog'"):
        run(photo, "--point", "3,5,dog", "--labels", labels, "--output", tmp_path)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "a.png: expected points to grow; found none"),
        (["--point", "80,5,cat"], "--point 80,5,cat: expected points inside the image of 80 x 40"),
        (["--point", "5,-1,cat"], "inside the image"),
        (["--point", "5,40,cat"], "inside the image"),
        (["--point", "5,5,-1,5,cat"], "inside the image"),
        (["--point", "5,cat"], "expected X,Y,CLASS, as 120,80,dog; found '5,cat'"),
        (["--point", "x,5,cat"], "found 'x,5,cat'"),
        (["--point", "nan,5,cat"], "inside the image"),
        (["--point", "5,5,"], "found '5,5,'"),
        (["--point", "5,5,cat", "--evaluate"], "Expected --evaluate to go with --labels alone; found a photo"),
        (["--point", "5,5,cat", "--image-root", "{tmp}", "--show", "x"], "Expected --image-root, --show to go with"),
        (["--point", "5,5,cat", "--labels", "l.json", "--stuff", "sea"], "--stuff: expected no --labels beside it"),
        (["--point", "5,5,cat", "--edges", "{tmp}"], "a.png: expected an image; found nothing"),
    ],
)
def test_wrong_points(run, photo, tmp_path, points, message):
    (tmp_path / "no_maps").mkdir()
    points = [word.format(tmp=tmp_path / "no_maps") for word in points]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(photo, *points, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_photo(run, photo, tmp_path):
    with pytest.raises(ValueError, match="found neither"):
        run("--output", tmp_path)
    with pytest.raises(ValueError, match="Name the photo first"):
        run("--labels", two_photos(photo), "--point", "1,1,cat", "--output", tmp_path)
    with pytest.raises(ValueError, match="--stuff: expected no --labels beside it; found .*labels.json"):
        run("--labels", two_photos(photo), "--stuff", "wall", "--output", tmp_path)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_no_input_is_written_over(run, photo, tmp_path):
    labels, point = two_photos(photo), ["--point", "3,5,cat"]
    write_png(tmp_path / "edges/a.png", np.zeros((40, 80), dtype=np.uint8))
    (tmp_path / "link").mkdir()
    (tmp_path / "link/c.png").symlink_to(photo)
    (tmp_path / "more").symlink_to(photo.parent)
    (photo.with_name("a.json")).write_bytes(labels.read_bytes())
    before = contents(tmp_path)
    folder = "a.png: expected a picture to be written to another folder than those of the images and edge maps"
    file = ".json: expected another file than --labels to write; found the same"
    of_labels = ["--labels", labels, "--image-root", photo.parent]
    for arguments, message in (
        ([photo, *point, "--output", photo.parent], folder),
        ([photo, *point, "--output", tmp_path / "more"], folder),
        ([tmp_path / "link/c.png", *point, "--output", photo.parent], "c.png: expected a picture"),
        ([photo, *point, "--edges", tmp_path / "edges", "--output", tmp_path / "edges"], folder),
        ([photo, *point, "--labels", photo.with_name("a.json"), "--output", photo.parent], "a" + file),
        ([*of_labels, "--output", tmp_path / "out", "--show", photo.parent], folder),
        ([*of_labels, "--output", tmp_path / "out", "--show", tmp_path / "more"], folder),
        ([*of_labels, "--output", tmp_path / "o", "--edges", tmp_path / "edges", "--show", tmp_path / "edges"], folder),
        ([*of_labels, "--output", photo.parent], "labels" + file),
    ):
        with pytest.raises(ValueError, match=message):
            run(*arguments)
        assert contents(tmp_path) == before


def test_a_label_file(run, photo, tmp_path):
    """The masks come from the points alone; the table compares with those of the file."""
    labels = two_photos(photo)
    arguments = ["--labels", labels, "--output", tmp_path / "out", "--show", tmp_path / "sheets", "--no-border"]
    table = run(*arguments, "--evaluate")
    grown = read_label_file(tmp_path / "out/labels.json")
    for image_id in (1, 2):
        np.testing.assert_array_equal(masks(grown, image_id), [LEFT, RIGHT])
    assert grown.annotations[1][0]["area"] == 2000 and grown.info["year"] == 2012
    assert [image["file_name"] for image in grown.images] == ["a.png", "b.png"]
    sheet = read_image(tmp_path / "sheets/b.png")
    assert sheet.shape == (256 + 24, 4 * (512 + 4), 3)
    # Thing: 40 of 50 columns; stuff: 30 of 40. The nearest point gets 41 columns (by a hair 40 in the upper rows).
    last = table.strip().splitlines()[-1]
    assert "2 things" in table and "1 thing classes" in table and "2 stuff" in table and "all 4" in table
    assert last.startswith("grown, no border") and last.split()[-4:] == ["80.0", "80.0", "75.0", "77.5"]
    assert float(table.strip().splitlines()[-3].split()[-1]) > 80


def test_void_pixels_do_not_count(run, photo, tmp_path):
    labels = read_label_file(two_photos(photo))
    for items in labels.annotations.values():
        items[1]["segmentation"] = encode_mask(RIGHT)  # columns 40 to 49 belong to nobody
    write_label_file(photo.with_name("void.json"), labels)
    table = run("--labels", photo.with_name("void.json"), "--output", tmp_path, "--no-border", "--evaluate")
    assert table.strip().splitlines()[-1].split()[-4:] == ["100.0", "100.0", "100.0", "100.0"]


def test_a_stopped_run_goes_on(run, photo, tmp_path, monkeypatch):
    labels, grown_images = two_photos(photo), []
    real = run.module.grow_annotations

    def stopped(image, annotations, *rest, **options):
        grown_images.append(annotations[0]["image_id"])
        if len(grown_images) == 2:
            raise KeyboardInterrupt
        return real(image, annotations, *rest, **options)

    monkeypatch.setattr(run.module, "grow_annotations", stopped)
    arguments = ["--labels", labels, "--output", tmp_path / "out"]
    with pytest.raises(KeyboardInterrupt):
        run(*arguments)
    assert [image["id"] for image in read_label_file(tmp_path / "out/labels.json").images] == [1]
    run(*arguments)
    assert grown_images == [1, 2, 2]
    content = (tmp_path / "out/labels.json").read_bytes()
    run(*arguments)
    assert grown_images == [1, 2, 2] and (tmp_path / "out/labels.json").read_bytes() == content
    # Another point: that image is grown again. Pictures that are missing: all are.
    changed = read_label_file(labels)
    changed.annotations[2][0]["point_coords"] = [[9.5, 9.5]]
    write_label_file(labels, changed)
    run(*arguments)
    assert grown_images == [1, 2, 2, 2]
    run(*arguments, "--show", tmp_path / "sheets")
    assert grown_images == [1, 2, 2, 2, 1, 2]
    with pytest.raises(ValueError, match="grown with the same options and classes, to go on from; found others"):
        run(*arguments, "--no-border")


def test_other_edge_maps_are_other_options(run, photo, tmp_path):
    """What made the maps counts, wherever they lie."""
    arguments = ["--labels", two_photos(photo), "--output", tmp_path / "out", "--edges"]
    for folder, made_by in (("edges", "Ann"), ("moved", "Ann"), ("other", "Bob")):
        for name in ("a", "b"):
            write_png(tmp_path / folder / f"{name}.png", np.zeros((40, 80), dtype=np.uint8))
        declare_provenance(tmp_path / folder, made_by, what="edge maps")
    run(*arguments, tmp_path / "edges")
    assert read_label_file(tmp_path / "out/labels.json").info["grown"]["edges"] == "Ann"
    run(*arguments, tmp_path / "moved")
    with pytest.raises(ValueError, match="grown with the same options and classes, to go on from; found others"):
        run(*arguments, tmp_path / "other")
    (tmp_path / "other/provenance.json").unlink()
    run(*arguments[:-2], tmp_path / "unknown", "--edges", tmp_path / "other")
    unknown = read_label_file(tmp_path / "unknown/labels.json").info["grown"]
    assert unknown == {"tool": "grow_points", "edges": str(tmp_path / "other"), "border": True}


def test_images_and_edge_maps_that_do_not_fit_are_named(run, photo, tmp_path, capsys):
    labels = two_photos(photo)
    edges = np.zeros((40, 80), dtype=np.uint8)
    edges[:, 30] = 255
    write_png(tmp_path / "edges/a.png", edges)
    write_png(tmp_path / "edges/b.png", edges[:30])
    with pytest.raises(SystemExit) as ended:
        run("--labels", labels, "--output", tmp_path / "out", "--edges", tmp_path / "edges")
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert "1 of 2 images" in captured.out
    assert "b.png: expected 80 x 40 pixels, the size of the labelled image; found 80 x 30" in captured.err
    assert len(read_label_file(tmp_path / "out/labels.json").images) == 1


def test_edges_are_seen(run, photo, tmp_path):
    write_png(photo, np.full((40, 80, 3), 90, dtype=np.uint8))
    edges = np.zeros((40, 80), dtype=np.uint8)
    edges[:, 20:22] = 255
    write_png(tmp_path / "edges/a.png", edges)
    points = ["--point", "3,5,cat", "--point", "77,30,dog"]
    run(photo, *points, "--edges", tmp_path / "edges", "--output", tmp_path / "out")
    assert [item["bbox"] for item in read_label_file(tmp_path / "out/a.json").annotations[1]] == [
        [0, 0, 21, 40],
        [21, 0, 59, 40],
    ]


def test_a_label_file_without_points(run, photo, tmp_path):
    labels = read_label_file(two_photos(photo))
    for item in [*labels.annotations[1], *labels.annotations[2]]:
        del item["point_coords"]
    write_label_file(photo.with_name("bare.json"), labels)
    with pytest.raises(ValueError, match="bare.json: expected annotations with point_coords; found none"):
        run("--labels", photo.with_name("bare.json"), "--output", tmp_path)


def test_rendered_scenes_beat_the_nearest_point(run, tmp_path):
    table = run("--labels", scenes(tmp_path, count=3), "--output", tmp_path / "out", "--evaluate").strip().splitlines()
    assert float(table[-1].split()[-1]) > float(table[-2].split()[-1]) > 0
