"""Points, boxes and tags drawn from dense truth."""

import numpy as np
import pytest

from weakseg.labels import boxes_from_masks, sample_points, tags_from_masks

MASKS = np.zeros((4, 5, 7), dtype=bool)
MASKS[0, 1:4, 2:6] = True
MASKS[1, 4, 6] = True
MASKS[3, 0, :] = MASKS[3, :, 0] = True


@pytest.mark.parametrize("count", [1, 3, 11, 100])
def test_points_are_distinct_pixel_centres_of_their_mask(count):
    points = sample_points(MASKS, count, np.random.default_rng(0))
    assert [len(p) for p in points] == [min(count, n) for n in (12, 1, 0, 11)]
    for mask, coords in zip(MASKS, points):
        assert coords.dtype == np.float32 and coords.shape[1] == 2
        np.testing.assert_array_equal(coords % 1, 0.5)
        x, y = coords.astype(int).T
        assert mask[y, x].all() and len(set(zip(x, y))) == len(coords)


def test_every_pixel_is_as_likely():
    generator = np.random.default_rng(0)
    counts = np.zeros((5, 7))
    for _ in range(3000):
        ((x, y),) = sample_points(MASKS[:1], 1, generator)[0].astype(int)
        counts[y, x] += 1
    assert (counts[~MASKS[0]] == 0).all()
    # 3000 draws of 12 pixels: mean 250, standard deviation 15.1
    assert np.abs(counts[MASKS[0]] - 250).max() < 4 * 15.1


def test_the_generator_decides():
    first = sample_points(MASKS, 2, np.random.default_rng(5))
    second = sample_points(MASKS, 2, np.random.default_rng(5))
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, sample_points(MASKS, 2, np.random.default_rng(6))))
    # the same stream goes on from segment to segment, in the order of the file
    generator = np.random.default_rng(5)
    np.testing.assert_array_equal(sample_points(MASKS[:1], 2, generator)[0], first[0])
    np.testing.assert_array_equal(sample_points(MASKS[3:], 2, generator)[0], first[3])


def test_boxes_enclose_pixels():
    assert boxes_from_masks(MASKS).tolist() == [[2, 1, 6, 4], [6, 4, 7, 5], [0, 0, 0, 0], [0, 0, 7, 5]]
    assert boxes_from_masks([]).shape == (0, 4)


def test_tags_are_the_classes_with_a_pixel():
    assert tags_from_masks(MASKS, [7, 2, 5, 7]) == [2, 7]
    assert tags_from_masks([], []) == [] and sample_points([], 1, np.random.default_rng(0)) == []
