"""Structured edges: a random forest votes for edge pixels, patch by patch (Point2Mask card, section 3.5).

Reads an image as the detector of OpenCV's ximgproc module does, whose forest files it takes.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from weakseg.proposals.structured_features import edge_features, grown_to_cells, smooth
from weakseg.proposals.structured_forest import Forest, ForestOptions, read_forest, write_forest

__all__ = [
    "Forest",
    "ForestOptions",
    "detect_edges",
    "edge_features",
    "edge_orientation",
    "read_forest",
    "structured_edges",
    "suppress_non_maxima",
]

_SUPPRESSION_RADIUS = 2


def structured_edges(image: np.ndarray, forest: Forest, *, engine: str = "numpy") -> np.ndarray:
    """Thin edges of an image, the evidence of Point2Mask's low-level edges.

    image (H, W, 3) RGB, uint8 or float32 in [0, 1]; `engine` as in `detect_edges`. Returns (H, W) float32 in [0, 2],
    seldom above 1, and 0 off the ridges of the detected edges.
    """
    edges = detect_edges(image, forest, engine=engine)
    if engine == "cv2":
        detector = _opencv_detector(forest)
        return detector.edgesNms(edges, detector.computeOrientation(edges), r=_SUPPRESSION_RADIUS, s=0, m=1)
    return suppress_non_maxima(edges, edge_orientation(edges, forest.options.gradient_normalization_radius))


def detect_edges(image: np.ndarray, forest: Forest, *, engine: str = "numpy") -> np.ndarray:
    """Strength of edges before non-maximum suppression (Point2Mask card, section 3.5, steps 1 to 6).

    image (H, W, 3) RGB, uint8 or float32 in [0, 1]. `engine`: "numpy", or "cv2" for the detector in OpenCV's
    contributed modules, where they are installed. Returns (H, W) float32, 0 for an image that no patch lies on.
    """
    if engine not in ("numpy", "cv2"):
        raise ValueError(f"expected the engine numpy or cv2; found {engine!r}. Choose one of them.")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype not in (np.uint8, np.float32):
        raise ValueError(
            f"expected an image (H, W, 3) of uint8, or of float32 in [0, 1]; found {image.shape} of {image.dtype}. "
            "Convert it to RGB with at least one pixel."
        )
    rgb = np.ascontiguousarray(image if image.dtype == np.float32 else image.astype(np.float32) / 255)
    grown = grown_to_cells(rgb, forest.options)
    grid = _grid(grown.shape[:2], forest.options)
    if 0 in grid:
        return np.zeros(image.shape[:2], np.float32)
    edges = _opencv_detector(forest).detectEdges(grown) if engine == "cv2" else _voted_edges(grown, grid, forest)
    return np.ascontiguousarray(edges[: image.shape[0], : image.shape[1]])


def edge_orientation(edges: np.ndarray, radius: int) -> np.ndarray:
    """Direction across the edge at each pixel, from the second derivatives of the smoothed map (step 7).

    edges (H, W) float32; `radius` of the smoothing: the option `gradient_normalization_radius` of the forest. Returns
    (H, W) float32 in [0, pi], from the x axis towards the y axis.
    """
    smoothed = smooth(edges, radius)
    xx, xy, yy = (cv2.Sobel(smoothed, cv2.CV_32F, *order) for order in ((2, 0), (1, 1), (0, 2)))
    angle = np.arctan(yy * -np.sign(xy) / (xx.astype(np.float64) + 1e-5))
    return np.where(angle > 0, angle, (angle + np.pi) % np.pi).astype(np.float32)


def suppress_non_maxima(edges: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """`edges` with 0 where a value one or two pixels away along `orientation` is larger (step 8).

    edges (H, W) float32; orientation (H, W) in radians, as from `edge_orientation`. Returns (H, W) float32.
    Values between pixels are bilinear; beyond the border they are those at the border.
    """
    rows, columns = np.nonzero(edges)
    strength, angle = edges[rows, columns], orientation[rows, columns]
    across, down = np.cos(angle), np.sin(angle)
    largest = np.zeros_like(strength)
    for distance in (*range(-_SUPPRESSION_RADIUS, 0), *range(1, _SUPPRESSION_RADIUS + 1)):
        np.maximum(largest, _bilinear(edges, columns + distance * across, rows + distance * down), out=largest)
    thin = np.zeros_like(edges)
    thin[rows, columns] = np.where(largest > strength, 0, strength)
    return thin


def _bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    height, width = image.shape
    x = np.clip(x.astype(np.float32), 0, max(width - 1.001, 0))
    y = np.clip(y.astype(np.float32), 0, max(height - 1.001, 0))
    left, top = x.astype(np.int64), y.astype(np.int64)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    x, y = x - left.astype(np.float32), y - top.astype(np.float32)
    upper = image[top, left] * (1 - x) * (1 - y) + image[top, right] * x * (1 - y)
    return upper + image[below, left] * (1 - x) * y + image[below, right] * x * y


def _grid(size: tuple[int, ...], options: ForestOptions) -> tuple[int, int]:
    """Rows and columns of the patches on an image of `size` (H, W)."""
    border, shrink = options.patch_size - options.patch_inner_size, options.shrink_number
    spare = (round((side + border) / shrink) * shrink - options.patch_size for side in size)
    rows, columns = (max(0, -(-pixels // options.stride)) for pixels in spare)
    return rows, columns


def _voted_edges(image: np.ndarray, grid: tuple[int, int], forest: Forest) -> np.ndarray:
    options = forest.options
    border = (options.patch_size - options.patch_inner_size) // 2
    padded = cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_REFLECT)
    leaves = _leaves(edge_features(padded, options), grid, forest)
    votes = _votes(leaves, forest)[: image.shape[0], : image.shape[1]]
    weight = 2 * options.stride**2 / options.patch_inner_size**2 / options.number_of_trees_to_evaluate
    edges = np.zeros(image.shape[:2], np.float32)
    edges[: votes.shape[0], : votes.shape[1]] = votes * weight
    return smooth(edges, 1)


def _leaves(features: np.ndarray, grid: tuple[int, int], forest: Forest) -> np.ndarray:
    """The leaf `tree * nodes + node` that each evaluated tree comes to at each location of the grid of patches.

    features (h, w, channels). Returns (trees to evaluate, *grid) integers.
    """
    options, nodes = forest.options, forest.children.shape[1]
    planes = [
        np.moveaxis(smooth(features, round(radius / options.shrink_number)), 2, 0).ravel()
        for radius in (options.reg_feature_smoothing_radius, options.ss_feature_smoothing_radius)
    ]
    values = np.concatenate(planes)
    first, second = _offsets(forest, features.shape[:2])
    row, column = np.ogrid[: grid[0], : grid[1]]
    corners = row * options.stride // options.shrink_number * features.shape[1]
    corners = corners + column * options.stride // options.shrink_number
    evaluated = np.arange(options.number_of_trees_to_evaluate)[:, None, None]
    trees = ((row + column) % (2 * len(evaluated)) + evaluated) % options.number_of_trees
    # A child of 0 stays 0 at a leaf, so that the way on is known from one array of indices into all trees.
    children = np.where(forest.children == 0, 0, forest.children + np.arange(len(forest.children))[:, None] * nodes)
    children, thresholds = children.ravel(), forest.thresholds.ravel()
    leaves = (trees * nodes).ravel()
    active, node, corner = np.arange(leaves.size), leaves, np.broadcast_to(corners, trees.shape).ravel()
    while active.size:
        child = children[node]
        inner = child != 0
        leaves[active] = node
        active, node, corner, child = active[inner], node[inner], corner[inner], child[inner]
        value = values[corner + first[node]]
        pair = np.flatnonzero(second[node] >= 0)
        value[pair] -= values[corner[pair] + second[node[pair]]]
        node = child - (value < thresholds[node])
    return leaves.reshape(trees.shape)


def _offsets(forest: Forest, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where each node looks, counted from the corner of a patch in the planes of the two smoothed copies, one after the
    other: (trees * nodes,) of the value, and of the value to be subtracted, or -1 where there is none."""
    options, ids = forest.options, forest.feature_ids.ravel().astype(np.int64)
    plane, cells, side = size[0] * size[1], options.cells, options.selfsimilarity_grid_size
    channel, cell = np.divmod(ids, cells**2)
    single = channel * plane + cell % cells * size[1] + cell // cells
    half = round(cells / (2 * side))
    spread = np.floor((np.arange(side) + 1) * (cells + 2 * half - 1) / (side + 1) - half + 0.5).astype(np.int64)
    place = np.arange(side**2)
    place = spread[place % side] * size[1] + spread[place // side]
    first, second = single, np.full_like(single, -1)
    pairs = np.flatnonzero(ids >= options.patch_features)
    if len(pairs):  # there are none on a grid of one cell
        channel, pair = np.divmod(ids[pairs] - options.patch_features, options.cell_pairs)
        base = (channel + options.channels) * plane
        first[pairs], second[pairs] = (base + place[cell][pair] for cell in np.triu_indices(side**2, 1))
    return first, second


def _votes(leaves: np.ndarray, forest: Forest) -> np.ndarray:
    """Number of votes for each pixel, from the upper left corner of the image to the last pixel of the last patch."""
    inner, stride = forest.options.patch_inner_size, forest.options.stride
    height, width = ((side - 1) * stride + inner for side in leaves.shape[1:])
    corners = (np.arange(leaves.shape[1])[:, None] * width + np.arange(leaves.shape[2])).ravel() * stride
    # Column after column of the inner patch, channel after channel; the channels are summed.
    bins = forest.edge_bins % inner * width + forest.edge_bins % inner**2 // inner
    votes = np.zeros(height * width, np.int64)
    for leaf in leaves.reshape(len(leaves), -1):  # a tree at a time, as the list of all votes is long
        begin = forest.edge_boundaries[leaf]
        count = forest.edge_boundaries[leaf + 1] - begin
        ends = count.cumsum()
        votes_of_tree = np.repeat(begin - ends + count, count) + np.arange(ends[-1])
        votes += np.bincount(np.repeat(corners, count) + bins[votes_of_tree], minlength=votes.size)
    return votes.reshape(height, width)


def _opencv_detector(forest: Forest):
    """OpenCV's detector with this forest; made once, as it reads a file of megabytes."""
    if not hasattr(cv2, "ximgproc"):
        raise ValueError(
            f"expected OpenCV with the module ximgproc for the engine cv2; found {cv2.__version__} without it. Install "
            "opencv-contrib-python-headless, or choose the engine numpy."
        )
    return _detector_of(forest)


@lru_cache(maxsize=1)
def _detector_of(forest: Forest):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.yml.gz"
        write_forest(path, forest)
        return cv2.ximgproc.createStructuredEdgeDetection(str(path))
