"""Structured edges: the card's words as loops, OpenCV's own detector, ridges drawn by hand."""

import cv2
import numpy as np
import pytest

from hostile import refused
from proposals.forests import OPTIONS, random_forest, random_image, slow_smooth
from weakseg.proposals.structured_edges import (
    ForestOptions,
    detect_edges,
    edge_features,
    edge_orientation,
    structured_edges,
    suppress_non_maxima,
)
from weakseg.safe_io import read_image

SMALL = ForestOptions(2, 2, 12, 8, 3, 0, 2, 4, 2, 2, 3, 2)
"""Every option that may differ from the published ones does."""


def slow_votes(image: np.ndarray, forest) -> np.ndarray:
    """Steps 4 to 6 of the card, one location, tree and vote after the other."""
    options = forest.options
    border = (options.patch_size - options.patch_inner_size) // 2
    features = edge_features(cv2.copyMakeBorder(image, *[border] * 4, cv2.BORDER_REFLECT), options).astype(np.float64)
    shrink, stride, inner = options.shrink_number, options.stride, options.patch_inner_size
    radii = options.reg_feature_smoothing_radius, options.ss_feature_smoothing_radius
    regular, similar = (
        np.stack([slow_smooth(plane, round(radius / shrink)) for plane in features.transpose(2, 0, 1)])
        for radius in radii
    )
    side, grid = options.patch_size // shrink, options.selfsimilarity_grid_size
    half = round(side / (2 * grid))
    at = [int(np.floor((t + 1) * (side + 2 * half - 1) / (grid + 1) - half + 0.5)) for t in range(grid)]
    pairs = [
        (channel, first, second)
        for channel in range(options.channels)
        for first in range(grid**2)
        for second in range(first + 1, grid**2)
    ]
    votes = np.zeros(image.shape[:2])
    trees, nodes = forest.children.shape
    for i in range(int(np.ceil((features.shape[0] * shrink - options.patch_size) / stride))):
        for j in range(int(np.ceil((features.shape[1] * shrink - options.patch_size) / stride))):
            top, left = i * stride // shrink, j * stride // shrink
            for k in range(options.number_of_trees_to_evaluate):
                tree = ((i + j) % (2 * options.number_of_trees_to_evaluate) + k) % trees
                node = 0
                while child := forest.children[tree, node]:
                    feature = forest.feature_ids[tree, node]
                    if feature < side * side * options.channels:
                        channel, y, x = feature // side**2, feature % side**2 // side, feature % side
                        value = regular[channel, top + x, left + y]
                    else:
                        channel, a, b = pairs[feature - side * side * options.channels]
                        value = similar[channel, top + at[a % grid], left + at[a // grid]]
                        value -= similar[channel, top + at[b % grid], left + at[b // grid]]
                    node = child - 1 if value < forest.thresholds[tree, node] else child
                leaf = tree * nodes + node
                for vote in forest.edge_bins[forest.edge_boundaries[leaf] : forest.edge_boundaries[leaf + 1]]:
                    votes[i * stride + vote % inner, j * stride + vote % inner**2 // inner] += 1
    return slow_smooth(votes * 2 * stride**2 / inner**2 / options.number_of_trees_to_evaluate, 1)


@pytest.mark.parametrize("size", [(16, 20), (18, 19)])
@pytest.mark.parametrize("channels", [1, 3])
def test_votes_are_those_of_the_loops(size, channels):
    forest = random_forest(SMALL, depth=4, seed=size[1], vote_channels=channels)
    image = random_image(*size, seed=3)
    edges = detect_edges(image, forest)
    assert edges.shape == size and edges.dtype == np.float32 and edges.max() > 0.1
    np.testing.assert_allclose(edges, slow_votes(image, forest), atol=1e-5)


needs_ximgproc = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="needs OpenCV with its contributed modules")
OTHERS = {
    "published": OPTIONS,
    "smoothed gradients": ForestOptions(2, 2, 32, 16, 6, 2, 4, 6, 3, 4, 3, 2),
    "no smoothing": ForestOptions(2, 2, 16, 8, 4, 0, 0, 4, 2, 3, 5, 3),
    "shrunk to a quarter": ForestOptions(4, 4, 32, 16, 4, 0, 4, 8, 4, 5, 4, 2),
    "no pairs of cells": ForestOptions(2, 2, 16, 8, 4, 0, 2, 8, 4, 1, 4, 2),
    "not shrunk": ForestOptions(2, 1, 8, 4, 4, 0, 1, 2, 4, 2, 4, 1),
}


@needs_ximgproc
@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("size", [(40, 52), (41, 55), (45, 49)])  # 41, 45 and 49 leave pixels in no cell
def test_both_engines_find_the_same_edges_in_noise(options, size):
    forest, image = random_forest(options, depth=5), random_image(*size)
    same_edges(image, forest)


@needs_ximgproc
def test_both_engines_find_the_same_edges_in_photos(data_dir):
    photos = sorted(data_dir.rglob("*.jpg"))
    forest = random_forest(OPTIONS, depth=7)
    for path in photos[:: max(1, len(photos) // 3)][:3]:
        same_edges(read_image(path)[-161:, -214:], forest)


def same_edges(image: np.ndarray, forest) -> None:
    """Equal at all pixels but 1 %: a feature at a threshold moves up to one patch of votes."""
    ours, theirs = (detect_edges(image, forest, engine=engine) for engine in ("numpy", "cv2"))
    assert theirs.max() > 0.1 and (np.abs(ours - theirs) > 1e-6).mean() <= 0.01
    ours, theirs = (structured_edges(image, forest, engine=engine) for engine in ("numpy", "cv2"))
    assert ours.dtype == theirs.dtype == np.float32 and ours.shape == theirs.shape == image.shape[:2]
    assert (theirs > 0).any() and (np.abs(ours - theirs) > 1e-6).mean() <= 0.01


def test_structured_edges_are_the_detected_edges_made_thin():
    forest, image = random_forest(OPTIONS, depth=5), random_image(40, 44)
    edges = detect_edges(image, forest)
    thin = structured_edges(image, forest)
    kept = thin > 0
    assert 0.02 < kept.mean() < 0.6 * (edges > 0).mean()
    np.testing.assert_array_equal(thin[kept], edges[kept])
    radius = OPTIONS.gradient_normalization_radius
    np.testing.assert_array_equal(thin, suppress_non_maxima(edges, edge_orientation(edges, radius)))


def test_a_photo_of_bytes_is_the_photo_divided_by_255():
    forest = random_forest(OPTIONS, depth=4)
    image = (random_image(36, 40) * 255).astype(np.uint8)
    divided = structured_edges(image.astype(np.float32) / np.float32(255), forest)
    np.testing.assert_array_equal(structured_edges(image, forest), divided)
    reversed_view = structured_edges(image[..., ::-1], forest)
    np.testing.assert_array_equal(reversed_view, structured_edges(image[..., ::-1].copy(), forest))
    assert (reversed_view != divided).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (16, 16), (60, 16)])
@pytest.mark.parametrize("engine", ["numpy", pytest.param("cv2", marks=needs_ximgproc)])
def test_an_image_without_a_patch_has_no_edges(size, engine):
    forest = random_forest(OPTIONS, depth=2)
    edges = structured_edges(random_image(*size), forest, engine=engine)
    assert edges.shape == size and edges.dtype == np.float32 and not edges.any()
    assert detect_edges(random_image(17, 18), forest).any()


@pytest.mark.parametrize(
    "image",
    [np.zeros((9, 9), np.uint8), np.zeros((3, 9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)],
)
def test_what_is_no_image_is_refused(image):
    message = refused(r"expected an image \(H, W, 3\)", structured_edges, image, random_forest(OPTIONS, depth=1))
    assert f"found {image.shape} of {image.dtype}" in message


def test_engines_that_are_not_there_are_refused(monkeypatch):
    forest, image = random_forest(OPTIONS, depth=1), random_image(40, 40)
    refused("expected the engine numpy or cv2; found 'torch'", structured_edges, image, forest, engine="torch")
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    message = refused("module ximgproc for the engine cv2; found", structured_edges, image, forest, engine="cv2")
    assert "opencv-contrib-python-headless" in message and "engine numpy" in message


def drawn_ridge(angle: float, size: int = 41) -> np.ndarray:
    """A ridge through the middle whose direction across is `angle` from x towards y."""
    y, x = np.mgrid[:size, :size] - size // 2
    return np.exp(-((x * np.cos(angle) + y * np.sin(angle)) ** 2) / 18).astype(np.float32)


@pytest.mark.parametrize("degrees", [0, 20, 30, 45, 70, 110, 135, 160])
def test_the_tangent_of_the_orientation_is_that_across_the_ridge_squared(degrees):
    """As published: yy / xx of a ridge is the square of the tangent; exact along the axes and the diagonals."""
    tangent = np.tan(np.radians(degrees))
    orientation = edge_orientation(drawn_ridge(np.radians(degrees)), 2)
    expected = np.degrees(np.arctan(np.copysign(tangent**2, tangent)))
    assert abs((np.degrees(orientation[20, 20]) - expected + 90) % 180 - 90) < 1.5
    assert orientation.dtype == np.float32 and orientation.min() >= 0 and orientation.max() <= np.float32(np.pi)


@pytest.mark.parametrize("degrees", [0, 45, 90, 135])
def test_only_the_crest_of_a_ridge_stays(degrees):
    ridge = drawn_ridge(np.radians(degrees))
    thin = suppress_non_maxima(ridge, np.full(ridge.shape, np.radians(degrees), np.float32))
    inside = slice(3, -3)
    crest = ridge > 0.999
    np.testing.assert_array_equal(thin[inside, inside], np.where(crest, ridge, 0)[inside, inside])


def test_suppression_by_hand():
    across, down = np.zeros((1, 7), np.float32), np.full((7, 1), np.pi / 2, np.float32)
    row = np.float32([[1, 2, 3, 3, 2, 0, 1]])
    # Along x: 1 sees 2 and 3; 2 sees 3; both 3 stay; 2 sees 3; the last 1 sees 2 and 0 two and one to its left.
    np.testing.assert_array_equal(suppress_non_maxima(row, across), [[0, 0, 3, 3, 0, 0, 0]])
    far = np.float32([[5, 0, 0, 4, 0, 0, 3]])
    np.testing.assert_array_equal(suppress_non_maxima(far, across), far)
    np.testing.assert_array_equal(suppress_non_maxima(row.T.copy(), down), np.float32([[0, 0, 3, 3, 0, 0, 0]]).T)
    np.testing.assert_array_equal(suppress_non_maxima(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)), 0)
    np.testing.assert_array_equal(suppress_non_maxima(np.float32([[2]]), np.float32([[1]])), [[2]])


def slow_suppression(edges: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    height, width = edges.shape
    thin = edges.copy()
    for row, column in np.ndindex(height, width):
        for distance in (-2, -1, 1, 2):
            y = min(max(row + distance * np.sin(orientation[row, column]), 0), height - 1.001)
            x = min(max(column + distance * np.cos(orientation[row, column]), 0), width - 1.001)
            top, left = int(y), int(x)
            upper = edges[top, left] * (left + 1 - x) + edges[top, left + 1] * (x - left)
            lower = edges[top + 1, left] * (left + 1 - x) + edges[top + 1, left + 1] * (x - left)
            if upper * (top + 1 - y) + lower * (y - top) > edges[row, column]:
                thin[row, column] = 0
    return thin


def test_suppression_is_that_of_the_loops():
    generator = np.random.default_rng(0)
    edges = cv2.GaussianBlur(generator.random((17, 22)).astype(np.float32), (3, 3), 0) - np.float32(0.4)
    edges = edges.clip(0)
    orientation = generator.uniform(0, np.pi, edges.shape).astype(np.float32)
    thin = suppress_non_maxima(edges, orientation)
    assert 0.1 < (thin > 0).mean() < 0.7 * (edges > 0).mean()
    np.testing.assert_array_equal(thin, slow_suppression(edges, orientation))
