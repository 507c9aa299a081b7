"""The published augmentation step by step, each against a loop or a law; draws come from a script of numbers."""

import numpy as np
import pytest

from weakseg.methods.spml.augmentation import MEAN, augment


class Script:
    """A generator that gives low + fraction * (high - low) for fractions written down, and notes what is asked."""

    def __init__(self, *fractions):
        self.fractions, self.asked = list(fractions), []

    def uniform(self, low, high):
        self.asked.append((low, high))
        return low + self.fractions.pop(0) * (high - low)


def picture(height=12, width=9, seed=0):
    generator = np.random.default_rng(seed)
    image = generator.random((height, width, 3), dtype=np.float32)
    return image, *generator.integers(0, 22, (2, height, width), dtype=np.uint8)


LEFT_RIGHT_PARTS = ((2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13))
"""Values of DensePose's right and left body parts."""
KEEP = {"scale_range": (1.0, 1.0)}
PLAIN = 0.49  # no flip


def test_nothing_drawn_nothing_changed():
    image, semantic, region = picture(9, 9)
    generator = Script(PLAIN, 0, 0, 0)
    found = augment(image, semantic, region, generator, crop_size=9, **KEEP)
    for values, expected in zip(found[:3], (image, semantic, region), strict=True):
        np.testing.assert_array_equal(values, expected)
        assert values.dtype == expected.dtype and values.flags.c_contiguous
    assert generator.asked == [(0, 1), (1, 1), (0, 1), (0, 1)]


@pytest.mark.parametrize("draw, is_flipped", [(0.499, False), (0.5, True), (0.9, True)])
def test_flip(draw, is_flipped):
    image, semantic, region = picture(9, 9)
    semantic[0, :7] = [1, 2, 3, 12, 13, 14, 255]
    found = augment(image, semantic, region, Script(draw, 0, 0, 0), crop_size=9, flip_pairs=LEFT_RIGHT_PARTS, **KEEP)
    step = -1 if is_flipped else 1
    np.testing.assert_array_equal(found[0], image[:, ::step])
    np.testing.assert_array_equal(found[2], region[:, ::step])
    swap = dict(LEFT_RIGHT_PARTS) | {left: right for right, left in LEFT_RIGHT_PARTS} if is_flipped else {}
    expected = np.vectorize(lambda value: swap.get(value, value))(semantic[:, ::step])
    np.testing.assert_array_equal(found[1], expected)
    if is_flipped:
        assert found[1][0, -7:].tolist() == [255, 14, 12, 13, 2, 3, 1]


