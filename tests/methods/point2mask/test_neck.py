"""The neck: four levels of one width, normalised, without activation."""

import math

import torch
from torch.nn import functional as F

from weakseg.methods.point2mask.neck import Neck


def group_norm(x, groups):
    grouped = x.reshape(x.shape[0], groups, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    return (centred / (grouped.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()).view_as(x)


def test_levels_are_normalised_convolutions_of_the_maps():
    features = [torch.randn(2, 3, 8, 9), torch.randn(2, 4, 4, 5), torch.randn(2, 5, 3, 3)]
    neck = Neck([3, 4, 5], 64)
    levels = neck(features)
    assert [tuple(level.shape) for level in levels] == [(2, 64, 8, 9), (2, 64, 4, 5), (2, 64, 3, 3), (2, 64, 2, 2)]
    for index, level in enumerate(levels):
        conv = neck.convs[index].conv
        assert conv.bias is None
        source = features[min(index, 2)]  # the fourth level reads the raw last map
        expected = F.conv2d(source, conv.weight, stride=2, padding=1) if index == 3 else F.conv2d(source, conv.weight)
        torch.testing.assert_close(level, group_norm(expected, 32), atol=1e-4, rtol=1e-4)
        assert level.min() < -0.5


def test_small_widths_get_the_largest_number_of_groups_that_divides_them():
    for dim, groups in [(256, 32), (96, 32), (48, 24), (40, 20), (62, 31), (8, 8)]:
        assert all(conv.norm.num_groups == groups for conv in Neck([2, 2, 2], dim).convs)


def test_convolutions_start_with_xavier():
    conv = Neck([16, 16, 16], 64).convs[3].conv
    bound = math.sqrt(6 / (9 * (16 + 64)))
    assert 0.95 * bound < conv.weight.abs().max() <= bound
