"""The pixel graph: a step between neighbours is dear where class, boundary or embedding change (card 3.4, steps 3, 4).

Its cells are `stride` pixels a side; the distance of a pixel to an instance is that of the cheapest path.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weakseg.refine.graph_distance import NEIGHBOURS, graph_distance

_ABSENT_DISTANCE = 10.0  # published cost of an instance without a labelled pixel


def pixel_graph(
    probabilities: Tensor,
    boundary_logits: Tensor,
    embedding: Tensor,
    *,
    stride: int,
    edges: Tensor | None = None,
    official: bool = False,
    **lambdas: float,
) -> Tensor:
    """Step costs (B, h, w, 8) of a graph with one cell, of `stride` pixels a side, or more; probabilities (k, B, H, W)
    and edges (B, H, W) in pixels, boundary_logits (B, h0, w0), embedding (B, E, h0, w0)."""
    grid = (max(probabilities.shape[2] // stride, 1), max(probabilities.shape[3] // stride, 1))
    coarse = resize(probabilities, grid).transpose(0, 1)
    boundary = resize(boundary_logits[None], grid)[0].sigmoid()
    edges = None if edges is None else resize(edges[None], grid)[0]
    return edge_costs(coarse, boundary, resize(embedding, grid), edges=edges, official=official, **lambdas)


def edge_costs(
    probabilities: Tensor,
    boundary: Tensor,
    embedding: Tensor,
    *,
    edges: Tensor | None = None,
    lambda_probability: float = 1.0,
    lambda_boundary: float = 0.1,
    lambda_feature: float = 0.1,
    official: bool = False,
) -> Tensor:
    """Costs of the 8 steps from every cell, in the order of `NEIGHBOURS`; diagonal steps have no surcharge.

    probabilities (B, C, h, w) class probabilities (channels of zeros may be left out); boundary (B, h, w) in [0, 1];
    embedding (B, E, h, w), of length about 1; edges (B, h, w) in [0, 1], low-level edges of the image, if they are to
    count. Returns (B, h, w, 8), >= 0:

        lambda_probability * sum_c |q_i - q_j|  +  lambda_boundary * (max(s_i, s_j) + max(e_i, e_j))
            +  lambda_feature * max(0, 1 - <m_i, m_j>)

    The published form (`official`) has e_j in place of max(e_i, e_j), so that leaving an edge is free (fault m). A step
    that leaves the grid has the cost of a neighbour of zeros.
    """
    height, width = boundary.shape[-2:]
    edges = torch.zeros_like(boundary) if edges is None else edges
    around = [F.pad(values, (1, 1, 1, 1)) for values in (probabilities, boundary, edges, embedding)]
    costs = []
    for dy, dx in NEIGHBOURS:
        here = (..., slice(1 + dy, 1 + dy + height), slice(1 + dx, 1 + dx + width))
        neighbour_probabilities, neighbour_boundary, neighbour_edges, neighbour_embedding = (v[here] for v in around)
        class_change = (probabilities - neighbour_probabilities).abs().sum(dim=1)
        crossing = torch.maximum(boundary, neighbour_boundary)
        crossing = crossing + (neighbour_edges if official else torch.maximum(edges, neighbour_edges))
        feature_change = (1.0 - (embedding * neighbour_embedding).sum(dim=1)).clamp(min=0.0)
        costs.append(lambda_probability * class_change + lambda_boundary * crossing + lambda_feature * feature_change)
    return torch.stack(costs, dim=-1)


def point_distance(graph: Tensor, points: Tensor, instances: int, *, stride: int) -> Tensor:
    """(m, B, h, w) path cost to the nearest labelled pixel of each instance; 10 for an instance without one. graph (B,
    h, w, 8), points (P, 4) rows (image, instance, y, x)."""
    batch, height, width, _ = graph.shape
    cells = cells_of(points[:, 2:], (height, width), stride)
    distance = graph_distance(graph, cells, points[:, 0] * instances + points[:, 1], maps_per_cost=instances)
    distance = distance.view(batch, instances, height, width).transpose(0, 1)
    return distance.masked_fill(distance.isinf(), _ABSENT_DISTANCE).contiguous()


def centre_distance(graph: Tensor, centres: Tensor) -> Tensor:
    """(m, B, h, w) path cost from one cell (B, m, 2) of each instance; the largest float everywhere for one off the
    grid (fault f). graph (B, h, w, 8)."""
    cells = cells_of(centres, (graph.shape[1], graph.shape[2]), stride=1)
    maps = torch.arange(cells[..., 0].numel(), device=graph.device)
    distance = graph_distance(graph, cells.flatten(0, 1), maps, maps_per_cost=centres.shape[1])
    is_outside = (cells != centres).any(dim=2)
    distance = distance.view(*is_outside.shape, *distance.shape[1:])
    return (
        distance.masked_fill(is_outside[..., None, None], torch.finfo(distance.dtype).max).transpose(0, 1).contiguous()
    )


def cells_of(pixels: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """Cells (..., 2) of the pixels (..., 2) (y, x); the grid's last cell reaches to the image's end."""
    y, x = (pixels // stride).unbind(dim=-1)
    return torch.stack([y.clamp(max=grid[0] - 1), x.clamp(max=grid[1] - 1)], dim=-1)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing; (M, N, h, w) to (M, N, *size)."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
