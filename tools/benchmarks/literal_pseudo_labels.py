"""Pseudo labels as Point2Mask's card describes them step by step (3.4): what `benchmarks.pseudo_labels` compares with.

Every class at full resolution, one search per labelled pixel, transport by Sinkhorn's two potentials. The searches are
scipy's heap Dijkstra, as the release's are compiled too; from a GPU they make the round trip that it makes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

STRIDE = 16
OFFSETS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
ABSENT_DISTANCE = 10.0


class DensePoints(NamedTuple):
    """Dilated points one-hot: squares (B, C, H, W) float, present (B, C) float."""

    squares: Tensor
    present: Tensor


class Problem(NamedTuple):
    """A transport problem of one image: cost (n, P), supply (n,), demand (P,)."""

    cost: Tensor
    supply: Tensor
    demand: Tensor


def class_probabilities(logits: Tensor, points: DensePoints) -> Tensor:
    """Q (B, C, H, W): softmax at full resolution, absent classes 0, squares 1."""
    full = _resize(logits, points.squares.shape[-2:])
    return torch.maximum(full.softmax(dim=1) * points.present[:, :, None, None], points.squares)


def graph_costs(probabilities: Tensor, boundary: Tensor, embedding: Tensor, edges: Tensor | None = None) -> Tensor:
    """Step costs (B, h, w, 8) from full-resolution probabilities (B, C, H, W) and low-level edges (B, H, W), if any."""
    grid = (probabilities.shape[-2] // STRIDE, probabilities.shape[-1] // STRIDE)
    q, m = _resize(probabilities, grid), _resize(embedding, grid)
    s = _resize(boundary[:, None], grid).sigmoid()
    class_change = (q[:, :, None] - neighbours(q)).abs().sum(dim=1)
    crossing = torch.maximum(s[:, :, None], neighbours(s))[:, 0]
    if edges is not None:
        crossing = crossing + neighbours(_resize(edges[:, None], grid))[:, 0]
    feature_change = (1 - (m[:, :, None] * neighbours(m)).sum(dim=1)).clamp(min=0)
    return (class_change + 0.1 * crossing + 0.1 * feature_change).permute(0, 2, 3, 1)


def neighbours(maps: Tensor) -> Tensor:
    """(B, C, 8, h, w): the eight neighbours of each pixel of (B, C, h, w), 0 outside."""
    batch, channels, height, width = maps.shape
    windows = F.unfold(maps, 3, padding=1).view(batch, channels, 9, height, width)
    return torch.cat([windows[:, :, :4], windows[:, :, 5:]], dim=2)


def source_distances(cost: Tensor, sources: Tensor) -> Tensor:
    """Distance maps (P, h, w) from each source cell (P, 2) (y, x): one search each. cost (h, w, 8)."""
    height, width = cost.shape[:2]
    start, end, order = _grid_edges(height, width)
    values = cost.cpu().numpy().reshape(-1)[order]
    graph = csr_array((values, end, start), shape=(height * width, height * width))
    cells = sources.cpu().numpy()
    distance = dijkstra(graph, indices=cells[:, 0] * width + cells[:, 1])
    return torch.from_numpy(distance.astype(np.float32).reshape(-1, height, width)).to(cost.device)


def point_distances(cost: Tensor, points: Tensor, instances: int) -> Tensor:
    """(n, h, w): minimum over the labelled pixels of each instance, points (P, 3) rows (instance, y, x)."""
    each = source_distances(cost, coarse_cells(points[:, 1:], cost))
    result = each.new_full((instances, *cost.shape[:2]), ABSENT_DISTANCE)
    for k in range(instances):
        own = points[:, 0] == k
        if own.any():
            result[k] = each[own].amin(dim=0)
    return result


def coarse_cells(pixels: Tensor, cost: Tensor) -> Tensor:
    last = torch.tensor([cost.shape[0] - 1, cost.shape[1] - 1], device=pixels.device)
    return torch.minimum(pixels // STRIDE, last)


def sinkhorn(problem: Problem, *, epsilon: float = 1e-3, iterations: int = 80) -> Tensor:
    """The plan (n, P): both potentials in the log domain and in turns, float32, over all pixels."""
    cost, supply, demand = problem
    u, v = torch.ones_like(cost[:, 0]), torch.ones_like(cost[0])
    log_supply, log_demand = (supply + 1e-8).log(), (demand + 1e-8).log()
    for _ in range(iterations):
        v = epsilon * (log_demand - torch.logsumexp((-cost + u[:, None] + v) / epsilon, dim=0)) + v
        u = epsilon * (log_supply - torch.logsumexp((-cost + u[:, None] + v) / epsilon, dim=1)) + u
    return torch.exp((-cost + u[:, None] + v) / epsilon)


def transport_problem(
    cost: Tensor, graph: Tensor, probability: Tensor, classes: Tensor, points: Tensor, *, num_things: int, phase: int
) -> Problem:
    """Supply and demand of one image: cost (n, H, W), graph (h, w, 8), probability (C, H, W)."""
    if phase == 1:
        owner = cost.argmin(dim=0)
        supply = torch.stack([(owner == k).sum() for k in range(len(classes))])
        return Problem(cost.flatten(1), supply.float(), torch.ones_like(cost[0]).flatten())
    is_stuff = probability.argmax(dim=0) >= num_things
    likelihood = probability[classes] + probability[num_things:].sum(dim=0)
    owner = ((1 - cost / (cost.max() + 1e-5)) * likelihood).argmax(dim=0).masked_fill(is_stuff, -1)
    distance = _centre_distances(graph, owner, points, len(classes))
    distance = _resize((distance / (distance.max() + 1e-5))[None], owner.shape)[0]
    area = ((1 - distance) * likelihood).argmax(dim=0).masked_fill(is_stuff, -1)
    supply = torch.stack([(area == k).sum() for k in range(len(classes))])
    return Problem(cost.flatten(1), supply.float(), (area >= 0).float().flatten())


def pseudo_labels(
    logits: Tensor,
    dense: DensePoints,
    boundary: Tensor,
    embedding: Tensor,
    classes: list[Tensor],
    points: list[Tensor],
    *,
    num_things: int,
    phase: int,
    edges: Tensor | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Per image the masks (n, H, W) bool, and the semantic pseudo label (B, H, W). edges (B, H, W): low-level edges of
    the images (card 3.5), an option of the release that is off by default."""
    probabilities = class_probabilities(logits, dense)
    best, semantic = probabilities.max(dim=1)
    is_stuff = semantic >= num_things
    semantic = semantic.masked_fill(best < 0.5, 255)
    graphs = graph_costs(probabilities, boundary, embedding, edges)
    masks = []
    for graph, probability, stuff, labels, rows in zip(graphs, probabilities, is_stuff, classes, points):
        mask = torch.zeros(len(labels), *stuff.shape, dtype=torch.bool, device=logits.device)
        if len(rows):
            cost = _resize(point_distances(graph, rows, len(labels))[None], stuff.shape)[0]
            problem = transport_problem(cost, graph, probability, labels, rows, num_things=num_things, phase=phase)
            owner = sinkhorn(problem).argmax(dim=0).view(stuff.shape).masked_fill(stuff, -1)
            mask = owner == torch.arange(len(labels), device=owner.device)[:, None, None]
        masks.append(mask)
    return masks, semantic


