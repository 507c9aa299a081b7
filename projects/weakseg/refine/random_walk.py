"""Random walk: scores spread to the places that look alike to an embedding (SPML card 3.11, "Affinity", and 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_TILE = 256
"""Rows of the affinity that are made at once, so that their products stay small beside the whole."""

_SMALLEST_WEIGHT = 1e-30
"""Weights below become 0: products with numbers close to float32's smallest ones take a CPU a hundred times longer."""


@torch.no_grad()
def affinity(embeddings: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """exp(5 cos - 5) of every pair of the n = h * w cells of a map of `size` (h, w), mean over the views.

    embeddings: a map (C, h_v, w_v) a view, not normalised, flipped back and without padding; each is resized to `size`
    (bilinear, corners not aligned). Returns (n, n) float32, symmetric; 1 on the diagonal, where the embedding is 0 too.
    """
    cells = size[0] * size[1]
    features = []
    for embedding in embeddings:
        resized = F.interpolate(embedding[None].float(), size=size, mode="bilinear", align_corners=False)
        features.append(F.normalize(resized.flatten(2)[0], dim=0))  # (C, n)
    result = features[0].new_zeros(cells, cells)
    with torch.autocast(result.device.type, enabled=False):
        for start in range(0, cells, _TILE):
            tile = result[start : start + _TILE]
            for feature in features:
                tile += (feature[:, start : start + _TILE].t() @ feature).sub_(1).mul_(5).exp_()
            tile /= len(features)
    result.fill_diagonal_(1.0)
    return result


@torch.no_grad()
def transition_matrix(embeddings: Sequence[Tensor], size: tuple[int, int], *, power: int = 20) -> Tensor:
    """T = W / column sums with W = affinity ** power: (n, n) float32, made in the memory of the affinity."""
    weights = affinity(embeddings, size).pow_(power)
    torch.threshold_(weights, _SMALLEST_WEIGHT, 0.0)
    # 64 steps multiply what a column is off by; float32 sums of 2852 cells were off by 3e-7, the walk's result by 2e-5.
    sums = sum(tile.sum(0, dtype=torch.float64) for tile in weights.split(_TILE))
    weights /= sums.float()
    return weights


@torch.no_grad()
def random_walk(scores: Tensor, transition: Tensor, *, steps: int = 64) -> Tensor:
    """scores (K, h, w) times T^steps: out[c, j] = sum_i scores[c, i] T^steps[i, j]. Returns (K, h, w) float32.

    transition (n, n) = T with n = h * w. A class without a score other than 0 keeps its zeros and costs nothing; the
    others are multiplied by T `steps` times, and T is squared only where that saves more than it costs.
    """
    result = scores.flatten(1).float()
    present = (result != 0).any(1).nonzero().squeeze(1)
    walked = result[present]
    with torch.autocast(walked.device.type, enabled=False):
        while steps and len(walked):
            if steps % 2 == 0 and len(walked) * steps > 2 * len(transition):
                transition, steps = transition @ transition, steps // 2
            else:
                walked, steps = walked @ transition, steps - 1
    return result.index_copy(0, present, walked).view(scores.shape)
