"""Losses of the heads that shape the pixel graph: contrastive for the embedding, affinity for the boundary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from weakseg.labels import NO_CLASS
from weakseg.layers.resize import resize_label_masks
from weakseg.methods.point2mask.semantic_losses import pixels_inside

_HALF_NEIGHBOURS = ((0, 1), (1, -1), (1, 0), (1, 1))
"""(dy, dx) of one neighbour of each opposite pair."""


def contrastive_loss(
    embedding: Tensor,
    instance_maps: Sequence[Tensor],
    semantic: Tensor,
    *,
    points: Sequence[Tensor],
    point_map: Tensor,
    num_instances: Sequence[int],
    num_things: int,
    num_stuff: int,
    temperature: float = 0.07,
) -> Tensor:
    """Labelled pixels against the mean embedding of every instance and stuff class of their image (card section 3.8).

    embedding (B, E, h0, w0), unit length over E; instance_maps B times (H, W), the pseudo instance 0..n-1 of a pixel,
    -1 nobody; semantic (B, H, W) pseudo label and point_map (B, H, W) labelled pixels, both classes with 255 none;
    points B times (P, 3) integer rows (instance, y, x); num_instances the n of each image. Returns the mean over
    images, 0 for an image without a point. The gradient flows through pixels and means alike.
    """
    losses = []
    size = (embedding.shape[-2], embedding.shape[-1])
    for b, count in enumerate(num_instances):
        if count + num_stuff == 0:
            losses.append(embedding[b].sum() * 0)
            continue
        members = torch.cat(
            [
                resize_label_masks(instance_maps[b], _range(0, count, embedding), size),
                resize_label_masks(semantic[b], _range(num_things, num_stuff, embedding), size),
            ]
        ).flatten(1)
        queries = _count_queries(points[b], point_map[b], count, num_things, num_stuff, size)
        losses.append(_cell_loss(embedding[b].flatten(1).float(), members, queries, temperature))
    return torch.stack(losses).mean()


def boundary_loss(
    boundary_logits: Tensor,
    instance_maps: Sequence[Tensor],
    semantic: Tensor,
    *,
    num_things: int,
    image_sizes: Sequence[tuple[int, int]],
    official: bool = False,
) -> Tensor:
    """Affinity loss: neighbours of one segment have no boundary, those of two segments have one (card section 3.9).

    boundary_logits (B, h0, w0), resized to (H, W); instance_maps B times (H, W) pseudo instances, -1 nobody; semantic
    (B, H, W) pseudo label, 255 none; image_sizes (h, w) of the images in the padded batch. Mean over images.

    Pairs lie inside the image, and where both pixels are things the instances alone say whether they differ.
    `official` restores the release (card faults q, r): padding is image, what lies beyond it is nobody, class 0 and no
    boundary, and different thing classes are a boundary even inside one instance.
    """
    size = (semantic.shape[-2], semantic.shape[-1])
    # Small integers: most of the time goes into comparing them.
    instances, classes = torch.stack(list(instance_maps)).int(), semantic.int()
    logits = boundary_logits[:, None].float()
    boundary = F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0].sigmoid()
    inside = None if official else pixels_inside(image_sizes, size, size, device=semantic.device)

    # The stronger boundary of a pair decides, so a pair's loss is that of its stronger pixel, as often as it is one.
    affinity = 1 - boundary
    together, apart = -(affinity + 1e-5).log(), -(1 + 1e-5 - affinity).log()
    decided = _pairs_decided(boundary.detach(), instances, classes, inside, num_things)
    # A pair is met from both its ends.
    thing, stuff, different = 2 * decided
    if official:
        different = different + _pairs_beyond(instances, classes)
    thing, stuff, different = (pairs / (pairs.sum((1, 2), keepdim=True) + 1e-5) for pairs in (thing, stuff, different))
    return ((0.5 * (thing + stuff) * together + different * apart).sum((1, 2)) / 2).mean()


def _pairs_decided(
    boundary: Tensor, instances: Tensor, classes: Tensor, inside: Tensor | None, num_things: int
) -> Tensor:
    """(3, B, H, W) float: in how many pairs of neighbours each pixel has the stronger boundary, for pairs in one thing,
    in stuff of one class, and in different segments."""
    decided = torch.zeros(3, *boundary.shape, dtype=torch.uint8, device=boundary.device)
    for offset in _HALF_NEIGHBOURS:
        kinds = _pair_kinds(instances, classes, inside, offset, num_things)
        here, there = _pair(boundary, offset)
        is_here = here >= there
        for count, kind in zip(decided, kinds):
            count_here, count_there = _pair(count, offset)
            count_here += kind & is_here
            count_there += kind & ~is_here
    return decided.float()


def _range(start: int, count: int, like: Tensor) -> Tensor:
    return torch.arange(start, start + count, device=like.device)


def _count_queries(
    points: Tensor, point_map: Tensor, num_instances: int, num_things: int, num_stuff: int, size: tuple[int, int]
) -> Tensor:
    """(h0 * w0, n + U): labelled pixels of each instance and stuff class in each cell of the embedding."""
    references = num_instances + num_stuff
    cells = [
        (torch.arange(full, device=point_map.device, dtype=torch.float32) * (small / full)).long()
        for full, small in zip(point_map.shape, size)
    ]
    counts = torch.zeros(size[0] * size[1] * references, device=point_map.device)
    instance, y, x = points.long().unbind(1)
    counts.index_add_(0, (cells[0][y] * size[1] + cells[1][x]) * references + instance, torch.ones_like(x).float())
    stuff = (point_map >= num_things) & (point_map < num_things + num_stuff)
    reference = torch.where(stuff, point_map - num_things + num_instances, 0)
    cell = cells[0][:, None] * size[1] + cells[1]
    counts.index_add_(0, (cell * references + reference).flatten(), stuff.flatten().float())
    return counts.view(-1, references)


def _cell_loss(embedding: Tensor, members: Tensor, queries: Tensor, temperature: float) -> Tensor:
    """embedding (E, cells), members (R, cells) in [0, 1], queries (cells, R) counts."""
    # fp32: divided by the temperature, rounding in half precision would be a fifth of the loss.
    with torch.autocast(embedding.device.type, enabled=False):
        means = members @ embedding.T / members.sum(1, keepdim=True).clamp(min=1)
        log_likelihood = (embedding.T @ means.T / temperature).log_softmax(1)
    return -(queries * log_likelihood).sum() / queries.sum().clamp(min=1)


def _pair_kinds(
    instances: Tensor, classes: Tensor, inside: Tensor | None, offset: tuple[int, int], num_things: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, h, w) bool of the pairs at one offset: in one thing, in stuff of one class, in different segments."""
    instance_i, instance_j = _pair(instances, offset)
    class_i, class_j = _pair(classes, offset)
    is_known_i, is_known_j = _pair(classes != NO_CLASS, offset)
    is_stuff_i, is_stuff_j = _pair(classes >= num_things, offset)
    same_instance, same_class = instance_i == instance_j, class_i == class_j
    thing = same_instance & _pair(instances >= 0, offset)[0]
    stuff = same_class & is_stuff_i & is_known_i
    classes_differ = ~same_class & is_known_i & is_known_j
    if inside is None:
        return thing, stuff, ~same_instance | classes_differ
    both = torch.logical_and(*_pair(inside, offset))
    classes_differ &= is_stuff_i | is_stuff_j
    return thing & both, stuff & both, (~same_instance | classes_differ) & both


def _pair(maps: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Views of maps (B, H, W): the pixels that have a neighbour at `offset` (dy >= 0, dx), and those neighbours."""
    (height, width), (dy, dx) = maps.shape[1:], offset
    left, right = max(-dx, 0), width - max(dx, 0)
    return maps[:, : height - dy, left:right], maps[:, dy:, left + dx : right + dx]


def _pairs_beyond(instances: Tensor, semantic: Tensor) -> Tensor:
    """(B, H, W): with how many pixels beyond the batch each pixel is a pair of different segments in the release, which
    is all around it if it has an instance or a class other than 0."""
    height, width = semantic.shape[1:]
    around = torch.ones(1, 1, height, width, device=semantic.device)
    beyond = 9 - F.avg_pool2d(around, 3, stride=1, padding=1, divisor_override=1)[0]
    return beyond * ((instances >= 0) | ((semantic > 0) & (semantic != NO_CLASS)))
