"""Pseudo labels of a step: pixels are dealt to labelled instances by optimal transport over the pixel graph (card 3.4).

Probabilities -> graph -> distance to each instance's points (the transport's cost) -> supply of each instance and
demand of each pixel -> transport -> masks and boxes. Nothing here has a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from weakseg.labels import NO_CLASS
from weakseg.methods.point2mask.graph import centre_distance, pixel_graph, point_distance, resize
from weakseg.methods.point2mask.semantic_losses import DilatedPoints, pixels_inside
from weakseg.methods.point2mask.supply import (
    NOBODY,
    batch_points,
    centre_cells,
    farthest_distance,
    grown_masks,
    mask_supply,
    nearest_supply,
    profiles,
    slots_taking_part,
)
from weakseg.methods.point2mask.transport import transport_labels, values_at_once

# Values (instances x pixels) up to which images are labelled together. On a CPU nothing is won by it, and memory blocks
# of more than 32 MB are handed back and cleared anew each time.
_VALUES_TOGETHER, _VALUES_TOGETHER_ON_CPU = 2**29, 2**23


@dataclass
class PseudoLabels:
    """Pseudo ground truth of a batch.

    instance_map: per image (H, W) int64, the instance that owns a pixel, -1 for nobody. boxes: per image (n, 4) float32
    absolute xyxy. semantic (B, H, W) int64: the pixel's class, 255 where no class reaches 0.5.
    """

    instance_map: list[Tensor]
    boxes: list[Tensor]
    semantic: Tensor


class PresentClasses(NamedTuple):
    """The classes that a batch's images are labelled with, in k slots an image: probabilities (k, B, H, W), classes
    (k, B) int64. A slot that is left over has probability 0 and class 255."""

    probabilities: Tensor
    classes: Tensor


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
    edges: Tensor | None = None,
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
    takes the supply from the nearest instance, 2 from masks grown around centroids. edges (B, H, W) in [0, 1]: a map
    of low-level edges to add to the boundaries. stride: side of a cell in pixels.

    An instance without a labelled pixel gets no pixel (faults e, i), nothing is dealt outside the image (r), centroids
    may lie in the last strip (f) and are checked with every labelled pixel (g, h). official=True: the published
    behaviour, except where that fails.
    """
    size = (dilated.masks.shape[-2], dilated.masks.shape[-1])
    if not classes:
        return PseudoLabels([], [], torch.zeros(0, *size, dtype=torch.int64, device=semantic_logits.device))
    lambdas = {
        "lambda_probability": lambda_probability,
        "lambda_boundary": lambda_boundary,
        "lambda_feature": lambda_feature,
    }
    options: dict = {"num_things": num_things, "phase": phase, "official": official, "stride": stride}
    options |= {"lambdas": lambdas, "transport": {"epsilon": epsilon, "iterations": iterations}}
    values = max(max((len(labels) for labels in classes), default=0), 1) * size[0] * size[1]
    on_cpu = semantic_logits.device.type == "cpu"
    step = max((_VALUES_TOGETHER_ON_CPU if on_cpu else _VALUES_TOGETHER) // values, 1)
    groups = []
    with torch.autocast(semantic_logits.device.type, enabled=False):
        for start in range(0, len(classes), step):
            of = slice(start, start + step)
            groups.append(
                _group_labels(
                    semantic_logits[of].float(),
                    dilated if step >= len(classes) else _points_of(dilated, of),
                    boundary_logits[of].float(),
                    embedding[of].float(),
                    None if edges is None else edges[of].float(),
                    classes[of],
                    points[of],
                    image_sizes[of],
                    **options,
                )
            )
    return PseudoLabels(
        [owner for group in groups for owner in group.instance_map],
        [boxes for group in groups for boxes in group.boxes],
        torch.cat([group.semantic for group in groups]),
    )


def _group_labels(
    logits: Tensor,
    dilated: DilatedPoints,
    boundary_logits: Tensor,
    embedding: Tensor,
    edges: Tensor | None,
    classes: list[Tensor],
    points: list[Tensor],
    image_sizes: list[tuple[int, int]],
    *,
    num_things: int,
    phase: int,
    official: bool,
    stride: int,
    lambdas: dict,
    transport: dict,
) -> PseudoLabels:
    """`make_pseudo_labels` of some images, all of them at once."""
    size = (dilated.masks.shape[-2], dilated.masks.shape[-1])
    sizes = [size] * len(classes) if official else image_sizes
    inside = pixels_inside(sizes, size, size, device=logits.device)
    present = present_probabilities(logits, dilated)
    best_class, best = best_classes(present)
    owner, instances = torch.full_like(best_class, NOBODY), max(len(labels) for labels in classes)
    if instances:
        graph_options: dict = {"edges": edges, "stride": stride, "official": official}
        graph = pixel_graph(present.probabilities, boundary_logits, embedding, **graph_options, **lambdas)
        rows = batch_points(points)
        taking_part = slots_taking_part(rows, classes, keep_absent=official and phase == 1)
        is_nobodys = (best_class >= num_things) | ~inside | ~taking_part.any(dim=0)[:, None, None]
        cost = resize(point_distance(graph, rows, instances, stride=stride), size)
        if phase == 1:
            supply, demand = nearest_supply(cost, taking_part, inside)
        else:
            counts = likely_classes(pad_sequence(classes), present.classes, num_things)
            likely = (present.probabilities, counts, taking_part, is_nobodys)
            options: dict = {"stride": stride, "official": official}
            supply, demand = _grown_supply(cost, graph, rows, taking_part, likely, sizes, **options)
        owner = transport_labels(
            cost.flatten(2),
            supply,
            demand.flatten(1),
            taking_part=taking_part,
            inside=inside.flatten(1),
            **transport,
        )
        owner = owner.view_as(best_class).masked_fill_(is_nobodys, NOBODY)
    boxes = batch_boxes(owner, instances, image_sizes)
    semantic = best_class.masked_fill((best < 0.5) | ~inside, NO_CLASS)
    return PseudoLabels(list(owner), [box[: len(labels)] for box, labels in zip(boxes, classes)], semantic)


def _points_of(dilated: DilatedPoints, images: slice) -> DilatedPoints:
    """The dilated points of some images of the batch."""
    counts = dilated.present.sum(dim=1).tolist()
    pairs = slice(sum(counts[: images.start]), sum(counts[: images.stop]))
    image = dilated.image_index[pairs] - images.start
    return DilatedPoints(image, dilated.class_index[pairs], dilated.masks[pairs], dilated.present[images])


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


def present_probabilities(logits: Tensor, dilated: DilatedPoints) -> PresentClasses:
    """Probabilities of each image's present classes: softmax over all classes, 1 in a class's own squares.

    The full-resolution scores of all classes, needed for the normaliser alone, exist in strips only (card 8.4).
    """
    batch, channels, small_height, _ = logits.shape
    height, width = dilated.masks.shape[1:]
    image, kind = dilated.image_index, dilated.class_index
    number = dilated.present.sum(dim=1)
    slots = max(int(number.max()), 1) if batch else 1
    slot = torch.arange(len(image), device=image.device) - (number.cumsum(dim=0) - number)[image]

    row = ((torch.arange(height, device=logits.device) + 0.5) * (small_height / height) - 0.5).clamp(min=0)
    upper = row.long()
    lower = (upper + 1).clamp(max=small_height - 1)
    result = logits.new_zeros(slots, batch, height, width)
    step = values_at_once(logits.device) // max(batch * channels * width, 1) + 1
    for start in range(0, height, step):
        rows = slice(start, start + step)
        strip = torch.lerp(logits[:, :, upper[rows]], logits[:, :, lower[rows]], (row - upper)[rows, None])
        strip = F.interpolate(strip, size=(strip.shape[2], width), mode="bilinear", align_corners=False)
        result[slot, image, rows] = strip.softmax(dim=1)[image, kind].masked_fill_(dilated.masks[:, rows], 1.0)
    classes = torch.full((slots, batch), NO_CLASS, dtype=torch.int64, device=image.device)
    return PresentClasses(result, classes.index_put_((slot, image), kind))


def best_classes(present: PresentClasses) -> tuple[Tensor, Tensor]:
    """Class (B, H, W) of the highest probability and that probability; class 0 where all are 0, as if absent classes
    were there too (fault aj)."""
    best, slot = present.probabilities.max(dim=0)
    kind = present.classes.T.gather(1, slot.flatten(1)).view_as(slot)
    return kind.masked_fill_(best == 0, 0), best


def likely_classes(instance_classes: Tensor, present_classes: Tensor, num_things: int) -> Tensor:
    """(B, m, k) float: 1 where a class of present_classes (k, B) makes a pixel likely to be of an instance: the class
    of the instance, instance_classes (m, B), or any stuff."""
    present = present_classes.T[:, None]
    return ((instance_classes.T[..., None] == present) | (present >= num_things)).float()


def _grown_supply(
    cost: Tensor,
    graph: Tensor,
    points: Tensor,
    taking_part: Tensor,
    likely: tuple[Tensor, Tensor, Tensor, Tensor],
    sizes: list[tuple[int, int]],
    *,
    stride: int,
    official: bool,
) -> tuple[Tensor, Tensor]:
    """Supply and demand of phase 2: masks around the points, then masks around their centres. `likely`: what
    `grown_masks` takes besides distances; sizes: the part (h, w) of each image that counts."""
    size, grid = (cost.shape[2], cost.shape[3]), (graph.shape[1], graph.shape[2])
    owner = grown_masks(cost, farthest_distance(cost, taking_part, sizes), *likely)
    distance = centre_distance(graph, centre_cells(owner, points, len(cost), grid, stride=stride, official=official))
    coarse_sizes = [(-(-height // stride), -(-width // stride)) for height, width in sizes]
    farthest = farthest_distance(distance, taking_part, coarse_sizes)
    distance = resize(distance / farthest[:, None, None], size)
    return mask_supply(grown_masks(distance, torch.ones_like(farthest), *likely), len(cost))


def boxes_of(instance_map: Tensor, instances: int, image_size: tuple[int, int]) -> Tensor:
    """Boxes (n, 4) xyxy around each mask of an image (H, W), cut at the image (h, w); its middle half for an empty
    mask."""
    return batch_boxes(instance_map[None], instances, [image_size])[0]


def batch_boxes(instance_maps: Tensor, instances: int, image_sizes: list[tuple[int, int]]) -> Tensor:
    """The same (B, n, 4) for a batch (B, H, W)."""
    rows, columns = (counts > 0 for counts in profiles(instance_maps, instances))
    top, left = (has.long().argmax(dim=2) for has in (rows, columns))
    bottom, right = (has.shape[2] - has.flip(2).long().argmax(dim=2) for has in (rows, columns))
    box = torch.stack([left, top, right, bottom], dim=2)
    limits = torch.tensor([[w, h, w, h] for h, w in image_sizes]).to(box.device, non_blocking=True)[:, None]
    middle = torch.cat([limits[..., :2] // 4, 3 * limits[..., 2:] // 4], dim=2)
    return torch.minimum(torch.where(rows.any(dim=2, keepdim=True), box, middle), limits).float()
