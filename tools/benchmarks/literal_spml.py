"""SPML's costly steps as its card describes the published ones (3.3, 3.5, 3.11, 5.2, 5.3, 8): pixels x segments
matrices and masks that the backward pass keeps, a loop over images, full sorts, and powers of a whole matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LABELS = 256


def contrast(pixels: Tensor, prototypes: Tensor, positive: Tensor, own: Tensor, concentration: float) -> Tensor:
    """The losses (M,) of pixels (M, C) with own segments (M,): prototypes (P, C), positive (M, P) of 0 and 1."""
    similarity = (concentration * pixels @ prototypes.T).exp()
    own_similarity = similarity.gather(1, own[:, None])[:, 0]
    others = (similarity * positive).sum(1) - own_similarity
    numerator = torch.where(others > 0, others, own_similarity)
    negatives = (similarity * (1 - positive)).sum(1)
    return -(numerator / (numerator + negatives)).log()


def same_label(labels: Tensor, prototype_labels: Tensor) -> Tensor:
    """(M, P) of 0 and 1, from labels (M,) and (P,): relation C."""
    return (labels[:, None] == prototype_labels).float()


def shared_tag(tags: Tensor, prototype_tags: Tensor) -> Tensor:
    """(M, P) of 0 and 1, from tags (M, K) and (P, K) of each pixel's and each prototype's image: relation O."""
    return (tags.float() @ prototype_tags.float().T > 0).float()


def kmeans(vectors: Tensor, cluster: Tensor, count: int, iterations: int) -> Tensor:
    """Clusters (n,) of one image's unit vectors (n, D) from initial ones 0..count-1; autograd records all of it."""
    for _ in range(iterations):
        prototypes = normalized_sums(vectors, cluster, count)
        cluster = (vectors @ prototypes.T).argmax(1)
    return cluster


def normalized_sums(vectors: Tensor, label: Tensor, count: int) -> Tensor:
    sums = vectors.new_zeros(count, vectors.shape[1])
    return F.normalize(sums.scatter_add(0, label[:, None].expand_as(vectors), vectors), dim=1)


def segments(
    embedding: Tensor, local: Tensor, initial: Tensor, combined: Tensor, ignored: Tensor, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """e, q and segment ids of the pixels that take part, image by image.

    embedding (N, C, h, w); local (h, w, L); initial (h, w) grid cells; combined (N, h, w) labels; ignored (N, h, w).
    """
    initial = initial.flatten().unique(return_inverse=True)[1]
    count = int(initial.max()) + 1
    pixels, located, clusters, labels = [], [], [], []
    for image, (features, label, is_ignored) in enumerate(zip(embedding, combined, ignored)):
        e = F.normalize(features.permute(1, 2, 0), dim=2)
        q = F.normalize(torch.cat([e, local], 2), dim=2)
        kept = ~is_ignored.flatten()
        e, q, label = (values.flatten(0, 1)[kept] for values in (e, q, label))
        if len(q):
            clusters.append(image * count + kmeans(q, initial[kept], count, iterations))
            pixels.append(e)
            located.append(q)
            labels.append(label)
    cluster = torch.cat(clusters).unique(return_inverse=True)[1]
    label = torch.cat(labels)
    segment = (cluster * (label.max() + 1) + label).unique(return_inverse=True)[1]
    return torch.cat(pixels), torch.cat(located), segment


def nearest_labels(queries: Tensor, memory: Tensor, memory_labels: Tensor, neighbours: int) -> Tensor:
    """(S, neighbours) labels of the most similar prototypes (R, C), each query's row of similarities sorted whole."""
    found = []
    for query in queries.split(1):
        order = (query @ memory.T).sort(1, descending=True)[1]
        found.append(memory_labels[order[:, :neighbours]])
    return torch.cat(found)


def majority_labels(labels: Tensor, segment: Tensor, count: int) -> Tensor:
    """(count,): the most frequent of the labels (M,) in each segment (M,), the smallest on ties."""
    most_frequent = []
    for s in range(count):
        most_frequent.append(labels[segment == s].bincount(minlength=LABELS).argmax())
    return torch.stack(most_frequent)


def vote_map(labels: Tensor, segment: Tensor, num_classes: int) -> Tensor:
    """(K, M): on the pixels of each segment (M,) the shares of the classes among its labels (S, n)."""
    votes = torch.zeros(num_classes, len(segment))
    for s, row in enumerate(labels):
        votes[:, segment == s] = (row.bincount(minlength=num_classes)[:num_classes] / len(row))[:, None]
    return votes


def affinity(embeddings: list[Tensor], size: tuple[int, int]) -> Tensor:
    """(n, n) exp(5 cos - 5) of the cells of a map of `size`, mean over views (C, h, w)."""
    views = []
    for embedding in embeddings:
        features = F.interpolate(embedding[None], size=size, mode="bilinear", align_corners=False)[0].flatten(1)
        features = features / features.norm(dim=0)
        views.append(torch.exp(5 * (features.T @ features) - 5))
    return torch.stack(views).mean(0)


def walk(scores: Tensor, affinity: Tensor, squarings: int = 6) -> Tensor:
    """scores (K, h, w) after 2^squarings steps: the whole transition matrix is squared, then all classes multiplied."""
    weights = affinity**20
    transition = weights / weights.sum(0, keepdim=True)
    for _ in range(squarings):
        transition = transition @ transition
    return (scores.flatten(1) @ transition).view(scores.shape)
