"""Scribbles drawn, shortened and sampled: against distances by hand, lengths, and the masks they come from."""

import numpy as np
import pytest

from hostile import refused
from weakseg.labels.scribbles import (
    POINT_DIAMETER,
    draw_scribbles,
    sample_interior_points,
    sample_scribbles,
    shortened,
)
from weakseg.safe_io import read_label_png


def slow_map(scribbles, values, size, unlabelled, width):
    """Every pixel against every segment, sampled densely."""
    drawn = np.full(size, unlabelled)
    for line, value in zip(scribbles, values):
        vertices = np.asarray(line, float)
        steps = np.linspace(0, 1, 2001)[:, None]
        dense = [a + steps * (b - a) for a, b in zip(vertices, vertices[1:])] or [vertices]
        dense = np.concatenate(dense)
        for y in range(size[0]):
            for x in range(size[1]):
                if np.linalg.norm(dense - (x + 0.5, y + 0.5), axis=1).min() <= width / 2 + 1e-9:
                    drawn[y, x] = value
    return drawn


@pytest.mark.parametrize("width", [1.0, 3.0, 4.2])
def test_lines_by_distance(width):
    scribbles = [[[2.3, 3.1], [10.7, 6.2], [9.0, 13.9]], [[0.5, 8.5], [14.5, 8.5]], [[12.0, -3.0], [18.0, 2.0]]]
    found = draw_scribbles(scribbles, [4, 0, 2], (15, 16), unlabelled=21, width=width)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, slow_map(scribbles, [4, 0, 2], (15, 16), 21, width))


def test_a_line_is_three_pixels_wide_and_later_ones_lie_above():
    found = draw_scribbles([[[1.5, 3.5], [8.5, 3.5]], [[4.5, 0.5], [4.5, 8.5]]], [1, 2], (9, 10), unlabelled=9)
    assert found[:, 7].tolist() == [9, 9, 1, 1, 1, 9, 9, 9, 9]
    assert found[3].tolist() == [1, 1, 1, 2, 2, 2, 1, 1, 1, 1]


def test_a_point_is_a_disc():
    found = draw_scribbles([[[5.5, 4.5]]], [1], (9, 11), unlabelled=0, width=POINT_DIAMETER)
    y, x = np.mgrid[:9, :11]
    np.testing.assert_array_equal(found, (x - 5) ** 2 + (y - 4) ** 2 <= 9)
    corner = draw_scribbles([[[0.0, 0.0]], [[50.0, 50.0]]], [1, 2], (9, 11), unlabelled=0, width=POINT_DIAMETER)
    np.testing.assert_array_equal(corner, (x + 0.5) ** 2 + (y + 0.5) ** 2 <= 9)


def test_no_scribble_leaves_everything_unlabelled():
    assert (draw_scribbles([], [], (2, 3), unlabelled=21) == 21).all()


def length(line):
    return np.linalg.norm(np.diff(line, axis=0), axis=1).sum()


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.8])
def test_a_shortened_scribble_is_a_contiguous_part(fraction):
    line = np.array([[0.5, 0.5], [6.5, 0.5], [6.5, 4.5], [9.5, 8.5]])
    whole = length(line)  # 6 + 4 + 5
    starts = []
    for seed in range(20):
        part = shortened(line, fraction, np.random.default_rng(seed))
        assert length(part) == pytest.approx(fraction * whole)
        # The way from the first vertex to a point of the line, by which leg the point lies on.
        ways = [
            x - 0.5 if y == 0.5 else 6 + y - 0.5 if x == 6.5 and y <= 4.5 else 10 + np.hypot(x - 6.5, y - 4.5)
            for x, y in part
        ]
        assert (np.diff(ways) > 0).all() and ways[-1] - ways[0] == pytest.approx(fraction * whole)
        starts.append(ways[0])
        inner = [tuple(vertex) for vertex in line[1:3] if tuple(vertex) in map(tuple, part[1:-1])]
        assert len(inner) == len(part) - 2
    assert min(starts) < 0.2 * (1 - fraction) * whole and max(starts) > 0.8 * (1 - fraction) * whole


