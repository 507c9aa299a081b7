"""Positions and smoothed colours."""

import math

import torch

from weakseg.methods.spml.local_features import ColorFeatures, position_features


def test_positions_run_from_corner_to_corner_in_the_order_y_x():
    positions = position_features(3, 5)
    assert positions.shape == (3, 5, 2)
    torch.testing.assert_close(positions[:, 0, 0], torch.tensor([-0.5, 0.0, 0.5]))
    torch.testing.assert_close(positions[0, :, 1], torch.tensor([-0.5, -0.25, 0.0, 0.25, 0.5]))
    assert (positions[1, :, 0] == 0).all()
    assert position_features(1, 1).tolist() == [[[-0.5, -0.5]]]


def test_the_published_kernel_is_a_cone_without_a_centre():
    colors = ColorFeatures()
    kernel = colors.smooth_kernel.weight[:, 0]
    assert colors.state_dict().keys() == {"smooth_kernel.weight"}
    assert not any(parameter.requires_grad for parameter in colors.parameters())
    assert (kernel[:, 2, 2] == 0).all()
    total = sum(math.hypot(y, x) for y in range(-2, 3) for x in range(-2, 3))
    torch.testing.assert_close(kernel[:, 0, 1], torch.full((3,), math.sqrt(5) / total))


def test_colors_are_centred_and_scaled_per_image_and_channel():
    images = torch.randn(2, 3, 33, 47, generator=torch.Generator().manual_seed(0))
    features = ColorFeatures()(images, (9, 12))
    assert features.shape == (2, 9, 12, 3)
    torch.testing.assert_close(features.mean((1, 2)), torch.zeros(2, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(features.abs().amax((1, 2)), torch.ones(2, 3))
    torch.testing.assert_close(ColorFeatures()(5 * images + 2, (9, 12)), features, atol=1e-5, rtol=0)


def test_a_plain_image_has_no_contrast():
    images = torch.full((1, 3, 20, 20), 2.64)
    for gaussian in (False, True):
        assert ColorFeatures(gaussian=gaussian)(images, (5, 5)).abs().max() < 0.05


def test_the_gaussian_keeps_a_point_where_it_is():
    images = torch.zeros(1, 3, 15, 15)
    images[..., 3, 9] = 1
    features = ColorFeatures(gaussian=True)(images, (15, 15))[0, :, :, 0]
    assert features.argmax() == 3 * 15 + 9
    background = features[-1, 0]
    drop = (features[3, 10] - background) / (features[3, 9] - background)
    torch.testing.assert_close(drop, torch.tensor(math.exp(-0.5)))
    # The cone is 0 at the point itself, and stretches what it has cut off.
    assert ColorFeatures()(images, (11, 11))[0, 1, 7, 0] < 0
