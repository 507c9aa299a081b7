"""Edge maps: plain gradients against a slow definition, the files, and the evidence that a run reads from them."""

import pickle

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from safetensors.torch import save_file
from scipy.ndimage import binary_dilation
from skimage.color import rgb2lab

from weakseg.config import add_weakseg_config
from weakseg.proposals import build_evidence, edge_maps
from weakseg.proposals.edge_maps import (
    edge_detector,
    gradient_edges,
    write_edge_map,
)
from weakseg.proposals.edge_networks import PiDiNet, network_edges, read_edge_network
from weakseg.proposals.map_folder import declare_provenance, read_provenance
from weakseg.safe_io import read_image, read_label_png, write_json, write_png


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def slow_gradient(image):
    """Lab, a Gaussian of 1.5 pixels, half the difference of the two neighbours, border pixels repeated: by loops."""
    lab = rgb2lab(image)
    height, width = lab.shape[:2]
    offsets = range(-6, 7)
    weights = np.exp([-0.5 * (t / 1.5) ** 2 for t in offsets])
    weights /= weights.sum()
    smooth = np.zeros_like(lab)
    for y in range(height):
        for x in range(width):
            for down, by_row in zip(offsets, weights):
                for right, by_column in zip(offsets, weights):
                    row, column = min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)
                    smooth[y, x] += by_row * by_column * lab[row, column]
    length = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            across = (smooth[y, min(x + 1, width - 1)] - smooth[y, max(x - 1, 0)]) / 2
            down = (smooth[min(y + 1, height - 1), x] - smooth[max(y - 1, 0), x]) / 2
            length[y, x] = np.sqrt((across**2 + down**2).sum())
    return np.minimum(length / 12, 1)


@pytest.mark.parametrize("size", [(9, 13), (1, 1), (1, 6), (6, 1), (2, 2)])
def test_gradients_by_the_definition(size):
    image = picture(*size)
    found = gradient_edges(image)
    assert found.dtype == np.float32 and found.shape == size
    np.testing.assert_allclose(found, slow_gradient(image), atol=1 / 255)


def test_the_edge_of_two_colours():
    """Greys 50 apart in L: an edge of about 1 in the two columns beside the border, falling off to both sides alike."""
    image = np.zeros((8, 30, 3), dtype=np.uint8)
    image[:, 15:] = 119  # L = 50.0
    found = gradient_edges(image)
    np.testing.assert_allclose(found[:, 14:16], 0.98, atol=0.02)
    np.testing.assert_allclose(found, found[:, ::-1], atol=1e-6)
    assert (np.diff(found[0, :15]) >= 0).all() and (found[:, :7] < 1e-3).all()
    image[:, 15:] = 255
    assert gradient_edges(image).max() == 1, "never more than 1"
    assert (gradient_edges(np.full((5, 7, 3), 200, np.uint8)) == 0).all()


def test_gradients_turn_with_the_image():
    image = picture(12, 17)
    np.testing.assert_allclose(gradient_edges(image.transpose(1, 0, 2)).T, gradient_edges(image), atol=1e-5)
    np.testing.assert_allclose(gradient_edges(image[:, ::-1])[:, ::-1], gradient_edges(image), atol=1e-5)


def test_gradients_of_real_photos_are_larger_on_the_borders_of_their_masks(data_dir):
    for photo in ("2007_000720", "2007_002088", "2007_003110"):
        found = gradient_edges(read_image(data_dir / f"voc/JPEGImages/{photo}.jpg"))
        ring = read_label_png(data_dir / f"voc/SegmentationObject/{photo}.png") == 255
        assert found[ring].mean() > 2 * found[~binary_dilation(ring, iterations=6)].mean(), photo


def test_the_detectors_by_name(tmp_path, monkeypatch):
    image = picture(20, 24)
    np.testing.assert_array_equal(edge_detector("gradient")(image), gradient_edges(image))
    generator = torch.Generator().manual_seed(0)
    shapes = PiDiNet(20).state_dict()
    save_file(
        {n: torch.randn(v.shape, generator=generator) * 0.2 for n, v in shapes.items()}, tmp_path / "w.safetensors"
    )
    expected = network_edges(read_edge_network(tmp_path / "w.safetensors"), image)
    detector = pickle.loads(pickle.dumps(edge_detector("network", tmp_path / "w.safetensors")))
    np.testing.assert_array_equal(detector(image), expected)
    monkeypatch.setattr(edge_maps, "read_forest", lambda path: {"read": path})
    monkeypatch.setattr(edge_maps, "structured_edges", lambda image, forest: (image, forest))
    found, forest = edge_detector("structured", "model.yml.gz")(image)
    assert found is image and forest == {"read": "model.yml.gz"}


