import numpy as np
import torch
from skimage.color import rgb2lab

from weakseg.layers.color import denormalize, rgb_to_lab


def test_denormalize_undoes_the_normalisation_of_each_channel():
    mean, std = torch.tensor([120.0, 110.0, 90.0]), torch.tensor([60.0, 50.0, 40.0])
    pixels = torch.randint(0, 256, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0)).float()
    normalised = torch.stack([(pixels[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(denormalize(normalised, mean, std), pixels, rtol=0, atol=1e-4)


def test_denormalize_clips_to_the_range_of_pixels():
    images = torch.tensor([-9.0, 9.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    found = denormalize(images, torch.full((3,), 100.0), torch.full((3,), 50.0))
    assert found[0, :, 0].tolist() == [[0.0, 255.0]] * 3


def test_lab_is_that_of_scikit_image_also_for_dark_colours():
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(2, 3, 9, 11, generator=generator, dtype=torch.float64)
    rgb[1] *= 0.06
    expected = rgb2lab(rgb.permute(0, 2, 3, 1).numpy(), illuminant="D65", observer="2")
    np.testing.assert_allclose(rgb_to_lab(rgb).permute(0, 2, 3, 1).numpy(), expected, atol=1e-3)


def test_lab_of_white_black_and_red():
    rgb = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).T.reshape(1, 3, 1, 3)
    expected = torch.tensor([[100.0, 0.0, 0.0], [0.0, 0.0, 0.0], [53.24, 80.09, 67.20]])
    torch.testing.assert_close(rgb_to_lab(rgb)[0, :, 0].T, expected, rtol=0, atol=0.01)
