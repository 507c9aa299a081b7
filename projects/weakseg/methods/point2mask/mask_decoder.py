"""Queries to masks: the logits of a query's attention over the memory are its mask (Point2Mask card 2.6)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from weakseg.methods.point2mask.transformer import existence_prior, run_layer

NUM_MASK_LEVELS = 3
"""Masks are read from the levels of stride 8, 16 and 32."""


class MaskDecoder(nn.Module):
    """Layers of mask attention. There is no position on the memory, and no sigmoid on the masks: they are >= 0, without
    an upper bound, and 0.5 is the level at which a pixel is decided."""

    def __init__(
        self,
        *,
        num_layers: int,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        self_attention: bool = False,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
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
            query, mask = run_layer(
                layer,
                query,
                memory,
                checkpointing=self.gradient_checkpointing,
                padding=padding,
                sizes=sizes,
                with_mask=with_mask,
            )
            if with_mask:
                queries.append(query)
                masks.append(mask)
        return torch.stack(queries), torch.stack(masks)


class ClassMaskDecoder(nn.Module):
    """A mask decoder with one learned query per class, which also says whether the class is there."""

    def __init__(
        self,
        num_classes: int,
        *,
        num_layers: int,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.queries = nn.Embedding(num_classes, 2 * dim)
        self.decoder = MaskDecoder(
            num_layers=num_layers,
            dim=dim,
            ffn_dim=ffn_dim,
            num_heads=num_heads,
            self_attention=True,
            gradient_checkpointing=gradient_checkpointing,
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
        dim, inside = query.shape[-1], ~padding[:, : sizes[0][0] * sizes[0][1]]
        q = F.linear(query, self.in_proj_weight[:dim], self.in_proj_bias[:dim]) / math.sqrt(dim // self.num_heads)
        # Keys of 0 make the logits of padding 0; values of 0 leave nothing to an image that is padding everywhere.
        kv = F.linear(memory, self.in_proj_weight[dim:], self.in_proj_bias[dim:])
        q, k, v = (self._heads(x) for x in (q, *kv.masked_fill_(padding[..., None], 0.0).chunk(2, dim=-1)))
        # Where all is padding, all of it may be looked at: kernels differ in what a softmax over nothing is.
        seen = ~padding | padding.all(1, keepdim=True)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None], scale=1.0)
        attended = self.out_proj(attended.transpose(1, 2).flatten(2))
        if not with_mask:
            return attended, None
        if not torch.is_grad_enabled():
            return attended, self._masks(q, k, inside, sizes)
        # The logits, one per head, query and token, and what follows from them are made anew in the backward pass.
        return attended, checkpoint(self._masks, q, k, inside, sizes, use_reentrant=False, preserve_rng_state=False)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, heads, N, D / heads)."""
        return x.view(*x.shape[:2], self.num_heads, x.shape[2] // self.num_heads).transpose(1, 2)

    def _masks(self, q: Tensor, k: Tensor, inside: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """Masks (B, N, h0, w0) from q (B, heads, N, d) and k (B, heads, S3, d); inside (B, h0 * w0) bool."""
        batch, _, queries, _ = q.shape
        mixes = self.all_levels_conv.weight.view(NUM_MASK_LEVELS, 1, self.num_heads)
        total: Tensor = self.all_levels_conv.get_parameter("bias")
        keys = k.split([h * w for h, w in sizes], dim=2)
        for size, part, conv, mix in zip(sizes, keys, self.level_convs, mixes):
            # "Resize, concatenate, convolve to one channel" is linear: convolving first leaves one map to resize.
            # Matrix products on (B, heads, N * h * w), each in the order in memory: an einsum would copy.
            weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
            logits = (q @ part.transpose(-2, -1)).flatten(2)
            heads = torch.baddbmm(bias[:, None], weight.flatten(1).expand(batch, -1, -1), logits).relu()
            mask = (mix @ heads).view(batch * queries, 1, *size)
            total = total + F.interpolate(mask, size=sizes[0], mode="bilinear", align_corners=False)
        return total.relu().view(batch, queries, *sizes[0]) * inside.view(batch, 1, *sizes[0])
