"""Shortest paths on the 8-connected pixel grid with a cost per step: a cheap geodesic distance from labelled pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""(dy, dx) of the 8 steps, in the order of the last dimension of a cost."""

_SWEEPS_PER_CHECK = 4


@torch.no_grad()
def graph_distance(cost: Tensor, sources: Tensor, source_map: Tensor, *, maps_per_cost: int = 1) -> Tensor:
    """Distance of every cell to the nearest source of its map; several maps at once (Point2Mask card 3.4, 8.2).

    cost (N, h, w, 8) >= 0: cost[n, y, x, k] is the price of the step from (y, x) to (y + dy, x + dx) with (dy, dx) =
    NEIGHBOURS[k]; steps that leave the grid are never taken. Maps n * maps_per_cost up to (n + 1) * maps_per_cost use
    cost[n]. sources (P, 2) int64 (y, x) cells of the grid; source_map (P,) int64, the map that a source belongs to.
    Returns (N * maps_per_cost, h, w) of the cost's type; infinite in a map without a source.

    Relaxes all steps until nothing changes. A distance is then the smallest sum along a path, added up from the source:
    bit for bit what Dijkstra's algorithm gives, because a rounded sum never falls when a summand rises. All maps take
    part in a sweep of two operations; only the test for changes asks the device.
    """
    graphs, height, width, _ = cost.shape
    row, length = width + 2, height * (width + 2) - 2
    steps = _steps_into(cost).unsqueeze(3)
    # A ring of cells around the grid that no step leaves: a step is a shift of the flattened map.
    current = cost.new_full((graphs, maps_per_cost, (height + 2) * row), torch.inf)
    current.flatten(0, 1)[source_map, (sources[:, 0] + 1) * row + sources[:, 1] + 1] = 0.0
    buffers = [current, current.clone()]
    stride = current.stride()
    around = [b.as_strided((3, 3, *b.shape[:2], length), (row, 1, *stride)) for b in buffers]
    inside = [b[..., row + 1 : row + 1 + length] for b in buffers]
    reached = torch.empty_like(around[0], memory_format=torch.contiguous_format)
    while current.numel():
        for k in range(_SWEEPS_PER_CHECK):
            torch.add(around[k % 2], steps, out=reached)
            torch.amin(reached, dim=(0, 1), out=inside[1 - k % 2])
        if not bool((inside[0] < inside[1]).any()):
            break
    return current.view(-1, height + 2, row)[:, 1:-1, 1:-1].contiguous()


def _steps_into(cost: Tensor) -> Tensor:
    """(3, 3, N, L): entry [1 + v, 1 + u] is the price of coming from the neighbour at (v, u), 0 for staying. The L
    cells are those of the flattened grid with a ring around it, from the grid's first to its last."""
    graphs, height, width, _ = cost.shape
    row, length = width + 2, height * (width + 2) - 2
    steps_from = F.pad(cost.permute(3, 0, 1, 2), (1, 1, 1, 1), value=torch.inf).flatten(2)
    steps = cost.new_zeros(3, 3, graphs, length)
    for (dy, dx), step in zip(NEIGHBOURS, steps_from):
        start = row + 1 - dy * row - dx
        steps[1 - dy, 1 - dx] = step[:, start : start + length]
    return steps
