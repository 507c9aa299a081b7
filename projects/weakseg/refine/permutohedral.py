"""The permutohedral lattice: Gaussian filtering in d dimensions at a cost linear in the number of points.

Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (Eurographics 2010); the steps
are those of the SPML card, section 5.5. A point is spread over the d + 1 corners of the simplex that it lies in, the
corners exchange values along the d + 1 axes of the lattice, and the point gathers from the same corners.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_KEY = 2**62


class PermutohedralLattice:
    """The kernel k(f_i, f_j), about exp(-|f_i - f_j|^2 / 2), between N points: built once, applied to any values."""

    @torch.no_grad()
    def __init__(self, features: Tensor):
        """features (N, d), N and d >= 1, in standard deviations of the kernel. Computed in float32, on their device."""
        points, dimensions = features.shape
        nearest, rank, weights = _simplex(features.float())
        keys, steps = _corner_keys(nearest, rank)
        keys, order = keys.flatten().sort()
        first = F.pad(keys[1:] != keys[:-1], (1, 0), value=True)
        vertex = torch.empty_like(order).scatter_(0, order, first.cumsum(0) - 1)
        starts = first.nonzero().squeeze(1)
        self._points, self._starts = (order % points).int(), starts.int()
        self._splat_weights = weights.flatten()[order]
        self._blurs = [_blur_bags(keys[starts], step) for step in steps]
        self._corners = vertex.view(-1, points).t().int().contiguous()
        self._slice_weights = weights.t().contiguous() / (1 + 2.0**-dimensions)

    @torch.no_grad()
    def filter(self, values: Tensor) -> Tensor:
        """sum_j k(f_i, f_j) values_j at every point i, its own value included: (N, C) float32 to (N, C)."""
        lattice = _weighted_sums(values, self._points, self._starts, self._splat_weights)
        for neighbours, starts, weights in self._blurs:
            lattice = _weighted_sums(lattice, neighbours, starts, weights)
        return F.embedding_bag(self._corners, lattice, per_sample_weights=self._slice_weights, mode="sum")

    def normalized(self) -> PermutohedralLattice:
        """The kernel diag(n) k diag(n) with n_i = 1 / sqrt(sum_j k(f_i, f_j) + 1e-20), on the same lattice."""
        scale = (self.filter(self._slice_weights.new_ones(len(self._corners), 1)) + 1e-20).rsqrt()
        lattice = copy.copy(self)
        lattice._splat_weights = self._splat_weights * scale.squeeze(1)[self._points]
        lattice._slice_weights = self._slice_weights * scale
        return lattice


def _simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each point's simplex: its 0-coloured corner (d + 1, N) int64, the rank of every coordinate (d + 1, N) in 0..d,
    and the barycentric weights of the corners (d + 1, N)."""
    elevated = _elevate(features.t())
    size = len(elevated)
    turns = (elevated / size).round()
    excess = turns.sum(0).long()
    nearest, offset = turns.long() * size, elevated - turns * size
    rank = torch.zeros_like(nearest, dtype=torch.int8)
    for i in range(size):
        for j in range(i + 1, size):
            smaller = offset[i] < offset[j]
            rank[i] += smaller
            rank[j] += ~smaller
    rank = rank + excess
    turn = (rank < 0).long() - (rank >= size).long()
    rank += turn * size
    nearest += turn * size
    part = (elevated - nearest) / size
    by_rank = torch.empty_like(part).scatter_(0, rank, part)
    weights = by_rank.flip(0) - by_rank.roll(-1, 0).flip(0)
    weights[0] += 1
    return nearest, rank, weights


def _elevate(features: Tensor) -> Tensor:
    """Features (d, N) on the plane of R^(d + 1) where the coordinates sum to 0: (d + 1, N)."""
    dimensions = len(features)
    # Rounded to float32 where pydensecrf rounds: pixels of whole numbers often lie on a face between simplices, and the
    # last bit decides which corners exist. Without it 20 of 187500 pixels differed, by up to 1e-2 in Q.
    factor = float(torch.tensor(math.sqrt(2 / 3) * (dimensions + 1), dtype=torch.float32))
    accumulated = torch.zeros_like(features[0])
    elevated = []
    for m in range(dimensions, 0, -1):
        scaled = features[m - 1] * (factor / math.sqrt(m * (m + 1)))
        elevated.append(accumulated - m * scaled)
        accumulated = accumulated + scaled
    return torch.stack([accumulated, *reversed(elevated)])


def _corner_keys(nearest: Tensor, rank: Tensor) -> tuple[Tensor, list[int]]:
    """Every corner's first d coordinates as one number, (d + 1, N) int64, and what a step along each axis adds."""
    size = len(nearest)
    margin = 2 * (size - 1)  # a corner lies at most d away, its neighbour another d
    low, high = (bound - sign * margin for bound, sign in zip(nearest[:-1].aminmax(dim=1), (1, -1)))
    radices = (high - low + 1).tolist()
    if math.prod(radices) > _LARGEST_KEY:
        cells = " x ".join(map(str, radices))
        raise ValueError(f"lattice: expected at most 2^62 cells; found {cells}; use larger standard deviations.")
    place = [math.prod(radices[i + 1 :]) for i in range(size - 1)]
    places = nearest.new_tensor([*place, 0])
    # From corner k - 1 to corner k all coordinates rise by 1, but the one of rank d + 1 - k falls by d.
    falls = places[:, None].expand_as(rank)
    falls = torch.empty_like(rank).scatter_(0, rank, falls).flip(0)
    keys = torch.empty_like(rank)
    keys[0] = ((nearest[:-1] - low[:, None]) * places[:-1, None]).sum(0)
    keys[1:] = sum(place) - size * falls[:-1]
    return keys.cumsum(0), [sum(place) - size * fall for fall in (*place, 0)]


def _blur_bags(keys: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sums of one axis: every vertex and half of its neighbours at keys + step and keys - step, where there.

    keys (V,) sorted. The neighbour of a later vertex is later, so that a pass reads the values nearly in order.
    """
    right = torch.searchsorted(keys, keys + step).clamp_(max=len(keys) - 1)
    left = (keys[right] == keys + step).nonzero().squeeze(1)
    right = right[left]
    one = torch.ones_like(left)
    sizes = torch.ones_like(keys).index_add_(0, left, one).index_add_(0, right, one)
    ends = sizes.cumsum(0)
    starts = ends - sizes
    indices = torch.empty(len(keys) + 2 * len(left), dtype=torch.int32, device=keys.device)
    weights = torch.full(indices.shape, 0.5, device=keys.device)
    indices[starts] = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
    weights[starts] = 1.0
    indices[starts[right] + 1] = left.int()
    indices[ends[left] - 1] = right.int()
    return indices, starts.int(), weights


def _weighted_sums(values: Tensor, indices: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Row r of the result is the sum of weights[i] * values[indices[i]] over starts[r] <= i < starts[r + 1]."""
    return F.embedding_bag(indices, values, starts, per_sample_weights=weights, mode="sum")
