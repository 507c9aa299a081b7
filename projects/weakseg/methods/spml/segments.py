"""Segments: spherical k-means of the embedding within each image, cut along labels and regions; their prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.distributed
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor

from weakseg.labels import NO_CLASS

LABEL_DIVISOR = 2048
_TILE_PIXELS = {"cpu": 1024}
_TILE_PIXELS_ELSEWHERE = 2**16
_FAR = 1e30


@dataclass(frozen=True)
class Segments:
    """The pixels of a batch on one device that take part, and the segments that they form (card section 3.3).

    M pixels, in the order of the images and row-major within them, without the ignored ones; P segments, numbered by
    image, cluster, class and region. The gradient flows through `embedding` and `located`.
    """

    embedding: Tensor
    """(M, C) e: unit vectors."""
    located: Tensor
    """(M, C + L) q: unit vectors of embedding and local features."""
    segment: Tensor
    """(M,) 0..P-1."""
    semantic: Tensor
    """(M,) y."""
    region: Tensor
    """(M,) r."""
    image: Tensor
    """(M,) position in the batch of this device."""
    segment_semantic: Tensor
    """(P,) y of a segment's pixels."""
    segment_region: Tensor
    """(P,) r of a segment's pixels."""
    segment_image: Tensor
    """(P,) image of a segment's pixels."""
    pixels_per_image: tuple[int, ...]
    segments_per_image: tuple[int, ...]


@dataclass(frozen=True)
class Prototypes:
    """Segments as what pixels are contrasted with: P of all devices, or of earlier iterations (card section 3.4)."""

    vector: Tensor
    """(P, C) p: unit vectors."""
    semantic: Tensor
    """(P,) y_p."""
    region: Tensor
    """(P,) r_p."""
    image: Tensor
    """(P,) b_p, running over the images of all devices; -1 for an image of an earlier iteration."""
    tags: Tensor
    """(P, K) bool t_p: classes of the image."""
    propagated: Tensor
    """(P,) class found by label propagation, -1 where none was."""


def find_segments(
    embedding: Tensor,
    *,
    local: Tensor,
    grid: tuple[int, int],
    iterations: int,
    semantic: Tensor | None = None,
    region: Tensor | None = None,
    squeeze: float = 1.0,
) -> Segments:
    """Cluster each image and cut the clusters along the label maps (card section 3.3).

    embedding (N, C, h, w) of any length; local (h, w, L) or (N, h, w, L) local features; grid (n_y, n_x) of initial
    clusters; semantic, region (N, h, w) integers 0..255, pixels of semantic class 255 take no part; without them all
    pixels have label 0. `squeeze` shrinks the embedding in the returned `located`, not in the clustering (0.1 for
    DensePose). The assignment has no gradient. In fp32 at least.
    """
    n, channels, height, width = embedding.shape
    device = embedding.device
    zeros = torch.zeros(n, height, width, dtype=torch.long, device=device)
    semantic, region = (zeros if labels is None else labels.long() for labels in (semantic, region))
    kept = (semantic.flatten() != NO_CLASS).nonzero()[:, 0]
    image = kept // max(1, height * width)

    with torch.autocast(device.type, enabled=False):
        embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
        # Image by image: four times as fast as a permutation of the batch, torch has a fast path for matrices.
        rows = [features.flatten(1).T.contiguous() for features in embedding]
        pixels = F.normalize(torch.cat(rows) if rows else embedding.reshape(0, channels), dim=1)
        local = local.to(embedding.dtype).expand(n, height, width, -1).flatten(0, 2)
        vectors = F.normalize(torch.cat([pixels, local], 1), dim=1)
        initial, num_clusters = _contiguous_clusters(height, width, grid, device)
        cluster = spherical_kmeans(
            vectors.detach().view(n, height * width, vectors.shape[1]),
            initial.flatten().expand(n, -1),
            ignored=semantic.flatten(1) == NO_CLASS,
            num_clusters=num_clusters,
            iterations=iterations,
        )
        cluster = cluster.flatten()[kept]
        pixels, local, located = (features.index_select(0, kept) for features in (pixels, local, vectors))
        if squeeze != 1.0:
            located = F.normalize(torch.cat([squeeze * pixels, local], 1), dim=1)

    label = combine_labels(semantic, region).flatten()[kept]
    combined_labels = (NO_CLASS + 1) * LABEL_DIVISOR
    keys, segment = torch.unique((image * num_clusters + cluster) * combined_labels + label, return_inverse=True)
    segment_image, segment_label = keys // (combined_labels * num_clusters), keys % combined_labels
    counts = torch.stack([torch.bincount(indices, minlength=n) for indices in (image, segment_image)]).tolist()
    return Segments(
        embedding=pixels,
        located=located,
        segment=segment,
        semantic=label // LABEL_DIVISOR,
        region=label % LABEL_DIVISOR,
        image=image,
        segment_semantic=segment_label // LABEL_DIVISOR,
        segment_region=segment_label % LABEL_DIVISOR,
        segment_image=segment_image,
        pixels_per_image=tuple(counts[0]),
        segments_per_image=tuple(counts[1]),
    )


