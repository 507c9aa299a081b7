"""Supply and demand of the transport: how many pixels each instance should get, and which pixels are dealt (card 3.4).

Phase 1 counts the pixels nearest to each instance, phase 2 those of a mask grown from the centroid of a first mask.
All images of a batch at once: m slots for each of B images hold its instances, `taking_part` (m, B) bool says which do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weakseg.methods.point2mask.graph import cells_of
from weakseg.methods.point2mask.transport import pixel_parts

NOBODY = -1


def batch_points(points: list[Tensor]) -> Tensor:
    """(P, 4) int64 rows (image, instance, y, x) of the points (P_i, 3) of each image."""
    lengths = torch.tensor([len(rows) for rows in points])
    rows = torch.cat(points)
    image = torch.arange(len(points)).repeat_interleave(lengths).to(rows.device, non_blocking=True)
    return torch.cat([image[:, None], rows], dim=1)


def slots_taking_part(points: Tensor, classes: list[Tensor], *, keep_absent: bool) -> Tensor:
    """(m, B) bool: the instances that pixels can go to, m the most of an image: those with a labelled pixel, or all of
    an image where there is any (`keep_absent`). points (P, 4) rows (image, instance, y, x)."""
    lengths = torch.tensor([len(labels) for labels in classes]).to(points.device, non_blocking=True)
    slots = max(len(labels) for labels in classes)
    is_labelled = torch.zeros(slots * len(classes), dtype=torch.bool, device=points.device)
    is_labelled = is_labelled.scatter_(0, points[:, 1] * len(classes) + points[:, 0], True).view(slots, -1)
    if not keep_absent:
        return is_labelled
    return is_labelled.any(dim=0) & (torch.arange(slots, device=points.device)[:, None] < lengths)


def nearest_supply(cost: Tensor, taking_part: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Phase 1: supply (m, B) = pixels nearest to an instance; demand (B, H, W) = 1 everywhere in an image.

    cost (m, B, H, W); inside (B, H, W) bool, the pixels of the images.
    """
    flat, absent = cost.flatten(2), ~taking_part[..., None]
    nearest = [flat[..., part].masked_fill(absent, torch.inf).min(dim=0).indices for part in pixel_parts(flat)]
    owner = torch.cat(nearest, dim=1).view(inside.shape).masked_fill(~inside, NOBODY)
    return mask_supply(owner, len(cost))


def mask_supply(owner: Tensor, instances: int) -> tuple[Tensor, Tensor]:
    """Phase 2: supply (m, B) = area of each mask; demand (B, H, W) = 1 in any mask. owner (B, H, W), -1 for nobody."""
    return profiles(owner, instances)[0].sum(dim=2).T, (owner >= 0).float()


def grown_masks(
    distance: Tensor,
    farthest: Tensor,
    probabilities: Tensor,
    counts: Tensor,
    taking_part: Tensor,
    is_nobodys: Tensor,
) -> Tensor:
    """Owner (B, H, W) of each pixel: the instance that is near and likely, -1 where is_nobodys (B, H, W).

    distance (m, B, H, W), farthest (B,) what it is divided by; probabilities (k, B, H, W) of classes; counts (B, m, k):
    1 where a class makes an instance likely.
    """
    distances, scores, owner = distance.flatten(2), probabilities.flatten(2), []
    for part in pixel_parts(distances):
        likelihood = (counts @ scores[..., part].transpose(0, 1)).transpose(0, 1)
        value = (1.0 - distances[..., part] / farthest[:, None]) * likelihood
        owner.append(value.masked_fill_(~taking_part[..., None], -torch.inf).max(dim=0).indices)
    return torch.cat(owner, dim=1).view(is_nobodys.shape).masked_fill(is_nobodys, NOBODY)


def farthest_distance(distance: Tensor, taking_part: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """(B,) what the distances (m, B, h, w) of the instances are divided by to lie in [0, 1]; only the top left of
    `sizes` (h, w) counts of each image."""
    largest = [distance[:, b, :height, :width].amax(dim=(1, 2)) for b, (height, width) in enumerate(sizes)]
    return torch.stack(largest, dim=1).masked_fill(~taking_part, 0.0).amax(dim=0) + 1e-5


def centre_cells(
    owner: Tensor, points: Tensor, instances: int, grid: tuple[int, int], *, stride: int, official: bool = False
) -> Tensor:
    """Cell (B, m, 2) (y, x) of the centroid of each mask in `owner` (B, H, W), if the mask contains it and a labelled
    pixel; else the cell of the labelled pixel nearest to the centroid (of the first one, if the mask is empty).

    points (P, 4) rows (image, instance, y, x); grid (h, w). What is returned for an instance without a labelled pixel
    means nothing. official: the corner of the first labelled pixel's cell is tested, the first labelled pixel is the
    way out, and the centroid's cell may lie one past the grid (faults f, g, h).
    """
    batch, height, width = owner.shape
    image, instance, y, x = points.unbind(dim=1)
    slot = image * instances + instance
    rows, columns = profiles(owner, instances)
    area = rows.sum(dim=2)
    centre_y = (rows * torch.arange(height, device=owner.device)).sum(dim=2) // area.clamp(min=1)
    centre_x = (columns * torch.arange(width, device=owner.device)).sum(dim=2) // area.clamp(min=1)

    # Order of preference in one number: square distance, then row-major position.
    apart = (y - centre_y.flatten()[slot]) ** 2 + (x - centre_x.flatten()[slot]) ** 2
    apart = torch.where((area == 0).flatten()[slot] | official, 0, apart)
    preference = apart * (height * width) + y * width + x
    chosen = preference.new_full((batch * instances,), torch.iinfo(torch.int64).max)
    chosen = chosen.scatter_reduce_(0, slot, preference, "amin").view(batch, instances) % (height * width)
    chosen_cell = cells_of(torch.stack([chosen // width, chosen % width], dim=2), grid, stride)

    own, each = torch.arange(instances, device=owner.device), torch.arange(batch, device=owner.device)[:, None]
    if official:
        is_pointed_at = owner[each, chosen_cell[..., 0] * stride, chosen_cell[..., 1] * stride] == own
    else:
        hits = (owner[image, y, x] == instance).long()
        is_pointed_at = torch.zeros_like(area).flatten().index_add_(0, slot, hits).view_as(area) > 0
    is_sound = (owner[each, centre_y, centre_x] == own) & is_pointed_at
    centre = torch.stack([centre_y, centre_x], dim=2)
    centre_cell = centre // stride if official else cells_of(centre, grid, stride)
    return torch.where(is_sound[..., None], centre_cell, chosen_cell)


def profiles(owner: Tensor, instances: int) -> tuple[Tensor, Tensor]:
    """Pixels of each instance per row (B, n, H) and per column (B, n, W) of `owner` (B, H, W), -1 for nobody."""
    batch, height, width = owner.shape
    column, one = owner + 1, torch.ones_like(owner)
    rows = owner.new_zeros(batch, height, instances + 1).scatter_add_(2, column, one)
    columns = owner.new_zeros(batch, instances + 1, width).scatter_add_(1, column, one)
    return rows[..., 1:].transpose(1, 2), columns[:, 1:]
