"""tools/make_edges.py: one map an image, restart, what cannot be read, and mistakes that end in one sentence."""

import hashlib
import importlib.util
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tiny import ROOT
from weakseg.engine import run_command
from weakseg.labels import LabelFile, write_label_file
from weakseg.proposals.edge_maps import gradient_edges
from weakseg.proposals.edge_networks import PiDiNet, network_edges, read_edge_network
from weakseg.safe_io import read_image, read_json, read_label_png, write_png

SCRIPT = ROOT / "tools/make_edges.py"


@pytest.fixture
def tool():
    specification = importlib.util.spec_from_file_location("make_edges", SCRIPT)
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
    """A folder with a.png, b.png (other size), a text and a sub-folder that has c.png."""
    for seed, (name, size) in enumerate({"a.png": (18, 20), "b.png": (17, 33), "deeper/c.png": (16, 16)}.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        write_png(tmp_path / "photos" / name, pixels)
    (tmp_path / "photos/notes.txt").write_text("no image")
    return tmp_path / "photos"


def stored(edges):
    return np.round(edges * 255)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder(run, photos, tmp_path):
    status, out, errors = run(photos, "--output", tmp_path / "edges", "--engine", "gradient")
    assert (status, errors) == (0, [])
    assert f"{tmp_path}/edges: 2 written, 0 there before, 0 left out" in out
    assert files(tmp_path / "edges") == ["a.png", "b.png", "provenance.json"], "of one folder, not of those below"
    for name in ("a.png", "b.png"):
        edges = read_label_png(tmp_path / "edges" / name)
        assert edges.dtype == np.uint8 and edges.ndim == 2
        np.testing.assert_array_equal(edges, stored(gradient_edges(read_image(photos / name))))
    made_by = read_json(tmp_path / "edges/provenance.json")["provenance"]
    assert made_by == "tools/make_edges.py --engine gradient, without masks of these images"


def test_started_again_it_leaves_out_what_is_there(run, photos, tmp_path):
    arguments = (
        photos,
        photos / "a.png",
        photos / "deeper/c.png",
        "--output",
        tmp_path / "edges",
        "--engine",
        "gradient",
    )
    kept = np.full((2, 2), 7, np.uint8)
    write_png(tmp_path / "edges/a.png", kept)
    status, out, _ = run(*arguments)
    assert status == 0 and "2 written, 1 there before, 0 left out" in out
    np.testing.assert_array_equal(read_label_png(tmp_path / "edges/a.png"), kept)
    assert "0 written, 3 there before, 0 left out" in run(*arguments)[1]


def test_stopped_in_the_middle_nothing_half_is_left(run, tool, photos, tmp_path, monkeypatch):
    find = tool.edge_detector("gradient")
    calls = []

    def stops(image):
        calls.append(image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return find(image)

    monkeypatch.setattr(tool, "edge_detector", lambda *_, **__: stops)
    with pytest.raises(KeyboardInterrupt):
        run(photos, "--output", tmp_path / "edges", "--engine", "gradient")
    assert files(tmp_path / "edges") == ["a.png", "provenance.json"]
    status, out, _ = run(photos, "--output", tmp_path / "edges", "--engine", "gradient")
    assert status == 0 and "1 written, 1 there before" in out
    assert len(calls) == 3, "the first image is not looked at again"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_photo_is_named_and_the_others_are_written(run, photos, tmp_path, workers):
    (photos / "aa.jpg").write_bytes(b"\xff\xd8 no image")
    status, out, errors = run(photos, "--output", tmp_path / "edges", "--engine", "gradient", "--workers", workers)
    assert status == 1 and "2 written, 0 there before, 1 left out" in out
    (error,) = errors
    assert error.startswith(f"left out: {photos}/aa.jpg: expected an image")
    assert files(tmp_path / "edges") == ["a.png", "b.png", "provenance.json"]
    np.testing.assert_array_equal(
        read_label_png(tmp_path / "edges/b.png"), stored(gradient_edges(read_image(photos / "b.png")))
    )


def test_the_images_of_a_label_file(run, photos, tmp_path):
    names = {"deeper/c.png": (16, 16), "a.png": (18, 20), "gone.png": (5, 5)}
    images = [
        {"id": k, "file_name": name, "height": h, "width": w} for k, (name, (h, w)) in enumerate(names.items(), start=1)
    ]
    write_label_file(tmp_path / "labels.json", LabelFile([{"id": 1, "name": "cat", "isthing": 1}], images, {}))
    arguments = ["--labels", tmp_path / "labels.json", "--output", tmp_path / "edges", "--engine", "gradient"]
    status, out, errors = run(*arguments, "--image-root", photos)
    assert (
        status == 1 and "2 written" in out and len(errors) == 1 and f"{photos}/gone.png: expected an image" in errors[0]
    )
    assert files(tmp_path / "edges") == ["a.png", "c.png", "provenance.json"]
    (tmp_path / "labels.json").rename(photos / "labels.json")
    arguments[1] = photos / "labels.json"
    assert "0 written, 2 there before, 1 left out" in run(*arguments)[1], "without --image-root: beside the label file"


def test_the_map_has_the_size_of_the_upright_photo(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(tmp_path / "photos/turned.jpg", exif=exif)
    assert run(tmp_path / "photos", "--output", tmp_path / "edges", "--engine", "gradient")[0] == 0
    assert read_label_png(tmp_path / "edges/turned.png").shape == (24, 16)


def test_a_network(run, photos, tmp_path):
    generator, shapes = torch.Generator().manual_seed(0), PiDiNet(20).state_dict()
    weights = tmp_path / "w.safetensors"
    save_file({name: torch.randn(v.shape, generator=generator) * 0.2 for name, v in shapes.items()}, weights)
    arguments = (photos / "b.png", "--output", tmp_path / "edges", "--engine")
    assert run(*arguments, "network", "--weights", weights)[0] == 0
    expected = stored(network_edges(read_edge_network(weights), read_image(photos / "b.png")))
    assert expected.std() > 1
    np.testing.assert_array_equal(read_label_png(tmp_path / "edges/b.png"), expected)
    made_by = (
        f"--engine network --weights w.safetensors (sha256 {hashlib.sha256(weights.read_bytes()).hexdigest()[:12]})"
    )
    status, _, errors = run(*arguments, "gradient")
    assert status == 2 and f"found tools/make_edges.py {made_by}, without masks" in errors[0]
    assert "Choose another folder" in errors[0]
    save_file({name: torch.zeros(v.shape) for name, v in shapes.items()}, weights)
    status, _, errors = run(*arguments, "network", "--weights", weights)
    assert status == 2 and f"found tools/make_edges.py {made_by}" in errors[0], "other weights of the same name"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["{photos}/no"], "no: expected an image or a folder of images; found nothing"),
        (["{photos}/empty"], "empty: expected images (.bmp, .jpeg,"),
        ([], "Expected either images or --labels; found neither"),
        (["{photos}", "--labels", "l.json"], "Expected either images or --labels; found both"),
        (["{photos}", "--image-root", "x"], "--image-root: expected together with --labels"),
        (["{photos}", "{photos}/deeper/a.jpg"], "images of different names"),
        (["{photos}", "--output", "{photos}"], "--output: expected another folder than that of the images"),
        (["{photos}", "--output", "{photos}/notes.txt"], "--output: expected a folder at"),
        (["{photos}", "--weights", "w.pth"], "gradient expects no weights; found w.pth"),
        (["{photos}", "--engine", "network"], "network expects HED or PiDiNet; found none. Correct --weights"),
        (["{photos}", "--engine", "network", "--weights", "network-bsds500.pth"], "content.sniklaus.com"),
        (["{photos}", "--engine", "structured", "--weights", "model.yml.gz"], "model.yml.gz"),
        (["{photos}", "--device", "abacus"], "--device: expected a device of this machine; found 'abacus'"),
        (["{photos}", "--workers", "-1"], "--workers: expected 0 or more; found -1"),
        (["--labels", "{photos}/none.json"], "none.json: expected a JSON file; found nothing"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(run, photos, tmp_path, arguments, sentence):
    (photos / "empty").mkdir()
    (photos / "deeper/a.jpg").write_bytes((photos / "a.png").read_bytes())
    fixed = ["--output", tmp_path / "edges", "--engine", "gradient"]
    status, _, errors = run(*fixed, *(word.format(photos=photos) for word in arguments))
    assert status == 2 and len(errors) == 1 and sentence in errors[0], errors
    assert not (tmp_path / "edges").exists()


def test_help_has_examples(run):
    status, out, _ = run("--help")
    assert status == 0 and "python tools/make_edges.py photos/ --output edges" in out
