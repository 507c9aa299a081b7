"""Scribbles and points: drawn into a label map, shortened, and drawn from dense truth with a seed (SPML card 6)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.measure import label, regionprops
from skimage.morphology import skeletonize

SCRIBBLE_WIDTH = 3.0
"""Width in pixels with which scribbles are drawn."""
POINT_DIAMETER = 6.0
"""Diameter in pixels of the disc that a point is drawn as."""


def draw_scribbles(
    scribbles: Sequence[np.ndarray],
    values: Sequence[int],
    size: tuple[int, int],
    *,
    unlabelled: int,
    width: float = SCRIBBLE_WIDTH,
) -> np.ndarray:
    """Label map (H, W) uint8 of poly-lines: later ones over earlier ones, `unlabelled` where none is.

    scribbles: (L, 2) each, vertices (x, y) in continuous pixels; values: one for each; size (H, W). A pixel belongs to
    a line when its centre is at most width / 2 away from it; a line of one vertex is a disc, which with
    `width=POINT_DIAMETER` is how points are drawn.
    """
    drawn = np.full(size, unlabelled, dtype=np.uint8)
    for line, value in zip(scribbles, values, strict=True):
        vertices = np.asarray(line, dtype=np.float64).reshape(-1, 2).tolist()
        for start, end in zip(vertices, vertices[1:] or vertices):
            _draw_segment(drawn, start, end, value, width / 2)
    return drawn


def shortened(scribble: np.ndarray, fraction: float, generator: np.random.Generator) -> np.ndarray:
    """A contiguous part of a scribble (L, 2) of `fraction` of its length, at a place that is uniform in what is left;
    for 0 one point (1, 2) of it. Which part the published shortened scribbles keep is not documented."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"shortened scribbles: expected a length from 0 to 1; found {fraction}. Correct it.")
    at_vertex = np.concatenate([[0.0], np.linalg.norm(np.diff(scribble, axis=0), axis=1).cumsum()])
    start = generator.uniform(0.0, (1 - fraction) * at_vertex[-1])
    stop = start + fraction * at_vertex[-1]
    ends = np.stack([np.interp([start, stop], at_vertex, scribble[:, axis]) for axis in (0, 1)], axis=1)
    if fraction == 0 or at_vertex[-1] == 0:
        return ends[:1]
    return np.concatenate([ends[:1], scribble[(at_vertex > start) & (at_vertex < stop)], ends[1:]])


def sample_scribbles(masks: Iterable[np.ndarray], generator: np.random.Generator) -> list[list[np.ndarray]]:
    """For each mask (H, W) bool one scribble for each of its connected parts (8 neighbours): a random walk along the
    skeleton, (L, 2) float32 as (x, y) at pixel centres.

    The walk starts at an end of the skeleton, where it has one, goes on to a random neighbour that it has not been at,
    and stops where there is none.
    """
    return [
        [_walk(skeletonize(part), generator) + np.array(corner, np.float32) for part, corner in _parts(mask)]
        for mask in masks
    ]


def sample_interior_points(masks: Iterable[np.ndarray], generator: np.random.Generator) -> list[np.ndarray]:
    """For each mask (H, W) bool one pixel of each of its connected parts (8 neighbours), one of those that lie deepest
    inside: (P, 2) float32 as (x, y) at pixel centres."""
    points = []
    for mask in masks:
        inside = [_random_deepest(part, generator) + corner for part, corner in _parts(mask)]
        points.append(np.array(inside, dtype=np.float32).reshape(-1, 2) + np.float32(0.5))
    return points


def _draw_segment(drawn: np.ndarray, start: list[float], end: list[float], value: int, radius: float) -> None:
    """Set the pixels of a map (H, W) whose centres are at most `radius` away from the segment of two points (x, y)."""
    columns, rows = (
        slice(max(math.floor(min(ends) - radius), 0), min(max(math.ceil(max(ends) + radius), 0), side))
        for ends, side in zip(zip(start, end), drawn.shape[::-1])
    )
    x = np.arange(columns.start, columns.stop) + 0.5 - start[0]
    y = np.arange(rows.start, rows.stop)[:, None] + 0.5 - start[1]
    right, down = end[0] - start[0], end[1] - start[1]
    along = ((x * right + y * down) / max(right**2 + down**2, 1e-12)).clip(0, 1)
    drawn[rows, columns][(x - along * right) ** 2 + (y - along * down) ** 2 <= radius**2] = value


def _parts(mask: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """The connected parts of a mask: (h, w) bool in their tight box, and its corner (x, y)."""
    for part in regionprops(label(mask, connectivity=2)):
        yield part.image, (part.bbox[1], part.bbox[0])


def _random_deepest(part: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(x, y) of a pixel with the largest distance to what is outside; the border of the box is outside."""
    depth = distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    return generator.choice(np.argwhere(depth == depth.max()))[::-1]


def _walk(skeleton: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Pixel centres (L, 2) float32 as (x, y) along a skeleton (h, w) bool that has a pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(skeleton)}
    every = sorted(left)
    ends = [pixel for pixel in every if len(_neighbours(pixel, left)) <= 1]
    candidates, walk = ends or every, []
    while candidates:
        pixel = candidates[generator.integers(len(candidates))]
        walk.append(pixel)
        left.remove(pixel)
        candidates = _neighbours(pixel, left)
    return np.array(walk, dtype=np.float32)[:, ::-1] + np.float32(0.5)


def _neighbours(pixel: tuple[int, int], pixels: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """The 8 neighbours of a pixel (y, x) that are among `pixels`."""
    y, x = pixel
    around = ((y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right)
    return [neighbour for neighbour in around if neighbour in pixels]
