"""Points to masks without any training: Point2Mask's transport on colour and edges instead of a network's outputs.

Colour and edges -> costs of steps on a grid of cells -> distance to each target's points (the transport's cost) ->
transport, phase 1 (card 3.4) -> masks. What differs from the card was chosen on photos (docs/grow_points.md).
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weakseg.labels import LabelFile, boxes_from_masks, encode_mask, weak_labels
from weakseg.methods.point2mask.graph import edge_costs
from weakseg.methods.point2mask.transport import transport_labels
from weakseg.refine.graph_distance import graph_distance

CELLS, CELLS_WITH_EDGES = 100, 200
"""Cells along the longer side of an image: larger ones average texture, smaller ones keep thin edges."""
BORDER_PRICE = 0.07
"""Distance from the border of the image to the stuff nearest to it, in parts of the largest distance to a point."""

_SMOOTHING = 1 / 200  # standard deviation of the smoothing of colours, in parts of the longer side of the image
_STEP = 0.02  # price of a step over flat colour; 1 is a full edge, or a change of 100 in CIE Lab
_POWER = 3  # of a step's price: one border between two cells then counts more than many small changes
_NEVER = 10.0  # distance to a target that a negative point keeps away; all others are at most 1 + BORDER_PRICE
_COLOR_SCALE = 0.1  # change of Lab / 100 at which a cell stops to speak for a pixel


@torch.no_grad()
def grow_masks(
    image: np.ndarray,
    points: np.ndarray,
    target: np.ndarray,
    is_stuff: np.ndarray,
    *,
    positive: np.ndarray | None = None,
    edges: np.ndarray | None = None,
    border: bool = True,
    cells: int | None = None,
) -> np.ndarray:
    """The target that owns each pixel: (H, W) int32, -1 for nobody.

    image (H, W, 3) uint8 RGB; points (P, 2) as (x, y) in pixels of the image, inside it; target (P,) 0..N-1;
    is_stuff (N,) bool for the N targets; positive (P,) bool, False for "not this target" (default: all True); edges
    (H, W) in [0, 1]; border: the border of the image is stuff, at a price, where there is any; cells: along the longer
    side of the image, default `CELLS`, with edges `CELLS_WITH_EDGES`.

    A target without a positive point owns nothing. Every pixel has an owner, unless negative points are nearer to it
    than the positive ones of every target. A pixel with a positive point belongs to the (first) target of that point.
    """
    height, width = image.shape[:2]
    cells = cells or (CELLS if edges is None else CELLS_WITH_EDGES)
    scale = min(cells / max(height, width), 1.0)
    grid = max(round(height * scale), 1), max(round(width * scale), 1)
    positive = np.ones(len(points), dtype=bool) if positive is None else np.asarray(positive, dtype=bool)
    target, is_stuff = np.asarray(target, dtype=np.int64), np.asarray(is_stuff, dtype=bool)
    present = np.unique(target[positive])
    owner = np.full((height, width), -1, dtype=np.int32)
    if not len(present):
        return owner

    # float32 can round a coordinate just inside the image up to its side.
    last = (height - 1, width - 1)
    pixel = torch.from_numpy(np.asarray(points).reshape(-1, 2)[:, ::-1].astype(np.int64).clip(max=last))
    place = (2 * pixel + 1) * torch.tensor(grid) // (2 * torch.tensor([height, width]))  # cell of the pixel's centre
    rank = torch.from_numpy(np.searchsorted(present, target))
    taking_part = torch.from_numpy(np.isin(target, present))
    color = _pooled_color(image, grid)
    graph = _graph(color, edges, grid)
    distance = _distances(
        graph,
        place[taking_part],
        rank[taking_part],
        torch.from_numpy(positive)[taking_part],
        torch.from_numpy(is_stuff[present]),
        border=border,
    )
    cost = _upsampled(distance, color, image).flatten(1)
    nearest = cost.min(dim=0)
    demand = (nearest.values < _NEVER / 2).float()
    supply = torch.bincount(nearest.indices[demand > 0], minlength=len(present)).float()
    label = transport_labels(cost, supply, demand).masked_fill(demand == 0, -1).view(height, width).numpy()
    owner[label >= 0] = present[label[label >= 0]]
    for k in np.flatnonzero(positive)[::-1]:
        owner[tuple(pixel[k].tolist())] = target[k]
    return owner


def grow_annotations(
    image: np.ndarray,
    annotations: list[dict],
    labels: LabelFile,
    *,
    edges: np.ndarray | None = None,
    border: bool = True,
) -> tuple[np.ndarray, list[dict]]:
    """`grow_masks` for the annotations of one image of a label file, each a target; `labels` tells the classes.

    Returns the index of the owning annotation (H, W) int32, -1 for nobody, and the annotations with the segmentation,
    bbox and area of what they own in place of any that they had.
    """
    bare = without_masks(annotations)
    classes = [labels.class_index[annotation["category_id"]] for annotation in bare]
    targets = [{**annotation, "category_id": kind} for annotation, kind in zip(bare, classes)]
    weak = weak_labels({"height": image.shape[0], "width": image.shape[1], "annotations": targets})
    owner = grow_masks(
        image,
        weak.points.numpy(),
        weak.point_target.numpy(),
        weak.classes.numpy() >= labels.num_things,
        positive=weak.point_positive.numpy(),
        edges=edges,
        border=border,
    )
    for k, annotation in enumerate(bare):
        mask = owner == k
        if mask.any():
            x0, y0, x1, y1 = boxes_from_masks([mask])[0].tolist()
            annotation["segmentation"] = encode_mask(mask)
            annotation["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            annotation["area"] = int(mask.sum())
    return owner, bare


def without_masks(annotations: list[dict]) -> list[dict]:
    """Copies of the annotations without what `grow_annotations` sets."""
    hidden = ("segmentation", "bbox", "area")
    return [{key: value for key, value in item.items() if key not in hidden} for item in annotations]


def _lab(image: np.ndarray) -> Tensor:
    """CIE Lab / 100 (1, 3, h, w) of an image (h, w, 3), uint8 or in [0, 255]."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) / 100
    return torch.from_numpy(lab).permute(2, 0, 1)[None]