def combine_labels(semantic: Tensor, region: Tensor) -> Tensor:
    """L = y * 2048 + r of integer maps of any shape (card section 3.1)."""
    return semantic * LABEL_DIVISOR + region


def initial_clusters(height: int, width: int, grid: tuple[int, int], *, device: torch.device | None = None) -> Tensor:
    """(h, w) int64: a(i) + (max(a) + 1) * b(j), the cell of the grid (n_y, n_x) that each pixel is nearest to. Values
    may be left out where the map is smaller than the grid (card section 3.3, step 2)."""
    down, across = (_grid_steps(size, cells).to(device) for size, cells in zip((height, width), grid))
    return down[:, None] + (down[-1] + 1) * across


def spherical_kmeans(
    vectors: Tensor, cluster: Tensor, *, ignored: Tensor, num_clusters: int, iterations: int
) -> Tensor:
    """K-means on the unit sphere, all images at once, without a stopping test (card section 3.3, step 4).

    vectors (N, n, D) of unit length; cluster (N, n) initial clusters 0..k-1 with k = num_clusters; ignored (N, n) bool.
    Returns (N, n) clusters, the first one on ties, without meaning where ignored. An empty cluster is the zero vector
    and can win pixels back. No gradient.
    """
    n, pixels, size = vectors.shape
    tile = _TILE_PIXELS.get(vectors.device.type, _TILE_PIXELS_ELSEWHERE)
    parts = list(zip(vectors.split(tile, 1), cluster.split(tile, 1), ignored.split(tile, 1)))
    # One more row for each image takes what is ignored.
    rows = torch.arange(n, device=vectors.device)[:, None] * (num_clusters + 1)
    means = None
    for iteration in range(iterations + 1):
        sums = vectors.new_zeros(n * (num_clusters + 1), size)
        found = []
        for part, nearest, is_ignored in parts:
            nearest = nearest if means is None else _nearest_clusters(part, means)
            found.append(nearest)
            if iteration < iterations:
                # Summed at once, while the tile is in the cache.
                row = (nearest.masked_fill(is_ignored, num_clusters) + rows).view(-1, 1)
                sums.scatter_add_(0, row.expand(-1, size), part.reshape(-1, size))
        means = F.normalize(sums.view(n, num_clusters + 1, size)[:, :num_clusters], dim=2)
    return torch.cat(found, 1)


def segment_prototypes(vectors: Tensor, segment: Tensor, count: int) -> Tensor:
    """(count, D): the sum of the vectors (M, D) of each segment (M,), scaled to length 1; 0 for an empty segment."""
    sums = vectors.new_zeros(count, vectors.shape[1])
    return F.normalize(sums.scatter_add(0, segment[:, None].expand_as(vectors), vectors), dim=1)


def local_prototypes(segments: Segments, tags: Tensor, *, propagated: Tensor | None = None) -> Prototypes:
    """The prototypes of one device. tags (N, K) bool, classes of each image; propagated (P,) see `Prototypes`."""
    count = len(segments.segment_semantic)
    return Prototypes(
        vector=segment_prototypes(segments.embedding, segments.segment, count),
        semantic=segments.segment_semantic,
        region=segments.segment_region,
        image=segments.segment_image,
        tags=tags[segments.segment_image],
        propagated=torch.full_like(segments.segment_semantic, -1) if propagated is None else propagated,
    )


