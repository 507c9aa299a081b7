"""A head on a map of three channels, and labels for it; the tests of `cam_head` share them."""

import torch

from weakseg.labels import ClassOrder, WeakLabels
from weakseg.methods.spml.cam_head import CAMHead

NAMES = ("cat", "dog", "background", "owl")
"""House classes 0, 1, 2, 3; without the background cat, dog and owl are the numbers 0, 1 and 2."""


def head_of(names=NAMES, weight=None, **arguments):
    """A head on a map "map" of 3 channels; weight (K', 3), default one class a channel."""
    head = CAMHead(3, in_feature="map", classes=ClassOrder.of(names), **arguments)
    weight = torch.eye(3) if weight is None else torch.as_tensor(weight)
    assert head.classifier.bias is None
    head.classifier.weight.data = weight[: len(head.foreground), :, None, None].float()
    return head


def labels_of(size, *, tags=None, boxes=()):
    """boxes: rows of (x0, y0, x1, y1, house class)."""
    return WeakLabels(
        image_size=size,
        classes=torch.tensor([box[4] for box in boxes], dtype=torch.int64),
        is_crowd=torch.zeros(len(boxes), dtype=torch.bool),
        boxes=torch.tensor([box[:4] for box in boxes], dtype=torch.float32).reshape(-1, 4),
        box_target=torch.arange(len(boxes)),
        tags=None if tags is None else torch.tensor(tags, dtype=torch.int64),
    )


def samples(*weak):
    return [{"weak": one, "height": one.image_size[0], "width": one.image_size[1]} for one in weak]
