"""Resizing against a pixel-by-pixel loop, and the forms of it that make no full-size masks."""

import pytest
import torch
import torch.nn.functional as F

from weakseg.layers.resize import interpolation_matrix, resize_and_crop, resize_label_masks


def bilinear(image, size):
    """A map (h, w) at another size, by the definition: half-pixel centres, edges repeated."""
    (h, w), (height, width) = image.shape, size
    out = torch.zeros(size)
    for y in range(height):
        for x in range(width):
            sy = max((y + 0.5) * h / height - 0.5, 0)
            sx = max((x + 0.5) * w / width - 0.5, 0)
            y0, x0 = min(int(sy), h - 1), min(int(sx), w - 1)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            dy, dx = sy - y0, sx - x0
            top = image[y0, x0] * (1 - dx) + image[y0, x1] * dx
            bottom = image[y1, x0] * (1 - dx) + image[y1, x1] * dx
            out[y, x] = top * (1 - dy) + bottom * dy
    return out


def test_resize_and_crop_is_two_resizes_with_a_crop_between():
    maps = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
    padded, image, output = (13, 17), (11, 12), (20, 9)
    actual = resize_and_crop(maps, padded, image, output)
    for index in range(2):
        expected = bilinear(bilinear(maps[index], padded)[:11, :12], output)
        torch.testing.assert_close(actual[index], expected, rtol=1e-5, atol=1e-6)


def test_resize_and_crop_of_no_map_and_of_one_pixel():
    assert resize_and_crop(torch.zeros(0, 4, 5), (8, 10), (7, 9), (14, 18)).shape == (0, 14, 18)
    assert torch.equal(resize_and_crop(torch.ones(1, 1, 1), (3, 2), (1, 1), (2, 5)), torch.ones(1, 2, 5))


@pytest.mark.parametrize("source, target", [(5, 13), (13, 5), (4, 4), (1, 6), (6, 1)])
def test_interpolation_matrix_resizes_one_side(source, target):
    values = torch.rand(source, generator=torch.Generator().manual_seed(1))
    expected = bilinear(values[None], (1, target))[0]
    torch.testing.assert_close(interpolation_matrix(source, target, torch.device("cpu")) @ values, expected)


@pytest.mark.parametrize("size", [(3, 4), (7, 9), (20, 31), (1, 1), (2, 40)])
def test_label_masks_are_the_resized_one_hot_masks(size):
    labels = torch.randint(-1, 3, (7, 9), generator=torch.Generator().manual_seed(2))
    classes = torch.tensor([0, 2, 5])
    one_hot = (labels == classes[:, None, None]).float()
    expected = F.interpolate(one_hot[None], size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(resize_label_masks(labels, classes, size), expected, rtol=1e-5, atol=1e-6)


def test_label_masks_of_no_class_and_of_one_pixel():
    assert resize_label_masks(torch.zeros(4, 4), torch.zeros(0), (2, 2)).shape == (0, 2, 2)
    assert torch.equal(
        resize_label_masks(torch.tensor([[3]]), torch.tensor([3, 1]), (2, 2)).sum((1, 2)), torch.tensor([4.0, 0.0])
    )