def test_whole_scribbles_single_points_and_length_zero():
    line = np.array([[0.5, 0.5], [4.5, 0.5], [4.5, 2.5]])
    np.testing.assert_allclose(shortened(line, 1.0, np.random.default_rng(0)), line)
    points = [shortened(line, 0.0, np.random.default_rng(seed)) for seed in range(20)]
    assert {point.shape for point in points} == {(1, 2)}
    assert all(y == 0.5 or x == 4.5 for ((x, y),) in points) and len({tuple(point[0]) for point in points}) == 20
    dot = shortened(np.array([[3.5, 2.5]]), 0.5, np.random.default_rng(0))
    assert (dot == (3.5, 2.5)).all() and len(dot) >= 1
    refused("a length from 0 to 1; found 1.5", shortened, line, 1.5, np.random.default_rng(0))


def test_sampled_scribbles_walk_inside_each_part():
    generator = np.random.default_rng(0)
    for size in (1, 2, 3, 5, 9, 16):
        for _ in range(20):
            mask = generator.random((size, size + 1)) < 0.7
            (lines,) = sample_scribbles([mask], generator)
            pixels = [np.floor(line).astype(int) for line in lines]
            for line, walk in zip(lines, pixels):
                assert line.dtype == np.float32 and (line - walk == 0.5).all()
                assert mask[walk[:, 1], walk[:, 0]].all()
                assert (np.abs(np.diff(walk, axis=0)).max(axis=1, initial=0) <= 1).all(), "steps to a neighbour"
                assert len({tuple(pixel) for pixel in walk}) == len(walk), "never twice"
            assert len(lines) == parts_by_hand(mask)


def parts_by_hand(mask):
    """Number of connected parts by flooding over 8 neighbours."""
    left, parts = {tuple(pixel) for pixel in np.argwhere(mask)}, 0
    while left:
        parts += 1
        waiting = [left.pop()]
        while waiting:
            y, x = waiting.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            waiting += near
    return parts


def test_the_scribble_of_a_bar_runs_along_its_middle():
    mask = np.zeros((20, 60), bool)
    mask[5:14, 4:56] = True
    ((line,),) = sample_scribbles([mask], np.random.default_rng(0))
    middle = line[5:-5]
    assert len(line) > 40 and (middle[:, 1] == 9.5).all(), "row 9 of rows 5..13"
    first = sample_scribbles([mask], np.random.default_rng(1))[0][0]
    np.testing.assert_array_equal(first, sample_scribbles([mask], np.random.default_rng(1))[0][0])


def test_interior_points_lie_deepest():
    mask = np.zeros((12, 20), bool)
    mask[2:9, 3:10] = True  # deepest: its centre
    mask[0, 15:18] = True  # three pixels that are as deep as each other
    found = [sample_interior_points([mask], np.random.default_rng(seed))[0] for seed in range(20)]
    assert all(points.shape == (2, 2) and points.dtype == np.float32 for points in found)
    ordered = [sorted(map(tuple, points)) for points in found]
    assert {points[0] for points in ordered} == {(6.5, 5.5)}
    assert {points[1] for points in ordered} == {(15.5, 0.5), (16.5, 0.5), (17.5, 0.5)}
    full = sample_interior_points([np.ones((7, 7), bool)], np.random.default_rng(0))[0]
    np.testing.assert_array_equal(full, [[3.5, 3.5]], err_msg="the border of the image is outside")


def test_an_empty_mask_gives_nothing():
    empty = np.zeros((4, 5), bool)
    assert sample_scribbles([empty], np.random.default_rng(0)) == [[]]
    assert sample_interior_points([empty], np.random.default_rng(0))[0].shape == (0, 2)


def test_masks_of_real_photos(data_dir):
    generator = np.random.default_rng(0)
    for photo in ("2007_000720", "2007_002088"):
        truth = read_label_png(data_dir / f"voc/SegmentationClass/{photo}.png")
        classes = [c for c in np.unique(truth) if c != 255]
        lines = sample_scribbles([truth == c for c in classes], generator)
        values = [c for c, own in zip(classes, lines) for _ in own]
        drawn = draw_scribbles([line for own in lines for line in own], values, truth.shape, unlabelled=21)
        labelled = drawn != 21
        assert set(np.unique(drawn)) == {*classes, 21}
        assert 0.001 < labelled.mean() < 0.1
        assert ((drawn == truth) | (truth == 255))[labelled].mean() > 0.9
