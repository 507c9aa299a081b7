"""Multi-scale deformable attention (Deformable DETR; Point2Mask card 2.4) in plain torch, for every device."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def multi_scale_deformable_attention(
    value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of `value` sampled bilinearly at `locations` of every level; outside a level the value is 0.

    value (B, S, heads, dim): the tokens of all levels, row by row, level after level; sizes: (h, w) per level.
    locations (B, Q, heads, levels, points, 2) as (x, y), [0, 1] spans a level from edge to edge.
    weights (B, Q, heads, levels, points). Returns (B, Q, heads * dim), heads concatenated.
    """
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
