"""Nearest-segment retrieval: the labels of the most similar segments in a memory vote on a segment's label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weakseg.labels import NO_CLASS

_CHUNK_ELEMENTS = 2**22


def majority_labels(label: Tensor, segment: Tensor, count: int) -> Tensor:
    """(count,): the most frequent of the labels (M,) 0..255 in each segment (M,) 0..count-1, the smallest on ties
    (card section 5.2)."""
    values = NO_CLASS + 1
    return torch.bincount(segment * values + label, minlength=count * values).view(count, values).argmax(1)


def usable_memory(
    vectors: Tensor, labels: Tensor, num_classes: int, *, official: bool = False
) -> tuple[Tensor, Tensor]:
    """The prototypes (R, C) with a class 0..K-1 in labels (R,). `official` drops 255 alone, and unlabelled segments
    vote as a class of their own (card fault s)."""
    usable = labels != NO_CLASS if official else labels < num_classes
    return vectors[usable], labels[usable]


@torch.no_grad()
def nearest_labels(queries: Tensor, memory: Tensor, memory_labels: Tensor, *, neighbours: int = 20) -> Tensor:
    """(S, n): labels of the memory's prototypes (R, C) with the largest dot product with each query (S, C), the most
    similar first; n is `neighbours`, or R where the memory is smaller (card section 5.3). Never an S x R matrix."""
    if not len(memory):
        raise ValueError(
            "Retrieval: expected at least one labelled prototype in the memory; found none. "
            "Make prototypes of images with labels first."
        )
    best = queries.new_zeros(len(queries), 0, dtype=torch.promote_types(queries.dtype, torch.float32))
    labels = memory_labels.new_zeros(len(queries), 0)
    chunk = max(neighbours, _CHUNK_ELEMENTS // max(1, len(queries)))
    with torch.autocast(queries.device.type, enabled=False):
        for start in range(0, len(memory), chunk):
            similarity = queries.to(best.dtype) @ memory[start : start + chunk].to(best.dtype).T
            values, index = similarity.topk(min(neighbours, similarity.shape[1]))
            best = torch.cat([best, values], 1)
            labels = torch.cat([labels, memory_labels[start : start + chunk][index]], 1)
            best, order = best.topk(min(neighbours, best.shape[1]))
            labels = labels.gather(1, order)
    return labels


def vote(labels: Tensor) -> Tensor:
    """(S,): the most frequent of each row's labels (S, n) 0..255, the smallest on ties."""
    segment = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)
    return majority_labels(labels.flatten(), segment.flatten(), len(labels))


def vote_shares(labels: Tensor, num_classes: int) -> Tensor:
    """(S, K): the share of each class among each row's labels (S, n); labels from K on count for none of them."""
    votes = labels.new_zeros(len(labels), NO_CLASS + 1, dtype=torch.float32)
    votes.scatter_add_(1, labels, torch.ones_like(labels, dtype=torch.float32))
    return votes[:, :num_classes] / labels.shape[1]


def paint(values: Tensor, segment: Tensor, kept: Tensor) -> Tensor:
    """(K, h, w): the values (S, K) of each segment on its pixels, 0 elsewhere. segment (M,) of the pixels that `kept`
    (h, w) bool marks, row-major."""
    # Pixels that are left out read a row of zeros.
    row = torch.full_like(kept, len(values), dtype=torch.long).masked_scatter_(kept, segment)
    return F.pad(values, (0, 0, 0, 1)).T.index_select(1, row.flatten()).view(-1, *kept.shape)


def neighbour_accuracy(vectors: Tensor, labels: Tensor, *, neighbours: int = 5) -> Tensor:
    """Mean over prototypes (P, C) of how many of the most similar ones, themselves included, have their label; 0 where
    there is none (card section 3.7)."""
    if not len(vectors):
        return vectors.new_zeros(())
    found = nearest_labels(vectors, vectors, labels, neighbours=neighbours)
    return (found == labels[:, None]).float().mean()
