"""What the labels of a batch say, in the form that the losses use.

Labels come from the loader on the CPU. What has a size that depends on the data is made there, so that the device is
never asked, and moved once for the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weakseg.labels import NO_CLASS, WeakLabels
from weakseg.methods.point2mask.pseudo_labels import PseudoLabels, boxes_of


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
    labels: list[WeakLabels],
    padded_size: tuple[int, int],
    *,
    num_things: int,
    device: torch.device | None = None,
    official: bool = False,
) -> PointTargets:
    """Labelled pixels of a batch (card section 3, inputs; 6), on `device`. Things are instances; a crowd is not.

    The published form (`official`) marks the class of a crowd in the point map (fault ac). Where targets share a pixel,
    the class of the later one is kept.
    """
    height, width = padded_size
    classes, points, labelled = [], [], []
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
        # Each pixel is written once: the order of several writes to one place is undefined.
        pixel, which = ((number * height + y) * width + x)[shown].unique(return_inverse=True)
        latest = torch.zeros_like(pixel).scatter_reduce_(0, which, target[shown], "amax")
        labelled.append(torch.stack([pixel, weak.classes[latest]], dim=1))
    pixel, kind = torch.cat(labelled).to(device, non_blocking=True).unbind(1)
    point_map = torch.full((len(labels) * height * width,), NO_CLASS, dtype=torch.int64, device=device)
    point_map[pixel] = kind
    return PointTargets(_moved(classes, device), _moved(points, device), point_map.view(-1, height, width))


def true_labels(
    labels: list[WeakLabels], padded_size: tuple[int, int], *, num_things: int, device: torch.device | None = None
) -> tuple[list[Tensor], PseudoLabels]:
    """The same from true masks: per image the classes of its instances, and the truth in the place of pseudo labels.

    Void and crowds are 255 in the semantic map and belong to nobody. Where masks overlap, the later one is kept.
    """
    classes, kinds, owners, boxes = [], [], [], []
    for weak in labels:
        height, width = weak.image_size
        is_instance = _is_instance(weak, num_things)
        # A target's row in the two tables; the last row is for pixels of no target, -1.
        target_of = torch.full(padded_size, -1, dtype=torch.int64)
        if weak.masks is not None:
            for mask, target in zip(weak.masks, weak.mask_target.tolist()):
                target_of[:height, :width].masked_fill_(mask, target)
        kind_of = torch.cat([weak.classes.masked_fill(weak.is_crowd, NO_CLASS), torch.tensor([NO_CLASS])])
        instance_of = (is_instance.cumsum(0) - 1).masked_fill(~is_instance, -1)
        instance_of = torch.cat([instance_of, torch.tensor([-1])])
        classes.append(weak.classes[is_instance])
        kinds.append(kind_of[target_of])
        owners.append(instance_of[target_of])
        boxes.append(boxes_of(owners[-1], len(classes[-1]), weak.image_size))
    semantic, instance_maps = torch.stack([torch.stack(kinds), torch.stack(owners)]).to(device, non_blocking=True)
    return _moved(classes, device), PseudoLabels(list(instance_maps), _moved(boxes, device), semantic)


def _is_instance(weak: WeakLabels, num_things: int) -> Tensor:
    return (weak.classes < num_things) & ~weak.is_crowd


def _moved(parts: list[Tensor], device: torch.device | None) -> list[Tensor]:
    """The same tensors on `device`, moved in one copy that the host does not wait for."""
    return list(torch.cat(parts).to(device, non_blocking=True).split([len(part) for part in parts]))
