"""Views of an image: other sizes, mirrored, padded, and back to bytes."""

import numpy as np
import pytest
import torch

from weakseg.methods.spml.resizing import resize_image
from weakseg.methods.spml.views import pad_to, resize_linear, resize_nearest, to_bytes, views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_image(height, width, seed=0):
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def test_linear_has_half_pixel_centres():
    line = torch.tensor([[[0.0, 1.0]]])
    assert resize_linear(line, (1, 4)).tolist() == [[[0, 0.25, 0.75, 1]]]
    column = torch.tensor([[[0.0], [4.0], [8.0]]])
    assert resize_linear(column, (1, 1)).tolist() == [[[4]]]


@pytest.mark.parametrize("size", [(33, 47), (64, 50), (16, 23), (41, 12), (1, 1)])
def test_linear_is_that_of_the_readers_of_images(size):
    image = random_image(33, 47)
    expected = resize_image(image.permute(1, 2, 0).contiguous().numpy(), size)
    found = resize_linear(image, size)
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, atol=3e-5)
    assert resize_linear(image[None, None].expand(2, 4, -1, -1, -1), size).equal(found.expand(2, 4, -1, -1, -1))


@pytest.mark.parametrize("size", [(7, 5), (14, 15), (3, 4), (1, 1), (50, 2)])
def test_nearest_takes_the_pixel_at_or_before(size):
    labels = torch.arange(35, dtype=torch.uint8).view(7, 5)
    found = resize_nearest(labels, size)
    assert found.dtype == torch.uint8 and found.shape == size
    for i in range(size[0]):
        for j in range(size[1]):
            assert found[i, j] == labels[int(i * 7 / size[0] + 1e-9), int(j * 5 / size[1] + 1e-9)]


def test_padding_is_zero_at_the_right_and_the_bottom():
    image = torch.ones(2, 3, 5, 9)
    padded = pad_to(image, (8, 7))
    assert padded.shape == (2, 3, 8, 9)
    assert padded[..., :5, :].eq(1).all() and padded[..., 5:, :].eq(0).all()
    assert pad_to(image, (1, 1), 4).shape == (2, 3, 8, 12)
    assert pad_to(image, (9, 4), 4).shape == (2, 3, 12, 12)
    assert pad_to(image, (5, 9)).equal(image)


def normalised_bytes():
    """(256, 3, 3) uint8, each value in each channel, and the float32 image (3, 256, 3) that the readers make of it."""
    values = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 3, 3))
    image = (values.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    return values, torch.from_numpy(image).permute(2, 0, 1).contiguous()


def test_bytes_come_back():
    values, image = normalised_bytes()
    found = to_bytes(image, MEAN, STD)
    assert found.dtype == torch.uint8 and found.is_contiguous()
    np.testing.assert_array_equal(found.numpy(), values)
    channel = torch.tensor([10.4, 10.6, 300.0, -7.0]) / 255
    image = ((channel[:, None] - torch.tensor(MEAN)) / torch.tensor(STD)).T[:, None]
    assert to_bytes(image, MEAN, STD)[0].T.tolist() == [[10, 11, 255, 0]] * 3


def test_official_bytes_are_truncated_after_each_rounding():
    values, image = normalised_bytes()
    found = to_bytes(image, MEAN, STD, official=True).numpy()
    expected = image.permute(1, 2, 0).numpy().copy()
    # In place: the constants are of double precision, each result is rounded to float32.
    np.multiply(expected, np.array(STD), out=expected, casting="same_kind")
    np.add(expected, np.array(MEAN), out=expected, casting="same_kind")
    np.testing.assert_array_equal(found, (expected * np.float32(255)).astype(np.uint8))
    below = values.astype(int) - found
    assert below.min() == 0 and below.max() == 1 and 0.05 < below.mean() < 0.3


def test_views_are_mirrored_first_at_each_scale():
    image = random_image(33, 47)
    found = list(views(image, (0.5, 1.0, 1.25), True))
    assert [is_mirrored for _, is_mirrored in found] == [True, False] * 3
    assert [tuple(view.shape[1:]) for view, _ in found[::2]] == [(16, 23), (33, 47), (41, 58)]
    for (mirrored, _), (plain, _) in zip(found[::2], found[1::2]):
        assert mirrored.equal(plain.flip(2)) and plain.equal(resize_linear(image, plain.shape[1:]))
    assert found[3][0].equal(image)
    plain_alone = list(views(image, (0.5, 1.0), False))
    assert [is_mirrored for _, is_mirrored in plain_alone] == [False, False]
    assert plain_alone[0][0].equal(found[1][0])
