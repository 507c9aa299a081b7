"""The deformable encoder and the location decoder (Point2Mask card 2.5)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from weakseg.layers.deformable_attention import MultiScaleDeformableAttention


@dataclass
class Location:
    """What the location decoder says of its queries, for each of its L layers.

    states (L, B, Q, D); class_logits (L, B, Q, T), one sigmoid per thing class, no background channel; boxes
    (L, B, Q, 4) as (cx, cy, w, h) in [0, 1] of the unpadded image; initial_reference (B, Q, 2) as (x, y), same unit.
    """

    states: Tensor
    class_logits: Tensor
    boxes: Tensor
    initial_reference: Tensor


class DeformableEncoder(nn.Module):
    """Tokens of all levels look at each other."""

    def __init__(
        self,
        *,
        num_layers: int,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        num_points: int,
        dropout: float,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.layers = nn.ModuleList(
            _EncoderLayer(dim, ffn_dim=ffn_dim, num_heads=num_heads, num_points=num_points, dropout=dropout)
            for _ in range(num_layers)
        )
        _initialise_layers(self.layers)

    def forward(
        self, tokens: Tensor, position: Tensor, *, reference: Tensor, padding: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
        """tokens, position (B, S, D); reference (B, S, 4, 2) of `encoder_reference_points`; padding (B, S) bool.
        Returns the memory (B, S, D)."""
        for layer in self.layers:
            tokens = run_layer(
                layer,
                tokens,
                position,
                checkpointing=self.gradient_checkpointing,
                reference=reference,
                padding=padding,
                sizes=sizes,
            )
        return tokens


class LocationDecoder(nn.Module):
    """Thing queries that look for objects: class and box after every layer, each box refining the one before."""

    def __init__(
        self,
        *,
        num_things: int,
        num_queries: int,
        num_layers: int,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        num_points: int,
        dropout: float,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.queries = nn.Embedding(num_queries, 2 * dim)
        self.reference_points = nn.Linear(dim, 2)
        self.layers = nn.ModuleList(
            _DecoderLayer(dim, ffn_dim=ffn_dim, num_heads=num_heads, num_points=num_points, dropout=dropout)
            for _ in range(num_layers)
        )
        class_branch = existence_prior(nn.Linear(dim, num_things))
        box_branch = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))
        nn.init.zeros_(box_branch.get_parameter("4.weight"))
        nn.init.zeros_(box_branch.get_parameter("4.bias"))
        self.class_branches = nn.ModuleList(copy.deepcopy(class_branch) for _ in range(num_layers))
        self.box_branches = nn.ModuleList(copy.deepcopy(box_branch) for _ in range(num_layers))
        nn.init.constant_(self.box_branches.get_parameter("0.4.bias")[2:], -2.0)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)
        _initialise_layers(self.layers)

    def forward(
        self, memory: Tensor, *, valid_ratios: Tensor, padding: Tensor, sizes: list[tuple[int, int]]
    ) -> Location:
        """memory (B, S, D); valid_ratios (B, 4, 2) as (x, y); padding (B, S) bool.

        Every reference but the first is detached: a layer's box trains that layer alone.
        """
        embedding = self.queries.weight.expand(memory.shape[0], -1, -1)
        position, state = embedding.chunk(2, dim=-1)
        initial = reference = self.reference_points(position).sigmoid()
        states, class_logits, boxes = [], [], []
        for layer, class_branch, box_branch in zip(self.layers, self.class_branches, self.box_branches):
            ratios = valid_ratios.repeat(1, 1, reference.shape[-1] // 2)
            state = run_layer(
                layer,
                state,
                memory,
                checkpointing=self.gradient_checkpointing,
                query_position=position,
                reference=reference[:, :, None] * ratios[:, None],
                padding=padding,
                sizes=sizes,
            )
            box = refine_box(box_branch(state), reference)
            states.append(state)
            class_logits.append(class_branch(state))
            boxes.append(box)
            reference = box.detach()
        return Location(torch.stack(states), torch.stack(class_logits), torch.stack(boxes), initial)


def refine_box(change: Tensor, reference: Tensor) -> Tensor:
    """Box (..., 4) as (cx, cy, w, h) in [0, 1]: `change` (..., 4) added to the logit of `reference`, a point (..., 2)
    or a box (..., 4)."""
    reference = reference.clamp(0, 1)
    logit = (reference.clamp(min=1e-5) / (1 - reference).clamp(min=1e-5)).log()
    if reference.shape[-1] == 2:
        return torch.cat([change[..., :2] + logit, change[..., 2:]], dim=-1).sigmoid()
    return (change + logit).sigmoid()


def existence_prior(linear: nn.Module) -> nn.Module:
    """The same layer, its bias set so that every class starts with probability 0.01."""
    nn.init.constant_(linear.get_parameter("bias"), -math.log(99))
    return linear


def run_layer(layer: nn.Module, *args, checkpointing: bool, **kwargs) -> Any:
    """`layer(*args, **kwargs)`. With `checkpointing`, a training step keeps nothing of what the layer computes but runs
    it again in the backward pass, with the same dropout."""
    if checkpointing and layer.training and torch.is_grad_enabled():
        return checkpoint(layer, *args, use_reentrant=False, **kwargs)
    return layer(*args, **kwargs)


class _ReluDropout(torch.autograd.Function):
    """ReLU, then dropout. Its result is above 0 exactly where a gradient passes: neither the ReLU's result nor the
    noise, as wide as the result, is kept beside it."""

    @staticmethod
    def forward(ctx, x: Tensor, probability: float) -> Tensor:
        result = F.dropout(x.relu(), probability)
        ctx.save_for_backward(result)
        ctx.scale = 1 / (1 - probability) if probability < 1 else 0.0
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (result,) = ctx.saved_tensors
        return gradient * (result > 0) * ctx.scale, None


class _FeedForward(nn.Module):
    def __init__(self, dim: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.expand = nn.Linear(dim, ffn_dim)
        self.reduce = nn.Linear(ffn_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.expand(x)
        hidden = _ReluDropout.apply(hidden, self.dropout.p) if self.training else hidden.relu()
        return x + self.dropout(self.reduce(hidden))


class _EncoderLayer(nn.Module):
    def __init__(self, dim: int, *, ffn_dim: int, num_heads: int, num_points: int, dropout: float):
        super().__init__()
        self.attention = MultiScaleDeformableAttention(dim, num_heads=num_heads, num_points=num_points, dropout=dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.ffn = _FeedForward(dim, ffn_dim, dropout)
        self.ffn_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, position: Tensor, **places) -> Tensor:
        tokens = self.attention_norm(self.attention(tokens, tokens, query_position=position, **places))
        return self.ffn_norm(self.ffn(tokens))


class _DecoderLayer(nn.Module):
    def __init__(self, dim: int, *, ffn_dim: int, num_heads: int, num_points: int, dropout: float):
        super().__init__()
        self.self_attention = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.self_dropout = nn.Dropout(dropout)
        self.self_norm = nn.LayerNorm(dim)
        self.cross_attention = MultiScaleDeformableAttention(
            dim, num_heads=num_heads, num_points=num_points, dropout=dropout
        )
        self.cross_norm = nn.LayerNorm(dim)
        self.ffn = _FeedForward(dim, ffn_dim, dropout)
        self.ffn_norm = nn.LayerNorm(dim)

    def forward(self, query: Tensor, memory: Tensor, *, query_position: Tensor, **places) -> Tensor:
        place = query + query_position
        attended = self.self_attention(place, place, query, need_weights=False)[0]
        query = self.self_norm(query + self.self_dropout(attended))
        query = self.cross_norm(self.cross_attention(query, memory, query_position=query_position, **places))
        return self.ffn_norm(self.ffn(query))


def _initialise_layers(layers: nn.ModuleList) -> None:
    """Xavier for every matrix, then the rule of deformable attention."""
    for parameter in layers.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    for module in layers.modules():
        if isinstance(module, MultiScaleDeformableAttention):
            module.reset_parameters()