def _centre_distances(graph: Tensor, owner: Tensor, points: Tensor, instances: int) -> Tensor:
    """(n, h, w) from the centre of each mask in `owner` (H, W), the largest float for a centre off the grid."""
    result = graph.new_full((instances, *graph.shape[:2]), torch.finfo(graph.dtype).max)
    for k in range(instances):
        mask = owner == k
        own = points[points[:, 0] == k, 1:]
        first = own[(own[:, 0] * owner.shape[1] + own[:, 1]).argmin()]
        cell = coarse_cells(first[None], graph)[0]
        if mask.any():
            y, x = mask.nonzero(as_tuple=True)
            centre_y, centre_x = y.float().mean().long(), x.float().mean().long()
            if mask[centre_y, centre_x] and mask[cell[0] * STRIDE, cell[1] * STRIDE]:
                cell = torch.stack([centre_y, centre_x]) // STRIDE
        if cell[0] < graph.shape[0] and cell[1] < graph.shape[1]:
            result[k] = source_distances(graph, cell[None])[0]
    return result


@lru_cache
def _grid_edges(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (as offsets), columns and order of the flattened (h, w, 8) costs as a sparse matrix; it depends on the grid
    alone, so that a search pays for its costs only."""
    y, x = np.mgrid[:height, :width]
    ends, inside = [], []
    for dy, dx in OFFSETS:
        ends.append((y + dy) * width + x + dx)
        inside.append((y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width))
    end, keep = (np.stack(arrays, axis=-1) for arrays in (ends, inside))
    offsets = np.concatenate([[0], keep.reshape(-1, 8).sum(axis=1).cumsum()])
    return offsets.astype(np.int32), end[keep].astype(np.int32), np.flatnonzero(keep)


def _resize(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
