"""Rendered scenes: exact truth, equal for equal seeds, no colour that gives a class away."""

import numpy as np
import pytest

from weakseg.data.rendered import _COLORS_OF, STUFF, THINGS, render_data_set, render_scene
from weakseg.labels import decode_segmentation, read_label_file
from weakseg.safe_io import read_image


@pytest.mark.parametrize("seed", range(8))
def test_a_scene_is_fully_and_disjointly_labelled(seed):
    image, segments, classes = render_scene(np.random.default_rng(seed), 128)
    assert image.shape == (128, 128, 3) and image.dtype == np.uint8
    assert sorted(np.unique(segments)) == list(range(1, len(classes) + 1))
    assert min(np.bincount(segments.ravel())[1:]) >= 60
    assert all(0 <= kind < len(THINGS + STUFF) for kind in classes)
    stuff = [kind for kind in classes if kind >= len(THINGS)]
    assert 1 <= len(stuff) == len(set(stuff)) <= 2


def test_every_colour_is_shared_by_classes():
    shared = [color for colors in _COLORS_OF.values() for color in colors]
    assert all(shared.count(color) >= 2 for color in set(shared))


def test_a_data_set_says_what_was_rendered(tmp_path):
    path = render_data_set(tmp_path / "a", "train", count=3, size=64, seed=5)
    labels = read_label_file(path)
    assert [category["name"] for category in labels.categories] == list(THINGS + STUFF)
    assert labels.num_things == len(THINGS)
    for image in labels.images:
        pixels, segments, classes = render_scene(np.random.default_rng((5, image["id"])), 64)
        assert np.array_equal(read_image(tmp_path / "a" / image["file_name"]), pixels)
        annotations = labels.annotations[image["id"]]
        assert [annotation["category_id"] - 1 for annotation in annotations] == classes
        for k, annotation in enumerate(annotations):
            mask = decode_segmentation(annotation["segmentation"], 64, 64)
            assert np.array_equal(mask, segments == k + 1)
            ((x, y),) = annotation["point_coords"]
            assert mask[int(y), int(x)]
            x0, y0, width, height = map(int, annotation["bbox"])
            assert mask[y0 : y0 + height, x0 : x0 + width].sum() == mask.sum() == annotation["area"]
    again = render_data_set(tmp_path / "b", "train", count=3, size=64, seed=5)
    assert again.read_bytes() == path.read_bytes()
    other = render_data_set(tmp_path / "c", "train", count=3, size=64, seed=6)
    assert other.read_bytes() != path.read_bytes()
