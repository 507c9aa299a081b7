"""Queries to masks: the logits of a query's attention over the memory are its mask (Point2Mask card 2.6)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weakseg.methods.point2mask.transformer import existence_prior

NUM_MASK_LEVELS = 3
"""Masks are read from the levels of stride 8, 16 and 32."""


class MaskDecoder(nn.Module):
    """Layers of mask attention. There is no position on the memory, and no sigmoid on the masks: they are >= 0, without
    an upper bound, and 0.5 is the level at which a pixel is decided."""

    def __init__(self, *, num_layers: int, dim: int, ffn_dim: int, num_heads: int, self_attention: bool = False):
        super().__init__()
        layer = MaskDecoderLayer(dim, ffn_dim=ffn_dim, num_heads=num_heads, self_attention=self_attention)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        *,
        padding: Tensor,
        sizes: list[tuple[int, int]],
        query_position: Tensor | None = None,
        last_only: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """query, query_position (B, N, D); memory (B, S3, D) and padding (B, S3) bool of the levels `sizes` (h, w).

        Returns the queries (L, B, N, D) and masks (L, B, N, h0, w0) after each layer; with `last_only` L is 1.
        """
        queries, masks = [], []
        for layer in self.layers:
            with_mask = not last_only or layer is self.layers[-1]
            if query_position is not None:
                # Added in every layer: the sum, not the content alone, is what the residual connections carry.
                query = query + query_position
            query, mask = layer(query, memory, padding=padding, sizes=sizes, with_mask=with_mask)
            if with_mask:
                queries.append(query)
                masks.append(mask)
        return torch.stack(queries), torch.stack(masks)


class ClassMaskDecoder(nn.Module):
    """A mask decoder with one learned query per class, which also says whether the class is there."""

    def __init__(self, num_classes: int, *, num_layers: int, dim: int, ffn_dim: int, num_heads: int):
        super().__init__()
        self.queries = nn.Embedding(num_classes, 2 * dim)
        self.decoder = MaskDecoder(
            num_layers=num_layers, dim=dim, ffn_dim=ffn_dim, num_heads=num_heads, self_attention=True
        )
        existence = nn.Linear(dim, 1)
        self.existence_branches = nn.ModuleList(copy.deepcopy(existence) for _ in range(num_layers))

    def start_from_prior(self) -> None:
        """Let every class start with an existence of 0.01."""
        for branch in self.existence_branches:
            existence_prior(branch)

    def forward(
        self, memory: Tensor, *, padding: Tensor, sizes: list[tuple[int, int]], last_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """memory (B, S3, D), padding (B, S3) bool. Returns masks (L, B, N, h0, w0) and existence logits (L, B, N)."""
        content, position = self.queries.weight.expand(memory.shape[0], -1, -1).chunk(2, dim=-1)
        queries, masks = self.decoder(
            content, memory, padding=padding, sizes=sizes, query_position=position, last_only=last_only
        )
        branches = self.existence_branches[-len(queries) :]
        return masks, torch.stack([branch(query)[..., 0] for branch, query in zip(branches, queries)])


class MaskDecoderLayer(nn.Module):
    """Self-attention (of the class decoders alone), mask attention, MLP; each followed by its norm."""

    def __init__(self, dim: int, *, ffn_dim: int, num_heads: int, self_attention: bool):
        super().__init__()
        self.self_attention = nn.MultiheadAttention(dim, num_heads, batch_first=True) if self_attention else None
        self.self_norm = nn.LayerNorm(dim) if self_attention else None
        self.mask_attention = MaskAttention(dim, num_heads=num_heads)
        self.mask_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(), nn.Linear(ffn_dim, dim))
        self.mlp_norm = nn.LayerNorm(dim)

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        *,
        padding: Tensor,
        sizes: list[tuple[int, int]],
        with_mask: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """query (B, N, D), memory (B, S3, D), padding (B, S3) bool. Returns the new query, and the mask
        (B, N, h0, w0) or None."""
        if self.self_attention is not None and self.self_norm is not None:
            query = self.self_norm(query + self.self_attention(query, query, query, need_weights=False)[0])
        attended, mask = self.mask_attention(query, memory, padding=padding, sizes=sizes, with_mask=with_mask)
        query = self.mask_norm(query + attended)
        return self.mlp_norm(query + self.mlp(query)), mask


class MaskAttention(nn.Module):
    """Multi-head attention over the memory whose logits, mixed by 1x1 convolutions over the heads, are a mask."""

    def __init__(self, dim: int, *, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        level_convs = [nn.Conv2d(num_heads, num_heads, 1) for _ in range(NUM_MASK_LEVELS)]
        self.level_convs = nn.ModuleList(level_convs)
        self.all_levels_conv = nn.Conv2d(NUM_MASK_LEVELS * num_heads, 1, 1)
        for weight in (self.in_proj_weight, *(conv.weight for conv in level_convs), self.all_levels_conv.weight):
            nn.init.xavier_uniform_(weight)
        for layer in (self.out_proj, *level_convs, self.all_levels_conv):
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        *,
        padding: Tensor,
        sizes: list[tuple[int, int]],
        with_mask: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """query (B, N, D), memory (B, S3, D), padding (B, S3) bool. Returns the attended memory (B, N, D) and the mask
        (B, N, h0, w0) or None. An image that is padding everywhere gives an attended memory of 0 before `out_proj`."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (self._heads(F.linear(x, w, b)) for x, w, b in zip((query, memory, memory), weights, biases))
        logits = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)  # (B, heads, N, S3)
        padded = padding[:, None, None]
        # The lowest finite number instead of -inf: softmax of a row of padding alone, and its gradient, stay defined.
        attention = logits.masked_fill(padded, torch.finfo(logits.dtype).min).softmax(-1).masked_fill(padded, 0.0)
        attended = self.out_proj((attention @ v).transpose(1, 2).flatten(2))
        return attended, self._masks(logits.masked_fill(padded, 0.0), padding, sizes) if with_mask else None

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, heads, N, D / heads)."""
        return x.view(*x.shape[:2], self.num_heads, x.shape[2] // self.num_heads).transpose(1, 2)

    def _masks(self, logits: Tensor, padding: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """Masks (B, N, h0, w0) from attention logits (B, heads, N, S3)."""
        batch, _, queries, _ = logits.shape
        lengths = [h * w for h, w in sizes]
        mixes = self.all_levels_conv.weight.view(NUM_MASK_LEVELS, self.num_heads)
        total: Tensor = self.all_levels_conv.get_parameter("bias")
        for size, part, conv, mix in zip(sizes, logits.split(lengths, dim=-1), self.level_convs, mixes):
            # "Resize, concatenate, convolve to one channel" is linear: convolving first leaves one map to resize.
            weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
            heads = torch.einsum("oh,bhqs->boqs", weight.flatten(1), part) + bias[:, None, None]
            mask = torch.einsum("h,bhqs->bqs", mix, heads.relu()).reshape(batch * queries, 1, *size)
            total = total + F.interpolate(mask, size=sizes[0], mode="bilinear", align_corners=False)
        inside = ~padding[:, : lengths[0]].view(batch, 1, *sizes[0])
        return total.relu().view(batch, queries, *sizes[0]) * inside
