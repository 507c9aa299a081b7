"""Boundary loss as Point2Mask's card describes it (3.9, 8.6): one-hot instance masks, eight full-size copies of them,
of the classes and of the boundary, and a value for every pair of neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.literal_pseudo_labels import neighbours

NO_CLASS = 255


def boundary_loss(logits: Tensor, masks: list[Tensor], semantic: Tensor, *, num_things: int) -> Tensor:
    """logits (B, h0, w0); masks per image (n, H, W) float one-hot; semantic (B, H, W), 255 none. A scalar."""
    boundary = F.interpolate(logits[:, None], size=semantic.shape[-2:], mode="bilinear", align_corners=False).sigmoid()
    affinity = 1 - torch.maximum(boundary[:, :, None], neighbours(boundary))[:, 0]
    together, apart = -(affinity + 1e-5).log(), -(1 + 1e-5 - affinity).log()
    losses = []
    for b, mask in enumerate(masks):
        mask_near = neighbours(mask[None])[0]
        mask_here = mask[:, None]
        kind_here = semantic[b, None].float()
        kind_near = neighbours(kind_here[None])[0, 0]
        thing = (mask_here * mask_near).sum(dim=0) > 0
        stuff = (kind_here == kind_near) & (kind_here >= num_things) & (kind_here < NO_CLASS)
        kinds_differ = (kind_here != kind_near) & (kind_here < NO_CLASS) & (kind_near < NO_CLASS)
        different = (mask_here != mask_near).any(dim=0) | kinds_differ
        means = [
            (loss[b] * pairs).sum() / (pairs.sum() + 1e-5)
            for loss, pairs in ((together, thing), (together, stuff), (apart, different))
        ]
        losses.append((0.5 * means[0] + 0.5 * means[1] + means[2]) / 2)
    return torch.stack(losses).mean()
