"""Multi-scale deformable attention (Deformable DETR; Point2Mask card 2.4) in plain torch, for every device.

Its samples, 16 per head and query, would be the largest tensors of a training step: neither form keeps them for the
backward pass, which samples again.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_MARGIN = 2
"""Zeros around each level, in pixels: what is sampled outside a level is moved there, where all four corners are 0."""


def multi_scale_deformable_attention(
    value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of `value` sampled bilinearly at `locations` of every level; outside a level the value is 0.

    value (B, S, heads, dim): the tokens of all levels, row by row, level after level; sizes: (h, w) per level.
    locations (B, Q, heads, levels, points, 2) as (x, y), [0, 1] spans a level from edge to edge.
    weights (B, Q, heads, levels, points). Returns (B, Q, heads * dim), heads concatenated.
    """
    if value.device.type == "cpu":
        return _BagAttention.apply(value, sizes, locations, weights)
    if torch.is_grad_enabled():
        return checkpoint(
            attention_by_grid_sample,
            value,
            sizes,
            locations,
            weights,
            use_reentrant=False,
            preserve_rng_state=False,
        )
    return attention_by_grid_sample(value, sizes, locations, weights)


def attention_by_grid_sample(value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The same by `grid_sample`, level by level."""
    batch, queries, heads, _, points, _ = locations.shape
    dim = value.shape[-1]
    # (B, heads, levels, Q, points): one batch entry of grid_sample is one head of one image.
    grids = (2 * locations - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)
    weights = weights.permute(0, 2, 3, 1, 4).flatten(0, 1)
    total = value.new_zeros(batch * heads, dim, queries)
    for level, tokens in enumerate(value.split([h * w for h, w in sizes], dim=1)):
        maps = tokens.permute(0, 2, 3, 1).reshape(batch * heads, dim, *sizes[level])
        sampled = F.grid_sample(maps, grids[:, level], mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (sampled * weights[:, level, None]).sum(-1)
    return total.view(batch, heads * dim, queries).transpose(1, 2)


class _BagAttention(torch.autograd.Function):
    """The same on a CPU, where one weighted `embedding_bag` of the rows of all corners of all samples of a query takes
    40 % of `grid_sample`'s time forwards and, sampling anew, 60 % backwards."""

    @staticmethod
    def forward(ctx, value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.sizes = sizes
        heads, dim = value.shape[2:]
        with torch.autocast("cpu", enabled=False):
            first, x, y = _first_corners(_full(locations), sizes)
            rows, shares = _corner_bags(first, x, y, _full(weights), sizes)
            attended = F.embedding_bag(rows, _table(_full(value), sizes), per_sample_weights=shares, mode="sum")
        return attended.view(*locations.shape[:2], heads * dim).to(value.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        value, locations, weights = ctx.saved_tensors
        batch, queries, heads, levels, points, _ = locations.shape
        with torch.autocast("cpu", enabled=False):
            gradient = _full(gradient).reshape(batch * queries * heads, value.shape[-1])
            first, x, y = _first_corners(_full(locations), ctx.sizes)
            rows, shares = _corner_bags(first, x, y, _full(weights), ctx.sizes)
            with torch.enable_grad():
                leaf = shares.detach().requires_grad_()
                bags = F.embedding_bag(rows, _table(_full(value), ctx.sizes), per_sample_weights=leaf, mode="sum")
                (products,) = torch.autograd.grad(bags, leaf, gradient)
            # Of each corner's value with the gradient: a bilinear map whose own value and slopes are what is asked for.
            corners = products.view(batch, queries, heads, 4, levels, points).unbind(3)
            top, bottom = torch.lerp(corners[0], corners[1], x), torch.lerp(corners[2], corners[3], x)
            slope_x = torch.lerp(corners[1] - corners[0], corners[3] - corners[2], y)
            slopes = torch.stack([slope_x, bottom - top], dim=-1) * weights[..., None]
            locations_gradient = slopes * slopes.new_tensor([(w, h) for h, w in ctx.sizes])[:, None]
            value_gradient = _value_gradient(gradient, first, shares, ctx.sizes)
        return (
            value_gradient.to(value.dtype),
            None,
            locations_gradient.to(locations.dtype),
            torch.lerp(top, bottom, y).to(weights.dtype),
        )


def _full(values: Tensor) -> Tensor:
    """At least single precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _table(value: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """value (B, S, heads, dim) as rows (R, dim): by image, level, padded row and column, head."""
    maps = [
        F.pad(tokens.flatten(2).unflatten(1, size), (0, 0, *[_MARGIN] * 4)).flatten(1, 2)
        for size, tokens in zip(sizes, value.split([h * w for h, w in sizes], dim=1))
    ]
    return torch.cat(maps, dim=1).view(-1, value.shape[-1])


def _first_corners(locations: Tensor, sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Per sample (B, Q, heads, levels, points) the table's row of its upper left corner, int32, and how far it lies to
    the right of it and below, in [0, 1) pixels."""
    batch, _, heads, *_ = locations.shape
    corners, fractions = [], []
    for axis in (0, 1):
        length = locations.new_tensor([size[1 - axis] for size in sizes])[:, None]
        place = torch.addcmul(locations.new_tensor(_MARGIN - 0.5), locations[..., axis], length)
        place = torch.minimum(place.nan_to_num_(nan=0.0).clamp_(min=0), length + _MARGIN)
        corner = place.floor()
        fractions.append(place - corner)
        corners.append(corner.int())
    widths = [w + 2 * _MARGIN for _, w in sizes]
    starts = [0]
    for (h, _), width in zip(sizes, widths):
        starts.append(starts[-1] + (h + 2 * _MARGIN) * width)
    image = torch.arange(batch, dtype=torch.int32)[:, None, None, None, None] * starts[-1]
    level = torch.tensor(starts[:-1], dtype=torch.int32)[:, None]
    pixel = corners[1] * torch.tensor(widths, dtype=torch.int32)[:, None] + corners[0] + (image + level)
    return pixel * heads + torch.arange(heads, dtype=torch.int32)[:, None, None], fractions[0], fractions[1]


def _corner_bags(
    first: Tensor, x: Tensor, y: Tensor, weights: Tensor, sizes: list[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Rows of the table (B * Q * heads, 4 * levels * points) that a head of a query adds up, and the share of each:
    upper left, upper right, lower left, lower right corner of all samples."""
    heads = first.shape[2]
    lower = first + torch.tensor([heads * (w + 2 * _MARGIN) for _, w in sizes], dtype=torch.int32)[:, None]
    below = weights * y
    above = weights - below
    above_right, below_right = above * x, below * x
    rows = torch.stack([first, first + heads, lower, lower + heads], dim=3)
    shares = torch.stack([above - above_right, above_right, below - below_right, below_right], dim=3)
    return rows.flatten(0, 2).flatten(1), shares.flatten(0, 2).flatten(1)


def _value_gradient(gradient: Tensor, first: Tensor, shares: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """gradient (B * Q * heads, dim) dealt to the corners: (B, S, heads, dim).

    Samples of one first corner are one bag, so that no row is written to twice; each of the four corners is such a sum,
    moved by a pixel.
    """
    batch, _, heads, levels, points = first.shape
    lengths = [(h + 2 * _MARGIN) * (w + 2 * _MARGIN) for h, w in sizes]
    ordered, order = first.flatten().sort()
    offsets = torch.searchsorted(ordered, torch.arange(batch * sum(lengths) * heads, dtype=torch.int32), out_int32=True)
    source = (order // (levels * points)).int()
    total: list[Tensor] = []
    for corner, share in enumerate(shares.unflatten(1, (4, -1)).unbind(1)):
        bags = F.embedding_bag(source, gradient, offsets, per_sample_weights=share.flatten()[order], mode="sum")
        top, left = _MARGIN - corner // 2, _MARGIN - corner % 2
        maps = bags.view(batch, sum(lengths), heads, gradient.shape[-1]).split(lengths, dim=1)
        moved = [
            level.unflatten(1, (-1, w + 2 * _MARGIN))[:, top : top + h, left : left + w].flatten(1, 2)
            for level, (h, w) in zip(maps, sizes)
        ]
        total = [a + b for a, b in zip(total, moved)] if total else moved
    return torch.cat(total, dim=1)


class MultiScaleDeformableAttention(nn.Module):
    """Each query looks at `num_points` places per head and level around its reference point or box."""

    def __init__(self, dim: int, *, num_heads: int = 8, num_levels: int = 4, num_points: int = 4, dropout: float = 0.1):
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"MultiScaleDeformableAttention: expected a dim that is a multiple of the {num_heads} heads, "
                f"found {dim}. Change one of them."
            )
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, samples * 2)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Head k looks in the direction 2 pi k / heads, point p at distance p + 1 cells; all weights equal."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        distances = torch.arange(1, self.num_points + 1)[:, None]
        offsets = (directions[:, None, None] * distances).expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        *,
        query_position: Tensor,
        reference: Tensor,
        padding: Tensor,
        sizes: list[tuple[int, int]],
    ) -> Tensor:
        """query, query_position (B, Q, D); value (B, S, D); padding (B, S) bool, True for tokens that count as 0.

        reference (B, Q, levels, 2) as (x, y) or (B, Q, levels, 4) as (cx, cy, w, h), in [0, 1] of the padded level.
        Returns (B, Q, D) with `query` (without its position) added.
        """
        batch, queries, _ = query.shape
        samples = (batch, queries, self.num_heads, self.num_levels, self.num_points)
        place = query + query_position
        weights = self.attention_weights(place).view(*samples[:3], -1).softmax(-1).view(samples)
        offsets = self.sampling_offsets(place).view(*samples, 2)
        if reference.shape[-1] == 2:
            scale = reference.new_tensor([(w, h) for h, w in sizes]).reciprocal()[None, None, None, :, None]
        else:
            scale = reference[:, :, None, :, None, 2:] * (0.5 / self.num_points)
        locations = reference[:, :, None, :, None, :2] + offsets * scale
        value = self.value_proj(value).masked_fill(padding[..., None], 0.0)
        value = value.view(batch, value.shape[1], self.num_heads, -1)
        attended = multi_scale_deformable_attention(value, sizes, locations, weights)
        return query + self.dropout(self.output_proj(attended))
