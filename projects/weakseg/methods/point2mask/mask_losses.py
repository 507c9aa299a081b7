"""Mask losses: dice of every decoder layer's masks against the pseudo masks, and the existence of the stuff classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weakseg.labels import NO_CLASS
from weakseg.layers.resize import interpolation_matrix
from weakseg.methods.point2mask.semantic_losses import existence_loss_sum

_CHUNK_PIXELS = 2**23
"""Pixels of full-size target masks that are held at a time (32 MB)."""


def dice_losses(
    masks: Sequence[Tensor],
    label_maps: Tensor,
    labels: Sequence[Tensor],
    *,
    image_sizes: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Dice loss of every mask, bilinearly resized to the label map, against the pixels of its label (card section 3.7).

    Per image: masks (L, n, h0, w0), >= 0, of L decoder layers; labels (n,), the target of mask k is the pixels of
    label_maps (B, H, W) that are labels[k]. With `image_sizes` (h, w) only pixels of the image count, else padding does
    too (card fault r). Returns (L, sum of n), unweighted, in the order of the images.

    Resizing is a linear map of rows and of columns: p = R m C'. So the sums over p that dice needs are sums over the
    small mask, sum(p t) = <m, R' t C> and sum(p p) = <m, R'R m C'C>, and no resized mask is ever made.
    """
    size = (label_maps.shape[-2], label_maps.shape[-1])
    losses = [
        _image_dice(masks[b], label_maps[b], labels[b], size if image_sizes is None else image_sizes[b])
        for b in range(len(masks))
    ]
    return torch.cat(losses, dim=1)


def stuff_presence(semantic: Tensor, *, num_things: int, num_stuff: int) -> Tensor:
    """(B, U) bool: which stuff classes (num_things + j) occur in the semantic pseudo label (B, H, W)
    of classes, 255 none."""
    present = torch.zeros(len(semantic), NO_CLASS + 1, dtype=torch.bool, device=semantic.device)
    present.scatter_(1, semantic.flatten(1), True)
    return present[:, num_things : num_things + num_stuff]


def stuff_losses(
    masks: Tensor,
    existence_logits: Tensor,
    semantic: Tensor,
    *,
    present: Tensor,
    num_things: int,
    normalizer: float | Tensor,
    image_sizes: Sequence[tuple[int, int]] | None = None,
) -> tuple[Tensor, Tensor]:
    """(dice, focal loss on existence) of the stuff queries, each (L,), unweighted (card section 3.7).

    masks (L, B, U, h0, w0); existence_logits (L, B, U); semantic (B, H, W) pseudo label; present (B, U) of
    `stuff_presence`. Only present classes enter the dice; all enter the focal loss. Sums over the batch are divided by
    `normalizer`, the number of present classes; where that is 0 both losses are zeros with a gradient.
    """
    classes = present.nonzero()[:, 1].split(present.sum(1).tolist())
    chosen = [masks[:, b, stuff] for b, stuff in enumerate(classes)]
    labels = [stuff + num_things for stuff in classes]
    dice = dice_losses(chosen, semantic, labels, image_sizes=image_sizes).sum(1)
    focal = existence_loss_sum(existence_logits, present)
    normalizer = torch.as_tensor(normalizer, dtype=torch.float32, device=masks.device)
    scale = torch.where(normalizer > 0, 1 / normalizer, torch.zeros_like(normalizer))
    return dice * scale, focal * scale


def _image_dice(masks: Tensor, label_map: Tensor, labels: Tensor, image_size: tuple[int, int]) -> Tensor:
    height, width = image_size
    rows = interpolation_matrix(masks.shape[-2], label_map.shape[0], masks.device)[:height]
    columns = interpolation_matrix(masks.shape[-1], label_map.shape[1], masks.device)[:width]
    # fp32: sums over a whole image overflow or drown in half precision.
    with torch.autocast(masks.device.type, enabled=False):
        masks = masks.float()
        target, target_area = _gathered_targets(label_map[:height, :width], labels, rows, columns)
        overlap = (masks * target).sum((-2, -1))
        energy = (masks * (rows.T @ rows @ masks @ (columns.T @ columns))).sum((-2, -1))
        return 1 - 2 * overlap / (energy + 1e-3 + target_area + 1e-3)


@torch.no_grad()
def _gathered_targets(label_map: Tensor, labels: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """R' t C of every target (n, h0, w0), and its number of pixels (n,)."""
    chunk = max(1, _CHUNK_PIXELS // max(1, label_map.numel()))
    gathered, areas = [], []
    for some in labels.split(chunk):
        target = (label_map == some[:, None, None]).float()
        gathered.append(rows.T @ (target @ columns))
        areas.append(target.sum((-2, -1)))
    return torch.cat(gathered), torch.cat(areas)
