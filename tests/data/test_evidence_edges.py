"""Edge maps move with their image: an edge at a known place lands where the image's edge lands."""

import cv2
import numpy as np
import pytest
import torch

from weakseg.data import WeakMapper
from weakseg.data.augmentation import AUGMENTATION_REGISTRY, build_augmentation
from weakseg.labels import WeakLabels
from weakseg.proposals.edge_maps import write_edge_map
from weakseg.safe_io import write_png

SIZE = (24, 40)
NO_LABELS = WeakLabels(
    image_size=SIZE, classes=torch.zeros(0, dtype=torch.int64), is_crowd=torch.zeros(0, dtype=torch.bool)
)


def blob(x, y):
    """A bright spot of 5 pixels around pixel (x, y), as a map (H, W) in 0..255."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.round(255 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 8)).astype(np.uint8)


def centre(values):
    """(x, y) of the centre of gravity, in continuous pixels."""
    rows, columns = np.mgrid[: values.shape[0], : values.shape[1]] + 0.5
    return np.array([(values * columns).sum(), (values * rows).sum()]) / values.sum()


# SPML's training images keep their label map and regions alone.
@pytest.mark.parametrize("name", [name for name, _ in AUGMENTATION_REGISTRY if name != "spml"])
def test_every_augmentation_moves_edges_like_pixels(cfg, name):
    """The map is the image's green channel; after any augmentation (sizes up and down, flips) it still is."""
    cfg.INPUT.AUGMENTATION = name
    cfg.INPUT.MIN_SIZE_TRAIN = (15, 24, 37)
    cfg.INPUT.MAX_SIZE_TRAIN = 200
    augment, generator = build_augmentation(cfg, True), np.random.default_rng(0)
    image = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8), (0, 0), 2)
    edges = image[..., 1].astype(np.float32) / 255
    seen = set()
    for _ in range(40):
        new_image, _, evidence = augment(image, NO_LABELS, {"edges": edges}, generator)
        assert evidence["edges"].dtype == np.float32
        np.testing.assert_allclose(evidence["edges"] * 255, new_image[..., 1], atol=1.01)
        seen.add(new_image.tobytes())
    assert len(seen) > 2, "changes were drawn"


@pytest.fixture
def make_sample(cfg, tmp_path):
    """make_sample(map in 0..255, short side, flip) -> the mapper's sample of a photo that looks like its edge map."""

    def make(edges, short_side=SIZE[0], flip=False):
        write_png(tmp_path / "images" / "a.png", np.repeat(edges[..., None], 3, axis=2))
        write_edge_map(tmp_path / "edges" / "a.png", edges / 255)
        cfg.INPUT.AUGMENTATION, cfg.INPUT.EVIDENCE = "point2mask", ("edges",)
        cfg.INPUT.EDGE_ROOT = str(tmp_path / "edges")
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (short_side,), 1000
        record = {"file_name": str(tmp_path / "images/a.png"), "image_id": 1, "height": SIZE[0], "width": SIZE[1]}
        mapper = WeakMapper(cfg, True)
        mapper.augmentation.flip_probability = float(flip)
        return mapper({**record, "annotations": []}, np.random.default_rng(0))

    return make


def test_unchanged_it_is_the_stored_map(make_sample):
    edges = make_sample(blob(9, 6))["evidence"]["edges"]
    assert edges.dtype == np.float32 and edges.flags.c_contiguous
    np.testing.assert_allclose(edges, blob(9, 6) / 255, atol=1e-6)


@pytest.mark.parametrize("short_side", [12, 24, 48, 60])
@pytest.mark.parametrize("flip", [False, True])
def test_a_spot_lands_at_the_scaled_and_mirrored_place(make_sample, short_side, flip):
    found = make_sample(blob(9, 6), short_side, flip)
    edges, scale = found["evidence"]["edges"], short_side / SIZE[0]
    assert edges.shape == tuple(found["image"].shape[1:]) == (short_side, short_side * 40 // 24)
    x, y = (9.5, 6.5)
    expected = np.array([40 - x if flip else x, y]) * scale
    np.testing.assert_allclose(centre(edges), expected, atol=0.05 * scale)
    np.testing.assert_allclose(centre(found["image"][0].numpy().astype(float)), expected, atol=0.1 * scale)
    np.testing.assert_allclose(edges * 255, found["image"][0].numpy(), atol=1.01)


def test_a_line_at_the_left_border_goes_to_the_right_one(make_sample):
    stored = np.zeros(SIZE, dtype=np.uint8)
    stored[:, 0] = 255
    edges = make_sample(stored, 48, flip=True)["evidence"]["edges"]
    assert (edges[:, -1] == 1).all() and (edges[:, :-3] == 0).all()


def test_a_map_of_another_size_is_named(make_sample, cfg, tmp_path):
    make_sample(blob(9, 6))
    write_edge_map(tmp_path / "edges/a.png", np.zeros((24, 39)))
    record = {"file_name": str(tmp_path / "images/a.png"), "image_id": 1, "height": 24, "width": 40, "annotations": []}
    with pytest.raises(ValueError, match="Evidence edges of .*expected 40 x 24 pixels.*found 39 x 24"):
        WeakMapper(cfg, True)(record, np.random.default_rng(0))


def test_without_proposals_a_test_run_needs_no_maps(cfg):
    cfg.INPUT.EVIDENCE, cfg.INPUT.EDGE_ROOT = ("edges",), "nowhere"
    assert WeakMapper(cfg, False).evidence == {}
    with pytest.raises(FileNotFoundError, match="INPUT.EDGE_ROOT"):
        WeakMapper(cfg, True)
