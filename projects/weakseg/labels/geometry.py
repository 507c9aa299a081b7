"""Resize, crop and flip of `WeakLabels`: points move as coordinates, masks by the pixel whose centre is nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from weakseg.labels.weak_labels import WeakLabels


def resize(weak: WeakLabels, size: tuple[int, int]) -> WeakLabels:
    """The labels of the image resized to `size` (h, w). No point, scribble or box vanishes, down to an image of one
    pixel; masks of small targets may become empty, their number stays."""
    (height, width), (new_height, new_width) = weak.image_size, size
    scale = weak.points.new_tensor([new_width / width, new_height / height])
    masks = None
    if weak.masks is not None:
        rows, columns = _source_index(height, new_height), _source_index(width, new_width)
        masks = weak.masks[:, rows.to(weak.masks.device)][:, :, columns.to(weak.masks.device)]
    return weak.replace(
        image_size=(new_height, new_width),
        points=_keep_inside(weak.points * scale, size),
        scribbles=[_keep_inside(line * scale, size) for line in weak.scribbles],
        boxes=weak.boxes * scale.repeat(2),
        masks=masks,
    )


def crop(weak: WeakLabels, x0: int, y0: int, width: int, height: int) -> WeakLabels:
    """The labels of the window of `width` x `height` pixels at (x0, y0), which lies inside the image.

    Labels outside are dropped and the targets keep their indices, so that a target may end without any label. A
    scribble is cut into the runs of its vertices inside (the way from the last vertex inside to the border is lost);
    boxes are clipped; a mask without a pixel inside is dropped. Tags and expressions stay: they speak of the whole
    image.
    """
    corner = weak.points.new_tensor([x0, y0])
    low, high = corner, corner + corner.new_tensor([width, height])
    is_kept = ((weak.points >= low) & (weak.points < high)).all(dim=1)
    scribbles, scribble_target = [], []
    for line, target in zip(weak.scribbles, weak.scribble_target.tolist()):
        for run in _runs(line, ((line >= low) & (line < high)).all(dim=1)):
            scribbles.append(run - corner)
            scribble_target.append(target)
    boxes = torch.cat([weak.boxes[:, :2].maximum(low), weak.boxes[:, 2:].minimum(high)], dim=1) - corner.repeat(2)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    masks, mask_target = weak.masks, weak.mask_target
    if masks is not None:
        masks = masks[:, y0 : y0 + height, x0 : x0 + width]
        has_pixel = masks.flatten(1).any(dim=1)
        masks, mask_target = masks[has_pixel], mask_target[has_pixel]
    return weak.replace(
        image_size=(height, width),
        points=weak.points[is_kept] - corner,
        point_target=weak.point_target[is_kept],
        point_positive=weak.point_positive[is_kept],
        scribbles=scribbles,
        scribble_target=weak.scribble_target.new_tensor(scribble_target),
        boxes=boxes[has_area],
        box_target=weak.box_target[has_area],
        masks=masks,
        mask_target=mask_target,
    )


def hflip(weak: WeakLabels) -> WeakLabels:
    """The labels of the image mirrored left to right. Expressions keep their words ("left" stays "left")."""
    width = weak.image_size[1]
    x0, y0, x1, y1 = weak.boxes.unbind(dim=1)
    return weak.replace(
        points=_mirror(weak.points, width),
        scribbles=[_mirror(line, width) for line in weak.scribbles],
        boxes=torch.stack([width - x1, y0, width - x0, y1], dim=1),
        masks=None if weak.masks is None else weak.masks.flip(-1),
    )


def _source_index(size: int, new_size: int) -> Tensor:
    """Index (new_size,) of the old pixel that holds the centre of each new one: floor((i + 1/2) size / new_size)."""
    return torch.div((2 * torch.arange(new_size) + 1) * size, 2 * new_size, rounding_mode="floor")


def _keep_inside(points: Tensor, size: tuple[int, int]) -> Tensor:
    # Rounding can put a point on the right or lower border, which is already the pixel outside.
    border = points.new_tensor([size[1], size[0]])
    return points.minimum(torch.nextafter(border, torch.zeros_like(border))).clamp(min=0)


def _mirror(points: Tensor, width: int) -> Tensor:
    # A point on the left border of its pixel would land on the right border of the mirrored one: in the next pixel.
    x, y = points.unbind(dim=1)
    border = width - x.floor()
    return torch.stack([(width - x).minimum(torch.nextafter(border, torch.zeros_like(border))), y], dim=1)


def _runs(line: Tensor, is_inside: Tensor) -> list[Tensor]:
    """The parts of a polyline (L, 2) whose successive vertices are all inside."""
    inside = is_inside.nonzero().flatten()
    if not len(inside):
        return []
    starts = (inside.diff() > 1).nonzero().flatten() + 1
    return [line[run] for run in inside.tensor_split(starts.cpu())]
