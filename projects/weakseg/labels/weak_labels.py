"""What a person gave for one image, in memory: `WeakLabels`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

NO_CLASS = 255
"""The class of a pixel in a class map that nobody gave a class."""


class LabelKind(str, Enum):
    """The kinds of labels that a run may see (`INPUT.SUPERVISION`)."""

    POINTS = "points"
    SCRIBBLES = "scribbles"
    BOXES = "boxes"
    TAGS = "tags"
    MASKS = "masks"
    EXPRESSIONS = "expressions"


def _empty(*shape: int, dtype: torch.dtype = torch.float32):
    return field(default_factory=lambda: torch.zeros(shape, dtype=dtype))


@dataclass
class WeakLabels:
    """Labels of one image of `image_size` (H, W) pixels, with N targets: thing instances and stuff segments in file
    order.

    Every kind of label is a pair: the values, and for each value the target (0..N-1) it belongs to. A target may have
    several values of one kind, or none. Coordinates are continuous pixels, (x, y), origin at the top-left corner of the
    top-left pixel; the pixel of (x, y) is (floor x, floor y).

    classes (N,) int64, contiguous class indices: things 0..T-1, then stuff T..T+U-1.
    is_crowd (N,) bool, the target is a group that is not told apart.
    points (P, 2) float32; point_target (P,) int64; point_positive (P,) bool, False for "not on the object".
    scribbles: K polylines (L_k, 2) float32; scribble_target (K,) int64.
    boxes (M, 4) float32 as (x0, y0, x1, y1); box_target (M,) int64.
    masks (M, H, W) bool; mask_target (M,) int64.
    expressions: sentences; expression_target (E,) int64.
    tags (G,) int64, class indices present in the image; None: the image has no tag list (unknown, not "nothing here").
    """

    image_size: tuple[int, int]
    classes: Tensor = _empty(0, dtype=torch.int64)
    is_crowd: Tensor = _empty(0, dtype=torch.bool)
    points: Tensor = _empty(0, 2)
    point_target: Tensor = _empty(0, dtype=torch.int64)
    point_positive: Tensor = _empty(0, dtype=torch.bool)
    scribbles: list[Tensor] = field(default_factory=list)
    scribble_target: Tensor = _empty(0, dtype=torch.int64)
    boxes: Tensor = _empty(0, 4)
    box_target: Tensor = _empty(0, dtype=torch.int64)
    masks: Tensor | None = None
    mask_target: Tensor = _empty(0, dtype=torch.int64)
    expressions: list[str] = field(default_factory=list)
    expression_target: Tensor = _empty(0, dtype=torch.int64)
    tags: Tensor | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def replace(self, **changes) -> WeakLabels:
        return replace(self, **changes)

    def to(self, device: torch.device) -> WeakLabels:
        """The same labels with every tensor on `device`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in values.items()
        }
        moved["scribbles"] = [line.to(device) for line in self.scribbles]
        return WeakLabels(**moved)
