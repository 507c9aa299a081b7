"""What scales which loss term: the balance of things and stuff, and the ramp of losses that trust pseudo labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """Weights of card table 3.10. `classification`, `box` and `giou` also weigh the matching costs."""

    classification: float = 2.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 2.0
    stuff_class_factor: float = 2.0
    color: float = 3.0
    tree: float = 3.0

    @property
    def location(self) -> dict[str, float]:
        """Keyword arguments of `match` and `location_losses`."""
        return {"class_weight": self.classification, "box_weight": self.box, "giou_weight": self.giou}


SCALING = {
    "loss_sem_cls": (None, False),
    "loss_sem_mask": (None, False),
    "loss_sem_color": (None, False),
    "loss_tree_color": (None, True),
    "loss_cls": ("thing", False),
    "loss_bbox": ("thing", True),
    "loss_iou": ("thing", True),
    "loss_mask": ("thing", True),
    "loss_st_mask": ("stuff", True),
    "loss_st_cls": ("stuff", True),
    "loss_cl": (None, False),
    "loss_bnd": (None, True),
}
"""Loss name without its layer -> (share that multiplies it, whether the ramp does) (card section 3.10)."""

_THING_SCALED_IN_RELEASE = ("loss_sem_cls", "loss_sem_mask", "loss_sem_color", "loss_tree_color")


def loss_ramp(step: int | Tensor, ramp_iters: int) -> float | Tensor:
    """Factor in [0, 1] that grows linearly over the first `ramp_iters` steps; `step` counts the steps done before, as a
    number or a 0-d tensor (then the result is one too)."""
    if ramp_iters <= 0:
        return 1.0
    progress = step / ramp_iters
    return progress.clamp(0, 1) if isinstance(progress, Tensor) else min(max(progress, 0.0), 1.0)


def scale_losses(
    losses: dict[str, Tensor],
    *,
    thing_count: float | Tensor,
    stuff_count: float | Tensor,
    ramp: float | Tensor,
    official: bool = False,
) -> dict[str, Tensor]:
    """Loss terms by name, `loss_x` or `d{layer}.loss_x`, multiplied by their share and ramp.

    The thing share is thing_count / (thing_count + stuff_count), counted as the normalisers of the mask losses
    (thing_count >= 1); the stuff share is the rest. `official` restores the release: semantic losses take the thing
    share (card fault c), and the last layer's `loss_bbox` and `loss_iou` have each other's name (fault a).
    """
    thing_share = thing_count / (thing_count + stuff_count)
    shares = {"thing": thing_share, "stuff": 1 - thing_share, None: 1.0}
    scaled = {}
    for name, loss in losses.items():
        base = name.rsplit(".", 1)[-1]
        share, ramped = SCALING[base]
        if official and base in _THING_SCALED_IN_RELEASE:
            share = "thing"
        scaled[name] = loss * shares[share] * (ramp if ramped else 1.0)
    if official and "loss_bbox" in scaled:
        scaled["loss_bbox"], scaled["loss_iou"] = scaled["loss_iou"], scaled["loss_bbox"]
    return scaled
