"""Supply and demand of the transport: how many pixels each instance should get, and which pixels are dealt (card 3.4).

Phase 1 counts the pixels nearest to each instance, phase 2 those of a mask grown from the centroid of a first mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weakseg.refine.graph_distance import graph_distance

NOBODY = -1


def nearest_supply(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Phase 1: supply (m,) = pixels nearest to an instance; demand (H, W) = 1 everywhere. cost (m, H, W)."""
    owner = cost.min(dim=0).indices
    return mask_supply(owner, len(cost))


def mask_supply(owner: Tensor, instances: int) -> tuple[Tensor, Tensor]:
    """Phase 2: supply (m,) = area of each mask; demand (H, W) = 1 in any mask. owner (H, W), -1 for nobody."""
    return profiles(owner, instances)[0].sum(dim=1), (owner >= 0).float()


def grown_masks(distance: Tensor, likelihood: Tensor, is_stuff: Tensor) -> Tensor:
    """Owner (H, W) of each pixel: the near and likely instance, -1 where stuff; distance (m, H, W) in [0, 1]."""
    return ((1.0 - distance) * likelihood).max(dim=0).indices.masked_fill(is_stuff, NOBODY)


def centre_cells(
    owner: Tensor, points: Tensor, instances: int, grid: tuple[int, int], *, stride: int, official: bool = False
) -> Tensor:
    """Cell (m, 2) (y, x) of the centroid of each mask in `owner` (H, W), if the mask contains it and a labelled pixel;
    else the cell of the labelled pixel nearest to the centroid (of the first one, if the mask is empty).

    points (P, 3) rows (instance, y, x); grid (h, w). official: the corner of the first labelled pixel's cell is tested,
    the first labelled pixel is the way out, and the centroid's cell may lie one past the grid (faults f, g, h).
    """
    height, width = owner.shape
    instance, y, x = points.unbind(dim=1)
    rows, columns = profiles(owner, instances)
    area = rows.sum(dim=1).clamp(min=1)
    centre_y = (rows * torch.arange(height, device=owner.device)).sum(dim=1) // area
    centre_x = (columns * torch.arange(width, device=owner.device)).sum(dim=1) // area

    # Order of preference in one number: square distance, then row-major position.
    apart = (y - centre_y[instance]) ** 2 + (x - centre_x[instance]) ** 2
    apart = torch.where((rows.sum(dim=1) == 0)[instance] | official, 0, apart)
    preference = apart * (height * width) + y * width + x
    chosen = preference.new_full((instances,), torch.iinfo(torch.int64).max)
    chosen = chosen.scatter_reduce_(0, instance, preference, "amin") % (height * width)
    chosen_cell = cells_of(torch.stack([chosen // width, chosen % width], dim=1), grid, stride)

    own = torch.arange(instances, device=owner.device)
    if official:
        is_pointed_at = owner[chosen_cell[:, 0] * stride, chosen_cell[:, 1] * stride] == own
    else:
        is_pointed_at = torch.zeros_like(own).index_add_(0, instance, (owner[y, x] == instance).long()) > 0
    is_sound = (owner[centre_y, centre_x] == own) & is_pointed_at
    centre = torch.stack([centre_y, centre_x], dim=1)
    centre_cell = centre // stride if official else cells_of(centre, grid, stride)
    return torch.where(is_sound[:, None], centre_cell, chosen_cell)


def centre_distance(graph: Tensor, centres: Tensor) -> Tensor:
    """(m, h, w) path cost from one cell (m, 2) each; the largest float everywhere for one off the grid (fault f)."""
    cells = cells_of(centres, (graph.shape[0], graph.shape[1]), stride=1)
    maps = torch.arange(len(centres), device=graph.device)
    distance = graph_distance(graph.expand(len(centres), -1, -1, -1), cells, maps)
    is_outside = (cells != centres).any(dim=1)
    return distance.masked_fill(is_outside[:, None, None], torch.finfo(distance.dtype).max)


def profiles(owner: Tensor, instances: int) -> tuple[Tensor, Tensor]:
    """Pixels of each instance per row (n, H) and per column (n, W) of `owner` (H, W), -1 for nobody."""
    height, width = owner.shape
    one = torch.ones_like(owner)
    rows = owner.new_zeros(height, instances + 1).scatter_add_(1, owner + 1, one)
    columns = owner.new_zeros(instances + 1, width).scatter_add_(0, owner + 1, one)
    return rows[:, 1:].T, columns[1:]


def cells_of(pixels: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """Cells (P, 2) of the pixels (P, 2) (y, x); the grid's last cell reaches to the image's end."""
    y, x = (pixels // stride).unbind(dim=1)
    return torch.stack([y.clamp(max=grid[0] - 1), x.clamp(max=grid[1] - 1)], dim=1)
