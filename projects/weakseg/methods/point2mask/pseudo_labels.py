"""Pseudo labels of a step: pixels are dealt to labelled instances by optimal transport over the pixel graph (card 3.4).

Probabilities -> graph -> distance to each instance's points (the transport's cost) -> supply of each instance and
demand of each pixel -> transport -> masks and boxes. Nothing here has a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from weakseg.labels import NO_CLASS
from weakseg.methods.point2mask.graph import edge_costs
from weakseg.methods.point2mask.semantic_losses import DilatedPoints
from weakseg.methods.point2mask.supply import (
    NOBODY,
    cells_of,
    centre_cells,
    centre_distance,
    grown_masks,
    mask_supply,
    nearest_supply,
    profiles,
)
from weakseg.methods.point2mask.transport import transport_labels
from weakseg.refine.graph_distance import graph_distance

_STRIP_ROWS = 32  # rows of full-resolution class scores that exist at a time
_ABSENT_DISTANCE = 10.0  # published cost of an instance without a labelled pixel


@dataclass
class PseudoLabels:
    """Pseudo ground truth of a batch.

    instance_map: per image (H, W) int64, the instance that owns a pixel, -1 for nobody. boxes: per image (n, 4) float32
    absolute xyxy. semantic (B, H, W) int64: the pixel's class, 255 where no class reaches 0.5.
    """

    instance_map: list[Tensor]
    boxes: list[Tensor]
    semantic: Tensor


@torch.no_grad()
def make_pseudo_labels(
    semantic_logits: Tensor,
    dilated: DilatedPoints,
    boundary_logits: Tensor,
    embedding: Tensor,
    classes: list[Tensor],
    points: list[Tensor],
    image_sizes: list[tuple[int, int]],
    *,
    num_things: int,
    phase: int,
    stride: int = 16,
    epsilon: float = 1e-3,
    iterations: int = 80,
    lambda_probability: float = 1.0,
    lambda_boundary: float = 0.1,
    lambda_feature: float = 0.1,
    official: bool = False,
) -> PseudoLabels:
    """Pseudo labels of B images from points.

    semantic_logits (B, C, h0, w0), scaled class logits Z; dilated: the present (image, class) pairs and their squares
    (K, H, W); boundary_logits (B, h0, w0); embedding (B, E, h0, w0). Per image: classes (n,) of the thing instances,
    points (P, 3) int64 rows (instance, y, x) in pixels of the batch image, image_sizes (h, w) without padding. phase 1
    takes the supply from the nearest instance, 2 from masks grown around centroids. stride: side of a cell in pixels.

    An instance without a labelled pixel gets no pixel (faults e, i), nothing is dealt outside the image (r), centroids
    may lie in the last strip (f) and are checked with every labelled pixel (g, h). official=True: the published
    behaviour, except where that fails.
    """
    size = (dilated.masks.shape[-2], dilated.masks.shape[-1])
    lambdas = {
        "lambda_probability": lambda_probability,
        "lambda_boundary": lambda_boundary,
        "lambda_feature": lambda_feature,
    }
    options: dict = {"stride": stride, "epsilon": epsilon, "iterations": iterations, "official": official}
    with torch.autocast(semantic_logits.device.type, enabled=False):
        probabilities = present_probabilities(semantic_logits, dilated)
        graph = pixel_graph(probabilities, boundary_logits, embedding, size, stride=stride, **lambdas)
        present_classes = dilated.class_index.split([len(probability) for probability in probabilities])
        taking_part = _taking_part(classes, points, keep_absent=official and phase == 1)
        semantic = torch.full((len(classes), *size), NO_CLASS, dtype=torch.int64, device=semantic_logits.device)
        instance_maps, boxes = [], []
        for i, image_size in enumerate(image_sizes):
            height, width = size if official else image_size
            probability = probabilities[i][:, :height, :width]
            best_class, best = _best_class(probability, present_classes[i])
            semantic[i, :height, :width] = best_class.masked_fill(best < 0.5, NO_CLASS)

            instance_map = torch.full_like(semantic[i], NOBODY)
            kept = taking_part[i]
            if len(kept):
                likelihood = None
                if phase == 2:
                    likelihood = class_likelihood(probability, present_classes[i], classes[i][kept], num_things)
                rank = torch.searchsorted(kept, points[i][:, :1].contiguous())
                own_points = torch.cat([rank, points[i][:, 1:]], dim=1)
                label = _deal(graph[i], own_points, len(kept), best_class >= num_things, likelihood, size, **options)
                instance_map[:height, :width] = torch.where(label < 0, NOBODY, kept[label])
            instance_maps.append(instance_map)
            boxes.append(boxes_of(instance_map, len(classes[i]), image_size))
    return PseudoLabels(instance_maps, boxes, semantic)


def pseudo_panoptic(
    owner: Tensor, semantic: Tensor, classes: Tensor, *, num_things: int, num_stuff: int
) -> tuple[Tensor, list[dict]]:
    """The pseudo labels of one image as id map (H, W) int32, 0 void, and segments: its instances, numbered from 1, then
    a segment per stuff class. owner (H, W), -1 nobody; semantic (H, W), 255 none; classes (n,) of the instances."""
    is_stuff = (owner < 0) & (semantic >= num_things) & (semantic != NO_CLASS)
    ids = torch.where(is_stuff, len(classes) + 1 + semantic - num_things, owner + 1)
    kinds = classes.tolist() + list(range(num_things, num_things + num_stuff))
    areas = torch.bincount(ids.flatten(), minlength=len(kinds) + 1)[1:].tolist()
    segments = [
        {"id": k + 1, "category_id": kind, "isthing": kind < num_things, "area": area}
        for k, (kind, area) in enumerate(zip(kinds, areas))
        if area
    ]
    return ids.int(), segments


def present_probabilities(semantic_logits: Tensor, dilated: DilatedPoints) -> list[Tensor]:
    """Probabilities (k, H, W) of each image's present classes: softmax over all classes, 1 in a class's own squares.

    The full-resolution scores of all classes, needed for the normaliser alone, exist in strips only (card 8.4).
    """
    batch, _, small_height, _ = semantic_logits.shape
    count, height, width = dilated.masks.shape
    logits = semantic_logits.float()
    row = ((torch.arange(height, device=logits.device) + 0.5) * (small_height / height) - 0.5).clamp(min=0)
    upper = row.long()
    lower = (upper + 1).clamp(max=small_height - 1)
    result = logits.new_empty(count, height, width)
    for start in range(0, height, _STRIP_ROWS):
        rows = slice(start, start + _STRIP_ROWS)
        strip = torch.lerp(logits[:, :, upper[rows]], logits[:, :, lower[rows]], (row - upper)[rows, None])
        strip = F.interpolate(strip, size=(strip.shape[2], width), mode="bilinear", align_corners=False)
        result[:, rows] = strip.softmax(dim=1)[dilated.image_index, dilated.class_index]
    result.masked_fill_(dilated.masks, 1.0)
    return list(result.split(torch.bincount(dilated.image_index, minlength=batch).tolist()))


def pixel_graph(
    probabilities: list[Tensor],
    boundary_logits: Tensor,
    embedding: Tensor,
    size: tuple[int, int],
    *,
    stride: int,
    **lambdas: float,
) -> Tensor:
    """Step costs (B, h, w, 8) of a graph with one cell, of `stride` pixels a side, or more; `size` (H, W) in pixels."""
    grid = (max(size[0] // stride, 1), max(size[1] // stride, 1))
    coarse = pad_sequence([_resize(probability, grid) for probability in probabilities], batch_first=True)
    boundary = _resize(boundary_logits.float(), grid).sigmoid()
    return edge_costs(coarse, boundary, _resize(embedding.float(), grid), **lambdas)


def class_likelihood(probability: Tensor, present: Tensor, classes: Tensor, num_things: int) -> Tensor:
    """(m, H, W): a pixel's probability of an instance's class or of any stuff; probability (k, H, W) of the `present`
    classes (k,), classes (m,) of the instances."""
    counts = (classes[:, None] == present) | (present >= num_things)
    return (counts.to(probability.dtype) @ probability.flatten(1)).view(-1, *probability.shape[1:])


def _deal(
    graph: Tensor,
    points: Tensor,
    instances: int,
    is_stuff: Tensor,
    likelihood: Tensor | None,
    size: tuple[int, int],
    *,
    stride: int,
    epsilon: float,
    iterations: int,
    official: bool,
) -> Tensor:
    """The instance (H', W') that each pixel of one image goes to, -1 where `is_stuff` (H', W').

    graph (h, w, 8) over the batch image of `size` (H, W); points (P, 3) rows (instance, y, x), instances 0..m-1;
    likelihood (m, H', W') of the classes, None in phase 1.
    """
    height, width = is_stuff.shape
    cost = _resize(point_distance(graph, points, instances, stride=stride), size)[:, :height, :width]
    if likelihood is None:
        supply, demand = nearest_supply(cost)
    else:
        owner = grown_masks(cost / (cost.max() + 1e-5), likelihood, is_stuff)
        grid = (graph.shape[0], graph.shape[1])
        centres = centre_cells(owner, points, instances, grid, stride=stride, official=official)
        distance = centre_distance(graph, centres)
        farthest = distance[:, : -(-height // stride), : -(-width // stride)].max()
        distance = _resize(distance / (farthest + 1e-5), size)[:, :height, :width]
        supply, demand = mask_supply(grown_masks(distance, likelihood, is_stuff), instances)
    label = transport_labels(cost.flatten(1), supply, demand.flatten(), epsilon=epsilon, iterations=iterations)
    return label.view(height, width).masked_fill(is_stuff, NOBODY)


def point_distance(graph: Tensor, points: Tensor, instances: int, *, stride: int) -> Tensor:
    """(m, h, w) path cost to the nearest labelled pixel of each instance; 10 for an instance without one."""
    cells = cells_of(points[:, 1:], (graph.shape[0], graph.shape[1]), stride)
    distance = graph_distance(graph.expand(instances, -1, -1, -1), cells, points[:, 0])
    return distance.masked_fill(distance.isinf(), _ABSENT_DISTANCE)


def boxes_of(instance_map: Tensor, instances: int, image_size: tuple[int, int]) -> Tensor:
    """Boxes (n, 4) xyxy around each mask, cut at the image (h, w); its middle half for an empty mask."""
    height, width = image_size
    occupied = [counts > 0 for counts in profiles(instance_map, instances)]
    top, left = (has.long().argmax(dim=1) for has in occupied)
    bottom, right = (has.shape[1] - has.flip(1).long().argmax(dim=1) for has in occupied)
    box = torch.stack([left, top, right, bottom], dim=1)
    middle = box.new_tensor([width // 4, height // 4, 3 * width // 4, 3 * height // 4])
    box = torch.where(occupied[0].any(dim=1, keepdim=True), box, middle)
    return torch.minimum(box, box.new_tensor([width, height, width, height])).float()


def _taking_part(classes: list[Tensor], points: list[Tensor], *, keep_absent: bool) -> list[Tensor]:
    """Per image the rising indices of the instances that pixels can go to: those with a labelled pixel, or all of them
    if there is any (`keep_absent`). Asks the device once for the whole batch."""
    starts = [0]
    for labels in classes:
        starts.append(starts[-1] + len(labels))
    labelled = set(torch.unique(torch.cat([rows[:, 0] + start for rows, start in zip(points, starts)])).tolist())
    result = []
    for labels, start in zip(classes, starts):
        kept = [k for k in range(len(labels)) if start + k in labelled]
        result.append(list(range(len(labels))) if kept and keep_absent else kept)
    return [torch.tensor(kept, dtype=torch.int64, device=labels.device) for kept, labels in zip(result, classes)]


def _best_class(probability: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Class (H, W) of the highest probability and that probability; class 0 where all are 0, as if absent classes were
    there too (fault aj)."""
    if not len(present):
        nothing = probability.new_zeros(probability.shape[1:])
        return nothing.long(), nothing
    best, index = probability.max(dim=0)
    return present[index].masked_fill(best == 0, 0), best


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing; (N, h, w) or (N, C, h, w) to `size`."""
    if not len(maps):  # an image without any labelled class
        return maps.new_zeros(*maps.shape[:-2], *size)
    stack = maps if maps.dim() == 4 else maps[None]
    return F.interpolate(stack, size=size, mode="bilinear", align_corners=False).view(*maps.shape[:-2], *size)