def _pooled_color(image: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Lab / 100 (1, 3, h, w) of the mean smoothed colour of each cell. Adaptive cells mirror with any image."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), _SMOOTHING * max(image.shape[:2]))
    pixels = torch.from_numpy(smooth).permute(2, 0, 1)[None]
    return _lab(F.adaptive_avg_pool2d(pixels, grid)[0].permute(1, 2, 0).numpy())


def _graph(color: Tensor, edges: np.ndarray | None, grid: tuple[int, int]) -> Tensor:
    """Step costs (1, h, w, 8) between cells of `color` (1, 3, h, w); an edge (H, W) counts wherever in a cell it is."""
    boundary = torch.zeros(1, *grid)
    if edges is not None:
        boundary = F.adaptive_max_pool2d(torch.from_numpy(edges.astype(np.float32))[None], grid)
    nothing = torch.zeros(1, 1, *grid)  # an embedding of zeros: lambda_feature is the price of every step
    return edge_costs(color, boundary, nothing, lambda_boundary=1.0, lambda_feature=_STEP) ** _POWER


def _distances(
    graph: Tensor, place: Tensor, rank: Tensor, positive: Tensor, is_stuff: Tensor, *, border: bool
) -> Tensor:
    """Distance (n, h, w) of each cell to each target, in parts of the largest to a positive point.

    graph (1, h, w, 8); place (P, 2) (y, x) cells; rank (P,) the target 0..n-1 of a point; positive (P,); is_stuff (n,).
    """
    targets, (height, width) = len(is_stuff), graph.shape[1:3]

    def search(sources: Tensor, source_map: Tensor) -> Tensor:
        return graph_distance(graph, sources, source_map, maps_per_cost=targets)

    distance = search(place[positive], rank[positive])
    largest = distance.max().clamp(min=torch.finfo(distance.dtype).tiny)
    # Nearness to points alone decides what a negative point keeps: the border below is a guess, the point is not.
    kept_away = search(place[~positive], rank[~positive]) < distance if (~positive).any() else None
    distance = distance / largest
    stuff = is_stuff.nonzero().squeeze(1)
    if border and len(stuff):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        on_border = (y == 0) | (x == 0) | (y == height - 1) | (x == width - 1)
        rim = on_border.nonzero()
        nearest_stuff = stuff[distance[stuff][:, on_border].argmin(dim=0)]
        from_border = search(rim, nearest_stuff) / largest + BORDER_PRICE
        distance = torch.minimum(distance, from_border)  # infinite for a target that has no part of the border
    return distance if kept_away is None else distance.masked_fill(kept_away, _NEVER)


def _upsampled(distance: Tensor, color: Tensor, image: np.ndarray) -> Tensor:
    """Distances (n, H, W) of pixels: of the cells around each pixel, those that are near and of its colour count.

    distance (n, h, w); color (1, 3, h, w) of the cells, Lab / 100; image (H, W, 3). A bilateral filter: a border
    that runs through a cell is drawn where the colour changes.
    """
    (height, width), (rows, columns) = image.shape[:2], distance.shape[1:]
    own = _lab(image)[0]
    y = ((torch.arange(height) + 0.5) * (rows / height) - 0.5)[:, None]
    x = ((torch.arange(width) + 0.5) * (columns / width) - 0.5)[None, :]
    total, weights = distance.new_zeros(len(distance), height, width), distance.new_zeros(height, width)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            row, column = y.round().long() + dy, x.round().long() + dx
            near = (1.5 - (y - row).abs()).clamp(min=0) * (1.5 - (x - column).abs()).clamp(min=0)
            row, column = row.clamp(0, rows - 1), column.clamp(0, columns - 1)
            change = (own - color[0, :, row, column]).square().sum(dim=0)
            # Never 0: a pixel unlike every cell around it takes their mean.
            weight = near * (torch.exp(-change / (2 * _COLOR_SCALE**2)) + 1e-6)
            total += weight * distance[:, row, column]
            weights += weight
    return total / weights
