"""Sizes, padding and nearest neighbours by hand; the values of images are compared with recorded ones in parity."""

import numpy as np
import pytest
import torch

from weakseg.methods.spml.resizing import (
    labels_at_embedding,
    longer_side_ratio,
    pad_to,
    resize_labels,
    scaled_size,
)


def test_sizes_are_cut_not_rounded():
    assert scaled_size((29, 41), 0.731) == (21, 29)
    assert scaled_size((1, 3), 0.5) == (1, 1)
    assert longer_side_ratio((100, 50), 64) == 0.64
    assert longer_side_ratio((50, 100), 64) == 0.64
    assert scaled_size((374, 300), longer_side_ratio((374, 300), 512)) == (511, 410), "as the card says"


@pytest.mark.parametrize("shape, size", [((7, 5), (3, 9)), ((4, 6, 2), (8, 4)), ((1, 1), (3, 2))])
def test_labels_take_the_pixel_before(shape, size):
    labels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = [
        [labels[i * shape[0] // size[0], j * shape[1] // size[1]] for j in range(size[1])] for i in range(size[0])
    ]
    found = resize_labels(labels, size)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_labels_at_the_size_of_the_embedding():
    labels = torch.randint(0, 256 * 2048, (2, 9, 12), generator=torch.Generator().manual_seed(0))
    found = labels_at_embedding(labels, (4, 6))
    assert found.dtype == torch.int64
    for i in range(4):
        for j in range(6):
            assert (found[:, i, j] == labels[:, i * 9 // 4, j * 2]).all()
    np.testing.assert_array_equal(labels_at_embedding(labels, (9, 12)), labels)


def test_padding():
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(pad_to(values, (3, 2), 255), [[0, 1, 2], [3, 4, 5], [255, 255, 255]])
    colour = pad_to(np.zeros((1, 1, 3), np.float32), (1, 2), (0.1, 0.2, 0.3))
    np.testing.assert_allclose(colour, [[[0, 0, 0], [0.1, 0.2, 0.3]]])
    assert colour.dtype == np.float32
