"""Location losses: a decoder layer's queries are matched with the pseudo boxes and trained towards them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert

Matches = list[tuple[Tensor, Tensor]]
"""Per image (queries (m,), instances (m,)), queries increasing, m = min(Q, n)."""


def box_scales(image_sizes: list[tuple[int, int]], device: torch.device | None = None) -> Tensor:
    """(B, 4) float32: what boxes in [0, 1] of the unpadded images (h, w) are multiplied by to be absolute."""
    scales = [(width, height, width, height) for height, width in image_sizes]
    return torch.tensor(scales, dtype=torch.float32).to(device, non_blocking=True)


@torch.no_grad()
def match(
    class_logits: Tensor,
    boxes: Tensor,
    *,
    pseudo_boxes: list[Tensor],
    classes: list[Tensor],
    image_scales: Tensor,
    class_weight: float,
    box_weight: float,
    giou_weight: float,
) -> list[Matches]:
    """Hungarian matching of queries and instances, per decoder layer and image (card section 3.6).

    class_logits (L, B, Q, T); boxes (L, B, Q, 4) cxcywh in [0, 1] of the unpadded image; per image pseudo_boxes (n, 4)
    absolute xyxy and classes (n,); image_scales (B, 4) of `box_scales`. Returns L lists of B matches, on the device of
    the logits. The costs of all layers and images go to the host in one copy.
    """
    costs = []
    for b, (targets, labels, scale) in enumerate(zip(pseudo_boxes, classes, image_scales)):
        predicted = boxes[:, b].float()
        corners = box_convert(predicted, "cxcywh", "xyxy") * scale
        centred = box_convert(targets, "xyxy", "cxcywh") / scale
        distance = (predicted[:, :, None] - centred).abs().sum(-1)
        overlap = generalized_iou(corners[:, :, None], targets)
        focal = _focal_cost(class_logits[:, b].float())[..., labels]
        costs.append(class_weight * focal + box_weight * distance - giou_weight * overlap)
    return _assign(costs, class_logits.device)


def location_losses(
    class_logits: Tensor,
    boxes: Tensor,
    matches: Matches,
    *,
    pseudo_boxes: list[Tensor],
    classes: list[Tensor],
    image_scales: Tensor,
    normalizer: float | Tensor,
    class_weight: float,
    box_weight: float,
    giou_weight: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """(focal loss of the classes, L1 of the boxes, 1 - GIoU of the boxes), weighted scalars (card section 3.6).

    One layer: class_logits (B, Q, T), boxes (B, Q, 4), the rest as in `match`. A loss is a sum over the batch divided
    by `normalizer`, the number of matched pairs (at least 1). Without a pair the box losses are zeros of the graph.
    """
    target_class = torch.zeros_like(class_logits, dtype=torch.float32)
    pairs = []
    for b, (queries, instances) in enumerate(matches):
        target_class[b, queries, classes[b][instances]] = 1
        scales = image_scales[b].expand(len(queries), 4)
        pairs.append((boxes[b, queries].float(), pseudo_boxes[b][instances].float(), scales))
    predicted, targets, scales = (torch.cat(parts) for parts in zip(*pairs))

    focal = sigmoid_focal_loss(class_logits, target_class, alpha=0.25, gamma=2, reduction="sum")
    distance = F.l1_loss(predicted, box_convert(targets, "xyxy", "cxcywh") / scales, reduction="sum")
    overlap = generalized_iou(box_convert(predicted, "cxcywh", "xyxy") * scales, targets)
    return (
        class_weight * focal / normalizer,
        box_weight * distance / normalizer,
        giou_weight * (1 - overlap).sum() / normalizer,
    )


def generalized_iou(first: Tensor, second: Tensor, floor: float = 1e-6) -> Tensor:
    """GIoU of xyxy boxes (..., 4), broadcast against each other; union and hull are at least `floor`."""
    area = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (first, second)]
    corner_min, corner_max = torch.minimum(first, second), torch.maximum(first, second)
    inner = (corner_min[..., 2:] - corner_max[..., :2]).clamp(min=0).prod(-1)
    hull = (corner_max[..., 2:] - corner_min[..., :2]).clamp(min=0).prod(-1).clamp(min=floor)
    union = (area[0] + area[1] - inner).clamp(min=floor)
    return inner / union - (hull - union) / hull


def _focal_cost(logits: Tensor) -> Tensor:
    p = logits.sigmoid()
    return 0.75 * p**2 * (1 - p + 1e-12).log() - 0.25 * (1 - p) ** 2 * (p + 1e-12).log()


def _assign(costs: list[Tensor], device: torch.device) -> list[Matches]:
    """costs: per image (L, Q, n). One copy to the host, one back."""
    # A network that diverged must end in the trainer's guard against losses that are not finite, not in scipy.
    host = torch.cat([cost.flatten() for cost in costs]).nan_to_num(nan=1e9, posinf=1e9, neginf=-1e9).cpu()
    stacks = [part.view(cost.shape).numpy() for part, cost in zip(host.split([c.numel() for c in costs]), costs)]
    pairs = [torch.from_numpy(np.stack(linear_sum_assignment(cost))) for layer in zip(*stacks) for cost in layer]
    indices = torch.cat(pairs, dim=1).to(device).split([pair.shape[1] for pair in pairs], dim=1)
    flat = [(queries, instances) for queries, instances in indices]
    images = len(costs)
    return [flat[start : start + images] for start in range(0, len(flat), images)]
