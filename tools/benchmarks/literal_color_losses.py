"""Colour prior and tree loss of one decoder layer as Point2Mask's card describes them (3.2, 3.3): every layer makes its
neighbours, colour weights and spanning tree anew, and the filter walks over the depth levels of the tree.

The walk is the release's up and down pass with all vertices of a level at once, as its GPU kernels work; the tree comes
from compiled code, as there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor

from weakseg.layers.color import denormalize, rgb_to_lab

SIGMA = 0.02
KERNEL_SHARES = {3: 0.35, 5: 0.65}
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def color_prior(logits: Tensor, image: Tensor) -> Tensor:
    """Mean over images of the colour prior: logits (B, C, h, w), normalised RGB image (B, 3, h, w). A scalar."""
    statistics = (image.new_tensor(values) for values in (PIXEL_MEAN, PIXEL_STD))
    lab = rgb_to_lab(denormalize(image, *statistics) / 255)
    log_probability = logits.log_softmax(dim=1)
    total = logits.new_zeros(())
    for kernel, share in KERNEL_SHARES.items():
        joint = log_probability[:, :, None] + dilated_neighbours(log_probability, kernel)
        largest = joint.amax(dim=1, keepdim=True)
        similarity = (joint - largest).exp().sum(dim=1).log() + largest[:, 0]
        distance = (lab[:, :, None] - dilated_neighbours(lab, kernel)).norm(dim=1)
        weight = (torch.exp(-0.5 * distance) >= 0.3).float()
        per_image = -(similarity * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp(min=1)
        total = total + share * per_image.mean()
    return total


def dilated_neighbours(maps: Tensor, kernel: int) -> Tensor:
    """(B, C, k * k - 1, h, w): the neighbours in a window of dilation 2, 0 outside."""
    batch, channels, height, width = maps.shape
    windows = F.unfold(maps, kernel, dilation=2, padding=kernel - 1).view(batch, channels, -1, height, width)
    centre = kernel * kernel // 2
    return torch.cat([windows[:, :, :centre], windows[:, :, centre + 1 :]], dim=2)


def tree_loss(probability: Tensor, image: Tensor) -> Tensor:
    """sum |P - F| over images, classes and pixels: P (B, C, h, w), normalised image (B, 3, h, w). A scalar."""
    filtered = [tree_filter(p, spanning_tree(guide)) for p, guide in zip(probability, image)]
    return (probability - torch.stack(filtered)).abs().sum()


class LevelTree(NamedTuple):
    """A rooted tree in breadth-first order: order (N,) vertices; parent (N,), the position of each one's parent;
    similarity (N, 1) to it, 0 for the root; levels, the first position of each depth and N."""

    order: Tensor
    parent: Tensor
    similarity: Tensor
    levels: list[int]


def spanning_tree(guide: Tensor) -> LevelTree:
    """Minimum spanning tree of one image (3, h, w), rooted at the first pixel; ties by edge index."""
    height, width = guide.shape[1:]
    values = guide.detach().cpu().flatten(1).numpy()
    vertex = np.arange(height * width, dtype=np.int32).reshape(height, width)
    start = np.concatenate([vertex[:-1].ravel(), vertex[:, :-1].ravel()])
    end = np.concatenate([vertex[1:].ravel(), vertex[:, 1:].ravel()])
    weight = np.square(values[:, start] - values[:, end]).sum(axis=0) + np.float32(1)
    rank = np.empty(len(weight))
    rank[np.argsort(weight, kind="stable")] = np.arange(1, len(weight) + 1)
    edges = minimum_spanning_tree(csr_array((rank, (start, end)), shape=(vertex.size, vertex.size)))
    order, parents = breadth_first_order(edges, 0, directed=False)
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    parent = position[np.where(order == 0, 0, parents[order])]
    # In breadth-first order the children of a level are one run: those whose parent lies in the run before.
    levels, first = [0, 1], 1
    while first < len(order):
        first = int(np.searchsorted(parent, first, side="left")) if parent[-1] >= first else len(order)
        levels.append(first)
    difference = values[:, order] - values[:, order[parent]]
    similarity = np.exp(-np.square(difference).sum(axis=0) / SIGMA)
    similarity[0] = 0
    tensors = (torch.from_numpy(array).to(guide.device) for array in (order.astype(np.int64), parent))
    return LevelTree(*tensors, torch.from_numpy(similarity.astype(np.float32)).to(guide.device)[:, None], levels)


def tree_filter(values: Tensor, tree: LevelTree) -> Tensor:
    """Every pixel's average of all others, weighted along the tree: values (K, h, w)."""
    return _TreeFilter.apply(values, tree)


class _TreeFilter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, tree: LevelTree) -> Tensor:
        # The normaliser is the same sum of ones; it rides along as one more channel.
        sums = _path_sums(torch.cat([values, torch.ones_like(values[:1])]), tree)
        ctx.tree = tree
        ctx.save_for_backward(sums[-1])
        return sums[:-1] / sums[-1]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (normalizer,) = ctx.saved_tensors
        return _path_sums(gradient / normalizer, ctx.tree), None


def _path_sums(values: Tensor, tree: LevelTree) -> Tensor:
    """Up pass from the leaves, down pass from the root, a level at a time: values (K, h, w)."""
    rows = values.flatten(1).T[tree.order]
    spans = [slice(first, last) for first, last in zip(tree.levels[1:], tree.levels[2:])]
    for span in reversed(spans):
        rows.index_add_(0, tree.parent[span], rows[span] * tree.similarity[span])
    sums = (1 - tree.similarity**2) * rows
    for span in spans:
        sums[span] += tree.similarity[span] * sums[tree.parent[span]]
    result = torch.empty_like(sums)
    result[tree.order] = sums
    return result.T.reshape(values.shape)