def join_prototypes(devices: Sequence[Prototypes], images: Sequence[int]) -> Prototypes:
    """The prototypes of several devices in their order; `images` says how many images each has in its batch. Images
    are numbered on from device to device, so that batches of unequal size share no number (card fault f)."""
    joined = {name: torch.cat([getattr(device, name) for device in devices]) for name in _names()}
    offsets = [sum(images[:rank]) for rank in range(len(images))]
    joined["image"] = torch.cat([device.image + offset for device, offset in zip(devices, offsets)])
    return Prototypes(**joined)


def gather_prototypes(mine: Prototypes, images: int) -> tuple[Prototypes, int]:
    """The prototypes of all processes, and which of them is the first of this one; `images` are in this one's batch.

    The gradient of every process's losses flows back to the process that a prototype is from: in the backward pass
    each process takes part in one collective, so each must use the vectors, be it with weight 0.
    """
    if comm.get_world_size() == 1:
        return mine, 0
    my_sizes = torch.tensor([len(mine.semantic), images], device=mine.semantic.device)
    sizes = torch.stack(_all_gather(my_sizes)).tolist()
    most, rank = max(size for size, _ in sizes), comm.get_rank()
    padding = (0, 0, 0, most - len(mine.semantic))
    my_labels = torch.stack([mine.semantic, mine.region, mine.image, mine.propagated], 1)
    vectors = _AllGather.apply(F.pad(mine.vector, padding))
    labels = _all_gather(F.pad(torch.cat([my_labels, mine.tags.long()], 1), padding))
    devices = []
    for vector, label, (size, _) in zip(vectors, labels, sizes):
        semantic, region, image, propagated = label[:size, :4].unbind(1)
        devices.append(Prototypes(vector[:size], semantic, region, image, label[:size, 4:].bool(), propagated))
    joined = join_prototypes(devices, [images for _, images in sizes])
    return joined, sum(size for size, _ in sizes[:rank])


class _AllGather(torch.autograd.Function):
    """(P, C) of every process, equal shapes, to (processes, P, C)."""

    @staticmethod
    def forward(ctx, mine: Tensor) -> Tensor:
        return torch.stack(_all_gather(mine))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        torch.distributed.all_reduce(gradient)
        return gradient[comm.get_rank()]


def _all_gather(mine: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(mine, memory_format=torch.contiguous_format) for _ in range(comm.get_world_size())]
    torch.distributed.all_gather(parts, mine.contiguous())
    return parts


def _names() -> list[str]:
    return [field.name for field in fields(Prototypes)]


def _grid_steps(size: int, cells: int) -> Tensor:
    """(size,) round(i * (cells - 1) / (size - 1)), half to even; 0 where the side has one pixel."""
    return torch.round(torch.arange(size, dtype=torch.float64) * (cells - 1) / max(1, size - 1)).long()


def _contiguous_clusters(height: int, width: int, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, int]:
    """`initial_clusters` with the values that occur renumbered 0..k-1, and k."""
    down, across = (
        torch.unique(_grid_steps(size, cells), return_inverse=True) for size, cells in zip((height, width), grid)
    )
    rows, columns = len(down[0]), len(across[0])
    return (down[1][:, None] + rows * across[1]).to(device), rows * columns


def _nearest_clusters(vectors: Tensor, means: Tensor) -> Tensor:
    """(N, n): for each of the vectors (N, n, D) the first among the means (N, k, D) with the largest dot product."""
    clusters = means.shape[1]
    order = torch.arange(clusters, 0, -1, dtype=vectors.dtype, device=vectors.device)[:, None]
    similarity = means @ vectors.transpose(1, 2)
    # An arg max over the first axis takes eight times as long: the largest becomes k for the first cluster, 1 for the
    # last, and all others are far below 0.
    behind = similarity.sub_(similarity.amax(1, keepdim=True))
    first = torch.add(order, behind, alpha=_FAR, out=behind).amax(1)
    return (clusters - first.clamp_(min=1)).long()