def test_scale():
    """0.5 + 0.25 * 1.5 = 0.875: sides of 10 and 9 become trunc(8.75) and trunc(7.875)."""
    image, semantic, region = picture(10, 9)
    generator = Script(PLAIN, 0.25, 0, 0)
    found = augment(image, semantic, region, generator, crop_size=8, scale_range=(0.5, 2.0))
    assert generator.asked[1] == (0.5, 2.0)
    rows, columns = [i * 10 // 8 for i in range(8)], [i * 9 // 7 for i in range(7)]
    np.testing.assert_array_equal(found[1][:, :7], semantic[np.ix_(rows, columns)])
    np.testing.assert_array_equal(found[2][:, :7], region[np.ix_(rows, columns)])
    assert (found[1][:, 7:] == 255).all() and (found[2][:, 7:] == 255).all()
    np.testing.assert_allclose(found[0][:, 7:], np.broadcast_to(np.float32(MEAN), (8, 1, 3)))
    y, x = 3 * 10 / 8 + 0.5 * 10 / 8 - 0.5, 2 * 9 / 7 + 0.5 * 9 / 7 - 0.5  # row 3, column 2 between four pixels
    (top, down), (left, right) = divmod(y, 1), divmod(x, 1)
    corner = image[int(top) : int(top) + 2, int(left) : int(left) + 2]
    expected = np.einsum("yxc,y,x->c", corner, [1 - down, down], [1 - right, right])
    np.testing.assert_allclose(found[0][3, 2], expected, atol=1e-5)


def test_a_tiny_image_keeps_a_pixel():
    image, semantic, region = picture(1, 1)
    found = augment(image, semantic, region, Script(PLAIN, 0, 0, 0), crop_size=2, scale_range=(0.5, 1.5))
    np.testing.assert_array_equal(found[1], [[semantic[0, 0], 255], [255, 255]])
    np.testing.assert_array_equal(found[0][0, 0], image[0, 0])


def test_the_crop_reaches_every_position():
    """12 x 9 to 8 x 8: five rows and two columns to start at, each for an equal share of the draws."""
    image, semantic, region = picture(12, 9)
    for fraction, row, column in [(0.0, 0, 0), (0.19, 0, 0), (0.21, 1, 0), (0.79, 3, 1), (0.81, 4, 1), (0.9999, 4, 1)]:
        found = augment(image, semantic, region, Script(PLAIN, 0, fraction, fraction), crop_size=8, **KEEP)
        window = np.s_[row : row + 8, column : column + 8]
        for values, expected in zip(found, (image, semantic, region)):
            np.testing.assert_array_equal(values, expected[window])
    found = augment(image, semantic, region, Script(PLAIN, 0, 1.0, 1.0), crop_size=8, **KEEP)
    np.testing.assert_array_equal(found[1], semantic[4:, 1:])


def test_the_published_crop_never_starts_at_the_last_position():
    image, semantic, region = picture(12, 9)
    generator = Script(PLAIN, 0, 0.9999, 0.9999)
    found = augment(image, semantic, region, generator, crop_size=8, official=True, **KEEP)
    assert generator.asked[2:] == [(0, 4), (0, 1)]
    np.testing.assert_array_equal(found[1], semantic[3:11, :8])


@pytest.mark.parametrize("draw, is_grey", [(0.29, True), (0.3, False)])
def test_grey(draw, is_grey):
    image, semantic, region = picture(9, 9)
    found = augment(image, semantic, region, Script(PLAIN, 0, 0, 0, draw), crop_size=9, grey_probability=0.3, **KEEP)
    grey = 0.3 * image[..., 0] + 0.59 * image[..., 1] + 0.11 * image[..., 2]
    np.testing.assert_allclose(found[0], np.stack([grey] * 3, -1) if is_grey else image, atol=1e-6)
    np.testing.assert_array_equal(found[1], semantic)


def test_blur():
    image, semantic, region = picture(9, 9)
    generator = Script(PLAIN, 0, 0, 0, 0.9, 0.49, 0.2)
    found = augment(image, semantic, region, generator, crop_size=9, grey_probability=0.3, blur_probability=0.5, **KEEP)
    assert generator.asked[4:] == [(0, 1), (0, 1), (0.1, 5.0)]
    sigma = 0.1 + 0.2 * 4.9
    expected, total = np.zeros_like(image, dtype=np.float64), 0.0
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            weight = np.exp(-(dx**2 + dy**2) / sigma**2)
            total += weight
            reflected = [[abs(i + d) if i + d < 9 else 16 - i - d for i in range(9)] for d in (dy, dx)]
            expected += weight * image[np.ix_(*reflected)]
    np.testing.assert_allclose(found[0], expected / total, atol=1e-5)
    np.testing.assert_array_equal(found[2], region)
    generator = Script(PLAIN, 0, 0, 0, 0.5)
    found = augment(image, semantic, region, generator, crop_size=9, blur_probability=0.5, **KEEP)
    np.testing.assert_array_equal(found[0], image)
    assert not generator.fractions, "no sigma where nothing is blurred"


def test_a_generator_of_numpy_decides_everything():
    image, semantic, region = picture(20, 23)
    options = {"crop_size": 16, "grey_probability": 0.3, "blur_probability": 0.5}
    runs = [augment(image, semantic, region, np.random.default_rng(seed), **options) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert not np.array_equal(runs[0][0], runs[2][0])
    assert runs[2][0].shape == (16, 16, 3) and runs[2][0].dtype == np.float32


@pytest.mark.parametrize(
    "draw, official, expected",
    [(0.49, False, [0, 2, 5, 20, 255]), (0.5, False, [0, 3, 4, 20, 255]), (0.5, True, [0, 2, 5, 20, 255])],
)
def test_tags_are_the_values_of_the_whole_map_swapped_as_its_pixels(draw, official, expected):
    image, semantic, region = picture(9, 9)
    semantic[:] = 20
    semantic[0, :4] = [0, 2, 5, 255]
    options = {"crop_size": 4, "flip_pairs": LEFT_RIGHT_PARTS, "official": official}
    found = augment(image, semantic, region, Script(draw, 0, 0.99, 0.99), **options, **KEEP)
    assert found[3].tolist() == expected and (found[1] == 20).all()