@pytest.mark.parametrize(
    "engine, weights, sentence",
    [
        ("sobel", None, "Expected an engine of structured, network, gradient; found 'sobel'"),
        ("network", None, "network expects HED or PiDiNet; found none"),
        ("structured", None, r"structured expects a forest \(model.yml.gz\); found none"),
        ("gradient", "w.pth", "gradient expects no weights; found w.pth"),
    ],
)
def test_engines_and_weights_that_do_not_fit(engine, weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        edge_detector(engine, weights)


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    add_weakseg_config(cfg)
    cfg.INPUT.EVIDENCE = ("edges",)
    cfg.INPUT.EDGE_ROOT = str(tmp_path)
    return cfg


def test_what_is_written_is_read(cfg, tmp_path):
    edges = np.random.default_rng(0).uniform(-0.1, 1.1, (7, 9)).astype(np.float32)
    write_edge_map(tmp_path / "a.b.png", edges)
    assert read_label_png(tmp_path / "a.b.png").shape == (7, 9)
    found = build_evidence(cfg)["edges"]({"file_name": "photos/a.b.jpg"})
    assert found.dtype == np.float32 and found.min() == 0 and found.max() == 1
    np.testing.assert_allclose(found, np.clip(edges, 0, 1), atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("kind", ["grey", "colour", "palette", "sixteen"])
def test_grey_values_of_any_png(cfg, tmp_path, kind):
    """255, 51 and 0 are 1, 0.2 and 0, however another program stored them."""
    grey = np.array([[255, 51, 0]], dtype=np.uint8)
    if kind == "palette":
        write_png(tmp_path / "a.png", np.array([[0, 1, 2]], np.uint8), palette=np.repeat([[255], [51], [0]], 3, axis=1))
    else:
        stored = {"grey": grey, "colour": np.repeat(grey[..., None], 3, 2), "sixteen": grey.astype(np.uint16) * 257}
        cv2.imwrite(str(tmp_path / "a.png"), stored[kind])
    np.testing.assert_allclose(build_evidence(cfg)["edges"]({"file_name": "a.jpg"}), [[1, 0.2, 0]], atol=1e-6)


def test_a_missing_map_names_the_command(cfg):
    loader = build_evidence(cfg)["edges"]
    sentence = rf"a.png: expected the edge map of photos/a.jpg; .*make_edges.py photos --output {loader.root} --engine"
    with pytest.raises(FileNotFoundError, match=sentence):
        loader({"file_name": "photos/a.jpg"})


def test_the_folder_must_exist(cfg):
    for root in ("", str(cfg.INPUT.EDGE_ROOT) + "/no"):
        cfg.INPUT.EDGE_ROOT = root
        with pytest.raises(FileNotFoundError, match=f"INPUT.EDGE_ROOT: .*found '{root}'.*make_edges.py"):
            build_evidence(cfg)


def test_provenance_is_what_the_folder_says(cfg, tmp_path):
    assert build_evidence(cfg)["edges"].provenance == (
        f"edge maps in {tmp_path}, made by something that nothing there names"
    )
    assert read_provenance(tmp_path) is None
    declare_provenance(tmp_path, "Ann, by hand", what="edge maps")
    declare_provenance(tmp_path, "Ann, by hand", what="edge maps")
    assert read_provenance(tmp_path) == "Ann, by hand"
    assert build_evidence(cfg)["edges"].provenance == f"edge maps in {tmp_path}, made by Ann, by hand"
    with pytest.raises(ValueError, match="expected edge maps made by Bob; found Ann, by hand. Choose another folder."):
        declare_provenance(tmp_path, "Bob", what="edge maps")
    write_json(tmp_path / "provenance.json", ["Ann"])
    with pytest.raises(ValueError, match="provenance.json: expected .*found something else"):
        build_evidence(cfg)


def test_the_loader_goes_to_the_workers(cfg, tmp_path):
    write_edge_map(tmp_path / "a.png", np.ones((2, 3)))
    loader = pickle.loads(pickle.dumps(build_evidence(cfg)["edges"]))
    np.testing.assert_array_equal(loader({"file_name": "a.jpg"}), np.ones((2, 3)))
