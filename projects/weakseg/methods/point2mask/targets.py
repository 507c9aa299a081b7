"""What the labels of a batch say, in the form that the losses use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weakseg.labels import WeakLabels
from weakseg.methods.point2mask.pseudo_labels import PseudoLabels, boxes_of
from weakseg.methods.point2mask.semantic_losses import NO_CLASS


@dataclass
class PointTargets:
    """Labelled pixels of a batch padded to (H, W).

    classes: per image (n,) int64, the classes of its thing instances; points: per image (P, 3) int64 rows of
    (instance, y, x); point_map (B, H, W) int64: the class of each labelled pixel, things and stuff, else 255.
    """

    classes: list[Tensor]
    points: list[Tensor]
    point_map: Tensor


def point_targets(
    labels: list[WeakLabels], padded_size: tuple[int, int], *, num_things: int, official: bool = False
) -> PointTargets:
    """Labelled pixels of a batch (card section 3, inputs; 6). Things are instances; a crowd is not.

    The published form (`official`) marks the class of a crowd in the point map (fault ac). Where two points share a
    pixel, the later target's class is kept.
    """
    device = labels[0].classes.device
    point_map = torch.full((len(labels), *padded_size), NO_CLASS, dtype=torch.int64, device=device)
    classes, points = [], []
    for number, weak in enumerate(labels):
        is_instance = _is_instance(weak, num_things)
        instance_of = is_instance.cumsum(0) - 1
        on_object = weak.point_positive
        target = weak.point_target[on_object]
        x, y = weak.points[on_object].floor().long().unbind(1)
        rows = torch.stack([instance_of[target], y, x], dim=1)
        points.append(rows[is_instance[target]])
        classes.append(weak.classes[is_instance])
        shown = torch.ones_like(target, dtype=torch.bool) if official else ~weak.is_crowd[target]
        point_map[number, y[shown], x[shown]] = weak.classes[target][shown]
    return PointTargets(classes, points, point_map)


def true_labels(
    labels: list[WeakLabels], padded_size: tuple[int, int], *, num_things: int
) -> tuple[list[Tensor], PseudoLabels]:
    """The same from true masks: per image the classes of its instances, and the truth in the place of pseudo labels.

    Void and crowds are 255 in the semantic map and belong to nobody.
    """
    device = labels[0].classes.device
    semantic = torch.full((len(labels), *padded_size), NO_CLASS, dtype=torch.int64, device=device)
    classes, maps, boxes = [], [], []
    for number, weak in enumerate(labels):
        height, width = weak.image_size
        is_instance = _is_instance(weak, num_things)
        instance_of = torch.where(is_instance, is_instance.cumsum(0) - 1, -1)
        owner = torch.full(padded_size, -1, dtype=torch.int64, device=device)
        masks = weak.masks if weak.masks is not None else torch.zeros(0, height, width, dtype=torch.bool, device=device)
        for mask, target in zip(masks, weak.mask_target):
            kind = torch.where(weak.is_crowd[target], NO_CLASS, weak.classes[target])
            semantic[number, :height, :width] = torch.where(mask, kind, semantic[number, :height, :width])
            owner[:height, :width] = torch.where(mask, instance_of[target], owner[:height, :width])
        classes.append(weak.classes[is_instance])
        maps.append(owner)
        boxes.append(boxes_of(owner, len(classes[-1]), weak.image_size))
    return classes, PseudoLabels(instance_map=maps, boxes=boxes, semantic=semantic)


def _is_instance(weak: WeakLabels, num_things: int) -> Tensor:
    return (weak.classes < num_things) & ~weak.is_crowd
