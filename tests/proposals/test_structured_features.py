"""Features of structured edges: the card's words as loops."""

import numpy as np
import pytest

from proposals.forests import OPTIONS, random_image, slow_smooth
from weakseg.proposals.structured_edges import ForestOptions, edge_features
from weakseg.proposals.structured_features import grown_to_cells, smooth


def reflected(index: int, size: int) -> int:
    index %= 2 * size
    return min(index, 2 * size - 1 - index)


def slow_luv(rgb) -> list[float]:
    red, green, blue = (float(value) for value in rgb)
    x = 0.430574 * red + 0.341550 * green + 0.178325 * blue
    y = 0.222015 * red + 0.706655 * green + 0.071330 * blue
    z = 0.020183 * red + 0.129553 * green + 0.939180 * blue
    step = min(int(1024 * y), 1023) / 1024
    slope = 29**3 / 27
    lightness = (116 * step ** (1 / 3) - 16 if step > 8 / slope else slope * step) / 270
    norm = 1 / (x + 15 * y + 3 * z + 1e-35)
    u = lightness * (52 * x * norm - 13 * 0.197833) + 88 / 270
    return [lightness, u, lightness * (117 * y * norm - 13 * 0.468331) + 134 / 270]


def slow_gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width, _ = image.shape
    magnitude, angle = np.zeros((height, width)), np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        best = -1.0
        for channel in range(3):
            plane = image[..., channel]
            dx = plane[y, reflected(x + 1, width)] - plane[y, reflected(x - 1, width)]
            dy = plane[reflected(y + 1, height), x] - plane[reflected(y - 1, height), x]
            if dx * dx + dy * dy > best:
                best = dx * dx + dy * dy
                turn = np.degrees(np.arctan2(dy, dx)) % 180 / 180  # a direction, not its sign
                angle[y, x] = 0.5 if abs(dx) + abs(dy) < 1e-5 else turn
        magnitude[y, x] = np.sqrt(best)
    return magnitude, angle


@pytest.mark.parametrize("size", [(16, 20), (19, 24)])
def test_features_at_the_full_scale_are_those_of_the_card(size):
    """Channels 0 to 2 and those of scale 1; cells of 2 x 2, so that a side of 19 has a last, half empty cell."""
    options, image = OPTIONS, random_image(*size)
    features = edge_features(image, options)
    luv = np.apply_along_axis(slow_luv, 2, image)
    rows, columns = round(size[0] / 2), round(size[1] / 2)
    assert features.shape == (rows, columns, options.channels) and features.dtype == np.float32
    magnitude, angle = slow_gradient(luv)
    magnitude /= slow_smooth(magnitude, options.gradient_normalization_radius) + 0.01
    histogram = np.zeros((rows, columns, options.number_of_gradient_orientations))
    for y, x in np.ndindex(*size):
        orientation = round(angle[y, x] * options.number_of_gradient_orientations)
        histogram[y // 2, x // 2, orientation % options.number_of_gradient_orientations] += magnitude[y, x] / 4
    near = np.abs(features[..., 4 : 4 + histogram.shape[2]] - histogram) < 1e-4
    assert near.all(axis=2).mean() > 0.97  # the arc tangent of OpenCV is off by 0.01 degrees
    if size[0] % 2 == 0:
        blocks = luv.reshape(rows, 2, columns, 2, 3).mean((1, 3))
        np.testing.assert_allclose(features[..., :3], blocks, atol=1e-5)
        np.testing.assert_allclose(features[..., 3], magnitude.reshape(rows, 2, columns, 2).mean((1, 3)), atol=1e-4)


def test_features_at_the_half_scale_are_those_of_the_image_at_half_size():
    options, image = OPTIONS, random_image(24, 28)
    luv = np.apply_along_axis(slow_luv, 2, image).reshape(12, 2, 14, 2, 3).mean((1, 3))
    magnitude, angle = slow_gradient(luv)
    magnitude /= slow_smooth(magnitude, options.gradient_normalization_radius) + 0.01
    features = edge_features(image, options)[..., 4 + options.number_of_gradient_orientations :]
    np.testing.assert_allclose(features[..., 0], magnitude, atol=1e-4)
    bins = np.rint(angle * options.number_of_gradient_orientations) % options.number_of_gradient_orientations
    assert (features[..., 1:].argmax(axis=2) == bins).mean() > 0.97
    np.testing.assert_allclose(features[..., 1:].sum(axis=2), magnitude, atol=1e-4)  # cells of one pixel


@pytest.mark.parametrize(("size", "grey"), [((20, 20), 0.0), ((20, 24), 1.0), ((17, 18), 0.4)])
def test_flat_images_have_no_gradient_and_no_edge(size, grey):
    image = np.full((*size, 3), grey, np.float32)
    features = edge_features(image, OPTIONS)
    np.testing.assert_allclose(features[..., :3] - slow_luv(image[0, 0]), 0, atol=1e-6)
    np.testing.assert_allclose(features[..., 3:], 0, atol=1e-5)


@pytest.mark.parametrize("radius", [0, 1, 2, 5])
def test_smoothing_is_the_triangle(radius):
    image = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    np.testing.assert_allclose(smooth(image, radius), slow_smooth(image, radius), atol=1e-6)


@pytest.mark.parametrize(
    ("shrink", "side", "grown"),
    [
        (2, 32, 32),
        (2, 33, 34),
        (2, 34, 34),
        (2, 35, 35),
        (2, 37, 38),
        (1, 33, 33),
        (4, 33, 35),
        (4, 34, 35),
        (4, 36, 36),
    ],
)
def test_images_grow_until_every_pixel_lies_in_a_cell(shrink, side, grown):
    options = ForestOptions(shrink, shrink, 32, 16, *[2] * 5, 5, 1, 1)
    image = random_image(side, side)
    after = grown_to_cells(image, options)
    assert after.shape == (grown, grown, 3)
    np.testing.assert_array_equal(after[:side, :side], image)
    for extra in range(grown - side):
        np.testing.assert_array_equal(after[:side, side + extra], image[:, side - 1 - extra])
        np.testing.assert_array_equal(after[side + extra, :side], image[side - 1 - extra])
