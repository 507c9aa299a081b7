"""Over-segmentations: regions of an edge map by watershed and merging, and the evidence "regions" read from a folder.

Regions in the sense of SPML's card section 6: 8-bit maps, ids unique within the image only. They stand in for the
oriented watershed and ultrametric contours (owt-ucm) of the published ones.
"""

from __future__ import annotations

import heapq
import math
from pathlib import Path

import numpy as np
from skimage.segmentation import watershed

from weakseg.proposals.map_folder import EightBitMaps
from weakseg.proposals.registry import PROPOSAL_LOADER_REGISTRY

MAX_REGIONS = 256
"""Regions that an 8-bit map can tell apart."""
FULL_AREA = 1 / 128
"""Area, as a part of the image, from which on a region's boundaries have their full strength. Without it most of the
256 regions are slivers inside the broad bands of strong gradients, and whole objects are merged."""


def oversegment(edges: np.ndarray, *, threshold: float, max_regions: int = MAX_REGIONS) -> np.ndarray:
    """Regions (H, W) uint8, connected, numbered from 0 in the order of their first pixels.

    edges (H, W) float in [0, 1]. The basins of the edge map are merged, always the two neighbours with the weakest
    boundary between them, until every boundary is at least `threshold` strong and at most `max_regions` (<= 256) are
    left. The strength of a boundary is the mean, over all pairs of neighbouring pixels (4) across it, of the larger of
    their two edges, times the square root of the smaller of the two areas over `FULL_AREA`, where that is below 1.
    """
    if not 1 <= max_regions <= MAX_REGIONS:
        raise ValueError(f"over-segmentation: expected 1 to {MAX_REGIONS} regions at most; found {max_regions}.")
    # A constant map has no basin, and watershed leaves all of it 0.
    basins = np.maximum(watershed(edges) - 1, 0)
    merged = merge_weakest(basins, edges, threshold=threshold, max_regions=max_regions)
    _, first, inverse = np.unique(merged[basins], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].reshape(edges.shape).astype(np.uint8)


def merge_weakest(basins: np.ndarray, edges: np.ndarray, *, threshold: float, max_regions: int) -> np.ndarray:
    """For each of the regions 0..R-1 of `basins` (H, W) the region it is merged into, (R,) int64; see `oversegment`."""
    boundaries = _boundaries(basins, edges)
    area = np.bincount(basins.ravel()) / basins.size

    def strength(i: int, j: int) -> float:
        total, length = boundaries[i][j]
        return total / length * min(1.0, math.sqrt(min(area[i], area[j]) / FULL_AREA))

    parent, count = np.arange(len(area)), len(area)
    waiting = [(strength(i, j), i, j) for i, around in enumerate(boundaries) for j in around if i < j]
    heapq.heapify(waiting)
    while waiting and (waiting[0][0] < threshold or count > max_regions):
        noted, i, j = heapq.heappop(waiting)
        if j not in boundaries[i]:
            continue  # one of the two was merged since this was noted
        if strength(i, j) > noted:  # the smaller of the two has grown
            heapq.heappush(waiting, (strength(i, j), i, j))
            continue
        keep, gone = (i, j) if len(boundaries[i]) >= len(boundaries[j]) else (j, i)
        parent[gone], area[keep], count = keep, area[keep] + area[gone], count - 1
        del boundaries[keep][gone], boundaries[gone][keep]
        for other, (total, length) in boundaries[gone].items():
            del boundaries[other][gone]
            before = boundaries[keep].get(other, (0.0, 0))
            boundaries[keep][other] = boundaries[other][keep] = before[0] + total, before[1] + length
            heapq.heappush(waiting, (strength(keep, other), min(keep, other), max(keep, other)))
        boundaries[gone].clear()
    while (parent != parent[parent]).any():
        parent = parent[parent]
    return parent


def _boundaries(basins: np.ndarray, edges: np.ndarray) -> list[dict[int, tuple[float, int]]]:
    """For each region its neighbours, with the sum of the edges along the boundary and the number of pixel pairs."""
    pairs, strengths = [], []
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        is_boundary = basins[here] != basins[there]
        pairs.append(np.stack([basins[here][is_boundary], basins[there][is_boundary]], axis=1))
        strengths.append(np.maximum(edges[here], edges[there])[is_boundary])
    count = int(basins.max()) + 1
    ordered = np.sort(np.concatenate(pairs).astype(np.int64), axis=1)
    codes, inverse, lengths = np.unique(ordered @ [count, 1], return_inverse=True, return_counts=True)
    totals = np.bincount(inverse, weights=np.concatenate(strengths).astype(np.float64))
    neighbours: list[dict[int, tuple[float, int]]] = [{} for _ in range(count)]
    for code, total, length in zip(codes.tolist(), totals.tolist(), lengths.tolist()):
        i, j = divmod(code, count)
        neighbours[i][j] = neighbours[j][i] = total, length
    return neighbours


class RegionMaps(EightBitMaps):
    """Reads the region map `root`/STEM.png of the image STEM.jpg, ids 0..255."""

    def __init__(self, root: str | Path):
        super().__init__(
            root,
            key="INPUT.REGION_ROOT",
            what="region map",
            remedy="Make it with: python tools/make_oversegmentation.py IMAGES --output OUTPUT (--help has better "
            "edges).",
        )


@PROPOSAL_LOADER_REGISTRY.register()
def regions(cfg) -> RegionMaps:
    """`INPUT.REGION_ROOT`."""
    return RegionMaps(cfg.INPUT.REGION_ROOT)
