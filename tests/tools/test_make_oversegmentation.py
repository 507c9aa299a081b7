"""tools/make_oversegmentation.py: one map an image, from gradients or edge maps, restart, mistakes in one sentence."""

import importlib.util
import sys

import numpy as np
import pytest

from tiny import ROOT
from weakseg.engine import run_command
from weakseg.proposals.edge_maps import gradient_edges, write_edge_map
from weakseg.proposals.map_folder import declare_provenance
from weakseg.proposals.oversegmentation import oversegment
from weakseg.safe_io import read_image, read_json, read_label_png, write_png

SCRIPT = ROOT / "tools/make_oversegmentation.py"


@pytest.fixture
def tool():
    specification = importlib.util.spec_from_file_location("make_oversegmentation", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def run(tool, monkeypatch, capsys):
    """run(*arguments) -> (exit status, stdout, lines of stderr that are not the progress bar's)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            run_command(tool.main)
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out, [line for line in err.splitlines() if line.startswith(("error: ", "left out: "))]

    return run


@pytest.fixture
def photos(tmp_path):
    for seed, (name, size) in enumerate({"a.png": (18, 20), "b.png": (17, 33)}.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        write_png(tmp_path / "photos" / name, pixels)
    return tmp_path / "photos"


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_gradients_of_a_folder(run, photos, tmp_path):
    status, out, errors = run(photos, "--output", tmp_path / "regions", "--threshold", "0.4", "--max-regions", "9")
    assert (status, errors) == (0, [])
    assert f"{tmp_path}/regions: 2 written, 0 there before, 0 left out" in out
    assert files(tmp_path / "regions") == ["a.png", "b.png", "provenance.json"]
    for name in ("a.png", "b.png"):
        expected = oversegment(gradient_edges(read_image(photos / name)), threshold=0.4, max_regions=9)
        assert expected.max() > 1
        np.testing.assert_array_equal(read_label_png(tmp_path / "regions" / name), expected)
    assert read_json(tmp_path / "regions/provenance.json")["provenance"] == (
        "tools/make_oversegmentation.py --threshold 0.4 --max-regions 9 from gradients, without masks of these images"
    )


def test_started_again_it_leaves_out_what_is_there(run, photos, tmp_path):
    arguments = (photos, "--output", tmp_path / "regions")
    kept = np.full((2, 2), 7, np.uint8)
    write_png(tmp_path / "regions/a.png", kept)
    status, out, _ = run(*arguments)
    assert status == 0 and "1 written, 1 there before, 0 left out" in out
    np.testing.assert_array_equal(read_label_png(tmp_path / "regions/a.png"), kept)
    assert "0 written, 2 there before, 0 left out" in run(*arguments)[1]
    status, _, errors = run(*arguments, "--threshold", "0.2")
    assert status == 2 and "expected region maps made by" in errors[0] and "Choose another folder" in errors[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_edge_maps(run, photos, tmp_path, workers):
    edges = np.zeros((18, 20), np.float32)
    edges[:, 10] = 1
    write_edge_map(tmp_path / "edges/a.png", edges)
    declare_provenance(tmp_path / "edges", "a hand", what="edge maps")
    write_png(photos / "c.png", np.zeros((4, 5, 3), np.uint8))
    write_edge_map(tmp_path / "edges/c.png", edges)
    (photos / "d.jpg").write_bytes(b"\xff\xd8 no image")
    status, out, errors = run(
        photos, "--output", tmp_path / "regions", "--edges", tmp_path / "edges", "--workers", workers
    )
    assert status == 1 and "1 written, 0 there before, 3 left out" in out
    assert f"{tmp_path}/edges/b.png: expected the edge map of" in errors[0]
    assert "c.png: expected an edge map of 5 x 4 pixels; found 20 x 18" in errors[1]
    assert "d.jpg: expected an image" in errors[2]
    found = read_label_png(tmp_path / "regions/a.png")
    assert (found[:, :9] == 0).all() and (found[:, 12:] == 1).all() and found.max() == 1
    assert "made by a hand" in read_json(tmp_path / "regions/provenance.json")["provenance"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["{photos}/no"], "no: expected an image or a folder of images; found nothing"),
        ([], "Expected either images or --labels; found neither"),
        (["{photos}", "--output", "{photos}"], "--output: expected another folder than that of the images"),
        (["{photos}", "--workers", "-1"], "--workers: expected 0 or more; found -1"),
        (["{photos}", "--max-regions", "257"], "--max-regions: expected 1 to 256; found 257"),
        (["{photos}", "--edges", "{photos}/none"], "--edges: expected a folder of edge maps; found none at"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(run, photos, tmp_path, arguments, sentence):
    status, _, errors = run("--output", tmp_path / "regions", *(word.format(photos=photos) for word in arguments))
    assert status == 2 and len(errors) == 1 and sentence in errors[0], errors
    assert not (tmp_path / "regions").exists()


def test_help_has_examples(run):
    status, out, _ = run("--help")
    assert status == 0 and "python tools/make_oversegmentation.py photos/ --output regions" in out
