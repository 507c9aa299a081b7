"""Shortest paths on the 8-connected pixel grid with a cost per step: a cheap geodesic distance from labelled pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""(dy, dx) of the 8 steps, in the order of the last dimension of a cost."""

_SWEEPS_PER_CHECK = 8


@torch.no_grad()
def graph_distance(cost: Tensor, sources: Tensor, source_map: Tensor) -> Tensor:
    """Distance of every cell to the nearest source of its map; several maps at once (Point2Mask card 3.4, 8.2).

    cost (N, h, w, 8) >= 0: cost[n, y, x, k] is the price in map n of the step from (y, x) to (y + dy, x + dx) with
    (dy, dx) = NEIGHBOURS[k]; steps that leave the grid are never taken. sources (P, 2) int64 (y, x) cells of the grid;
    source_map (P,) int64, the map 0..N-1 that a source belongs to. Returns (N, h, w) of the cost's type; infinite in a
    map without a source.

    Relaxes all steps until nothing changes. A distance is then the smallest sum along a path, added up from the source:
    bit for bit what Dijkstra's algorithm gives, because a rounded sum never falls when a summand rises.
    """
    maps, height, width, _ = cost.shape
    row = width + 2
    # A ring of cells around the grid that cannot be left: a step is then a shift of the flattened map.
    steps = F.pad(cost.permute(3, 0, 1, 2), (1, 1, 1, 1), value=torch.inf).flatten(2)
    distance = cost.new_full((maps, (height + 2) * row), torch.inf)
    distance[source_map, (sources[:, 0] + 1) * row + sources[:, 1] + 1] = 0.0

    inside = slice(row + 1, -row - 1)
    length = distance.shape[1] - 2 * (row + 1)
    moves = []
    for (dy, dx), step in zip(NEIGHBOURS, steps):
        start = row + 1 - dy * row - dx
        moves.append((start, step[:, start : start + length]))
    reached = distance[:, inside]
    while maps:
        before = reached.clone()
        for _ in range(_SWEEPS_PER_CHECK):
            for start, step in moves:
                torch.minimum(reached, distance[:, start : start + length] + step, out=reached)
        if not (reached < before).any():
            break
    return distance.view(maps, height + 2, row)[:, 1:-1, 1:-1].contiguous()
