"""Tiles cover the image; a map that a function makes of each pixel alone is the same with and without tiles."""

import pytest
import torch

from weakseg.inference.tiles import by_tiles, tile_ends


@pytest.mark.parametrize(
    "side, tile, stride, ends",
    [
        (8, 8, 8, [8]),
        (9, 8, 8, [8, 9]),
        (16, 8, 8, [8, 16]),
        (17, 8, 8, [8, 12, 17]),
        (200, 64, 48, [64, 109, 154, 200]),
    ],
)
def test_ends_by_hand(side, tile, stride, ends):
    assert tile_ends(side, tile, stride) == ends


def test_a_function_of_pixels_is_not_changed_by_tiles():
    image = torch.rand(2, 3, 13, 21, generator=torch.Generator().manual_seed(0))
    calls = []

    def function(part):
        calls.append(part.shape)
        return torch.cat([part[:, :1] * 2, part.sum(1, keepdim=True)], dim=1)

    mean, cover = by_tiles(image, function, tile=8, stride=5)
    torch.testing.assert_close(mean, torch.cat([image[:, :1] * 2, image.sum(1, keepdim=True)], dim=1))
    ends = [(y, x) for y in tile_ends(13, 8, 5) for x in tile_ends(21, 8, 5)]
    assert calls == [(2, 3, 8, 8)] * len(ends) and len(ends) == 8
    expected = torch.tensor(
        [[sum(y - 8 <= row < y and x - 8 <= column < x for y, x in ends) for column in range(21)] for row in range(13)]
    )
    torch.testing.assert_close(cover, expected.float())
    total, _ = by_tiles(image, function, tile=8, stride=5, mean=False)
    torch.testing.assert_close(total, mean * expected)
    assert expected.max() == 4 and expected.min() == 1


def test_a_small_image_is_padded_with_zeros():
    image = torch.ones(1, 1, 3, 10)
    mean, cover = by_tiles(image, lambda part: part + 1, tile=8, stride=8)
    assert mean.shape == (1, 1, 8, 10) and cover.shape == (8, 10)
    assert (mean[:, :, :3] == 2).all() and (mean[:, :, 3:] == 1).all()


def test_tiles_see_their_own_pixels():
    """Two tiles that tell where they are: their mean where they overlap."""
    image = torch.arange(12.0).reshape(1, 1, 1, 12).expand(1, 1, 8, 12)
    mean, _ = by_tiles(image, lambda part: part.min() * torch.ones_like(part), tile=8, stride=8)
    assert mean[0, 0, 0].tolist() == [0] * 4 + [2] * 4 + [4] * 4


def test_sums_are_kept_in_full_precision():
    image = torch.ones(1, 1, 8, 8, dtype=torch.bfloat16)
    total, cover = by_tiles(image, lambda part: part, tile=8, stride=8)
    assert total.dtype == cover.dtype == torch.float32
