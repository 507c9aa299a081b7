"""Positions against loops over pixels."""

import math

import numpy as np
import torch

from weakseg.layers.position_encoding import encoder_reference_points, level_paddings, sine_position, valid_ratios

PADDED = (24, 40)
IMAGES = [(24, 40), (13, 27)]
SIZES = [(3, 5), (2, 3), (1, 2)]


def test_padding_of_a_level_is_that_of_the_nearest_pixel():
    for (h, w), padding in zip(SIZES, level_paddings(IMAGES, PADDED, SIZES)):
        assert padding.dtype == torch.bool and padding.shape == (2, h, w)
        for b, i, j in np.ndindex(2, h, w):
            row, column = i * PADDED[0] // h, j * PADDED[1] // w
            assert padding[b, i, j] == (row >= IMAGES[b][0] or column >= IMAGES[b][1])


def test_sine_position_counts_unpadded_rows_and_columns():
    dim, half = 12, 6
    padding = level_paddings([(20, 30)], (24, 40), [(6, 8)])[0]
    rows, columns = 5, 6
    assert (~padding[0, :, 0]).sum() == rows and (~padding[0, 0]).sum() == columns
    position = sine_position(padding, dim)
    assert position.shape == (1, dim, 6, 8) and position.dtype == torch.float32
    for i, j, k in np.ndindex(rows, columns, half):
        period = 10000 ** (2 * (k // 2) / half)
        function = math.cos if k % 2 else math.sin
        y = (i + 0.5) / rows * 2 * math.pi
        x = (j + 0.5) / columns * 2 * math.pi
        assert abs(position[0, k, i, j] - function(y / period)) < 1e-5
        assert abs(position[0, half + k, i, j] - function(x / period)) < 1e-5


def test_position_of_an_image_does_not_depend_on_its_padding():
    alone = sine_position(torch.zeros(1, 4, 6, dtype=torch.bool), 8)
    padding = torch.ones(1, 7, 9, dtype=torch.bool)
    padding[:, :4, :6] = False
    torch.testing.assert_close(sine_position(padding, 8)[:, :, :4, :6], alone)


def test_valid_ratios_are_the_unpadded_parts_x_first():
    padding = torch.ones(2, 4, 5, dtype=torch.bool)
    padding[0, :3, :2] = False
    padding[1] = False
    expected = torch.tensor([[[2 / 5, 3 / 4]], [[1.0, 1.0]]])
    torch.testing.assert_close(valid_ratios([padding]), expected)


def test_reference_points_are_the_token_centres_seen_by_each_level():
    ratios = torch.tensor([[[0.8, 0.5], [1.0, 0.75], [0.5, 1.0]]])
    points = encoder_reference_points(SIZES, ratios)
    assert points.shape == (1, 15 + 6 + 2, 3, 2)
    token = 0
    for level, (h, w) in enumerate(SIZES):
        for i in range(h):
            for j in range(w):
                for target in range(3):
                    x = (j + 0.5) / (w * ratios[0, level, 0]) * ratios[0, target, 0]
                    y = (i + 0.5) / (h * ratios[0, level, 1]) * ratios[0, target, 1]
                    torch.testing.assert_close(points[0, token, target], torch.stack([x, y]))
                token += 1
