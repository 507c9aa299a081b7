"""What is shown of a network is what it computes, at the size that it is drawn in."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from weakseg.labels import ClassOrder
from weakseg.methods.spml.pictures import embedding_and_segments, given_labels
from weakseg.methods.spml.prediction import Predictor, Tiling


class Pooling:
    """`seen`: the shapes of its inputs."""

    def __init__(self):
        self.size_divisibility, self.seen = 0, []

    def __call__(self, images):
        self.seen.append(tuple(images.shape))
        return {"res5": F.avg_pool2d(images, 4)}


def network(**predictor):
    """A stand-in whose embedding is the image itself, in the mean of 4 x 4 pixels, twice as long."""
    arguments = {"num_classes": 2, "image_size": 64, "tiling": Tiling(64, 64), "kmeans_grid": (3, 2)} | predictor
    head = SimpleNamespace(network=lambda maps: 2 * maps, in_feature="res5", predictor=Predictor(**arguments))
    return SimpleNamespace(
        head=head,
        backbone=Pooling(),
        preprocess=lambda batch: [sample["image"] for sample in batch],
    )


def halves(height: int, width: int) -> dict:
    """A sample whose left half is (3, 4, 0), its right half (0, 0, 1)."""
    image = torch.zeros(3, height, width)
    image[0, :, : width // 2], image[1, :, : width // 2], image[2, :, width // 2 :] = 3, 4, 1
    return {"image": image}


@pytest.mark.parametrize(
    ("size", "embedded"), [((64, 32), (16, 8)), ((32, 64), (8, 16)), ((128, 64), (16, 8)), ((24, 48), (8, 16))]
)
def test_an_embedding_has_a_unit_vector_of_every_four_by_four_pixels(size, embedded):
    embedding, segments = embedding_and_segments(network(), halves(*size))
    assert embedding.shape == (*embedded, 3) and embedding.dtype == np.float32
    assert segments.shape == size
    middle = embedded[1] // 2
    for half, vector in ((embedding[:, : middle - 2], (0.6, 0.8, 0)), (embedding[:, middle + 2 :], (0, 0, 1))):
        np.testing.assert_allclose(half, np.broadcast_to(vector, half.shape), atol=1e-6)


@pytest.mark.parametrize(("size", "embedded"), [((64, 5), (16, 2)), ((33, 47), (11, 16)), ((1, 1), (16, 16))])
def test_any_size_will_do(size, embedded):
    embedding, segments = embedding_and_segments(network(), {"image": torch.ones(3, *size)})
    assert embedding.shape == (*embedded, 3) and segments.shape == size
    np.testing.assert_allclose(embedding, np.full_like(embedding, 1 / np.sqrt(3)), atol=1e-6)


def test_an_embedding_is_drawn_where_it_is():
    """Mirrored and turned images give mirrored and turned embeddings: nothing is moved to a side."""
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = [
        embedding_and_segments(network(), {"image": view})[0]
        for view in (image, image.flip(-1), image.flip(-2), image.transpose(1, 2))
    ]
    assert np.ptp(found[0]) > 0.3
    for view, back in zip(found[1:], (np.fliplr, np.flipud, lambda e: e.transpose(1, 0, 2))):
        np.testing.assert_allclose(back(view), found[0], atol=1e-5)


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (40, 80)])
def test_segments_part_the_halves(size):
    _, segments = embedding_and_segments(network(), halves(*size))
    middle = size[1] // 2
    left, right = segments[:, : middle - 8], segments[:, middle + 8 :]
    assert not set(left.ravel()) & set(right.ravel())
    assert 2 <= len(np.unique(segments)) <= 3 * 2


def test_tiles_and_the_grid_of_prediction_are_used():
    model = network(tiling=Tiling(32, 32), kmeans_grid=(1, 1))
    embedding, segments = embedding_and_segments(model, halves(64, 48))
    assert model.backbone.seen == [(1, 3, 32, 32)] * 4
    assert embedding.shape == (16, 12, 3) and (segments == 0).all()


def test_tiles_have_sides_that_the_backbone_takes():
    model = network(tiling=Tiling(40, 40))
    model.backbone.size_divisibility = 32
    embedding, segments = embedding_and_segments(model, halves(64, 48))
    assert model.backbone.seen == [(1, 3, 64, 64)] * 4
    assert embedding.shape == (16, 12, 3) and segments.shape == (64, 48)


def test_given_labels_keep_unlabelled_and_ignored_apart():
    classes = ClassOrder.of(["cat", "dog", "background"])
    label_map = np.array([[0, 1, 2], [254, 3, 255]], np.uint8)
    found = given_labels(label_map, classes)
    assert found.tolist() == [[2, 0, 1], [254, 254, 255]] and found.dtype == np.uint8
