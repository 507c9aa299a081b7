"""Swin Transformer as detectors use it (`MODEL.BACKBONE.NAME: build_swin_backbone`), from the parts of Detectron2's.

Detectron2's own `SwinTransformer` has the same parameters and result, but asks its device for numbers while it is built
(so that it cannot be planned on the meta device), imports stochastic depth from a module that timm gives up, lacks its
size divisibility, and recomputes in torch's old way, which warns.
"""

from __future__ import annotations

import math
import warnings

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.swin import BasicLayer, PatchEmbed, PatchMerging, SwinTransformerBlock
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

PATCH = 4
"""Pixels a side that become one token."""
STAGES = ("res2", "res3", "res4", "res5")
"""The stages in Detectron2's words; the maps have strides 4, 8, 16, 32."""


class SwinBackbone(Backbone):
    """Patches, then stages of blocks with attention in (shifted) windows; each map that is handed out has a norm of its
    own, `norm{stage}` (Point2Mask card 2.1). Images of any size: zeros fill the last patch, merging and window.

    Parameters have the published names: `patch_embed.*`, `layers.{s}.blocks.{b}.*`, `layers.{s}.downsample.*`.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depths: tuple[int, ...],
        num_heads: tuple[int, ...],
        window_size: int = 7,
        drop_path_rate: float = 0.0,
        out_features: tuple[str, ...] = ("res3", "res4", "res5"),
        in_channels: int = 3,
        gradient_checkpointing: bool = False,
    ):
        """embed_dim: channels of the first stage, doubled with each; depths, num_heads: of each stage; window_size: in
        tokens; drop_path_rate: rises linearly from 0 at the first block to this at the last; out_features: names in
        `STAGES`; gradient_checkpointing: recompute each block in the backward pass."""
        super().__init__()
        _check(embed_dim, depths, num_heads, out_features)
        self.window_size = window_size
        self._features = {STAGES.index(name): name for name in sorted(out_features, key=STAGES.index)}
        self.patch_embed = PatchEmbed(PATCH, in_channels, embed_dim, norm_layer=nn.LayerNorm)
        self.layers = nn.ModuleList()
        rates = [drop_path_rate * block / max(sum(depths) - 1, 1) for block in range(sum(depths))]
        # What lies behind the last map is not built: it would get no gradient.
        last = max(self._features)
        for stage in range(last + 1):
            dim = embed_dim * 2**stage
            first = sum(depths[:stage])
            # Detectron2's stage without blocks of its own.
            layer = BasicLayer(dim, 0, num_heads[stage], window_size, downsample=PatchMerging if stage < last else None)
            layer.blocks.extend(
                _Block(
                    dim,
                    num_heads[stage],
                    window_size,
                    shift_size=block % 2 * (window_size // 2),
                    drop_path=rates[first + block],
                    is_recomputed=gradient_checkpointing,
                )
                for block in range(depths[stage])
            )
            self.layers.append(layer)
        self._channels = {}
        for stage, name in self._features.items():
            self._channels[name] = embed_dim * 2**stage
            self.add_module(f"norm{stage}", nn.LayerNorm(self._channels[name]))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x (B, C, H, W). Returns name -> (B, C_s, ceil(H / stride), ceil(W / stride)) per name of `out_features`."""
        x = self.patch_embed(x)
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        maps = {}
        for stage, layer in enumerate(self.layers):
            # Before merging, its size; after it, the size of that.
            tokens, h, w, x, height, width = layer(x, height, width)
            if stage in self._features:
                tokens = getattr(self, f"norm{stage}")(tokens)
                maps[self._features[stage]] = tokens.transpose(1, 2).unflatten(2, (h, w)).contiguous()
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self._channels[name], stride=PATCH * 2**stage)
            for stage, name in self._features.items()
        }


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg, input_shape: ShapeSpec) -> SwinBackbone:
    """The network that `MODEL.SWIN` describes."""
    node = cfg.MODEL.SWIN
    return SwinBackbone(
        embed_dim=node.EMBED_DIM,
        depths=tuple(node.DEPTHS),
        num_heads=tuple(node.NUM_HEADS),
        window_size=node.WINDOW_SIZE,
        drop_path_rate=node.DROP_PATH_RATE,
        out_features=tuple(node.OUT_FEATURES),
        in_channels=input_shape.channels,
        gradient_checkpointing=node.GRADIENT_CHECKPOINTING,
    )


def resize_position_table(table: Tensor, window_size: int) -> Tensor:
    """The relative position biases ((2 M - 1)^2, heads) of windows of side M, for windows of side `window_size`:
    bicubic over the offsets (dy, dx) (Point2Mask card, fault w)."""
    old, new = math.isqrt(len(table)), 2 * window_size - 1
    grid = table.T.unflatten(1, (old, old))[None].float()
    return F.interpolate(grid, size=(new, new), mode="bicubic")[0].flatten(1).T


class _Block(SwinTransformerBlock):
    """Detectron2's block, with timm's stochastic depth, and its intermediate results recomputed on demand."""

    H: int
    W: int

    def __init__(self, *arguments, drop_path: float, is_recomputed: bool, **keywords):
        with warnings.catch_warnings():
            # Detectron2 leaves the order of the indices to torch's default.
            warnings.filterwarnings("ignore", message="torch.meshgrid")
            super().__init__(*arguments, **keywords)
        self.drop_path = DropPath(drop_path)
        self.is_recomputed = is_recomputed

    def forward(self, x: Tensor, mask_matrix: Tensor) -> Tensor:
        if not (self.is_recomputed and torch.is_grad_enabled()):
            return super().forward(x, mask_matrix)
        size = self.H, self.W

        def run(x: Tensor, mask_matrix: Tensor) -> Tensor:
            # When it is recomputed, another image may have gone through this block.
            self.H, self.W = size
            return super(_Block, self).forward(x, mask_matrix)

        return checkpoint(run, x, mask_matrix, use_reentrant=False)


def _initialise(module: nn.Module) -> None:
    """As published; norms start as the identity anyway, and position tables like the linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(embed_dim: int, depths: tuple, num_heads: tuple, out_features: tuple) -> None:
    if not 1 <= len(depths) == len(num_heads) <= len(STAGES):
        raise ValueError(
            f"MODEL.SWIN.DEPTHS and NUM_HEADS: expected one number for each of 1 to {len(STAGES)} stages; found "
            f"{tuple(depths)} and {tuple(num_heads)}. Give both the same length."
        )
    uneven = [heads for stage, heads in enumerate(num_heads) if embed_dim * 2**stage % heads]
    if uneven:
        raise ValueError(
            f"MODEL.SWIN.NUM_HEADS: expected numbers that divide the channels {embed_dim}, {2 * embed_dim}, ... of the "
            f"stages; found {tuple(num_heads)}. Correct {uneven[0]}, or EMBED_DIM."
        )
    known = STAGES[: len(depths)]
    unknown = [name for name in out_features if name not in known]
    if unknown or not out_features:
        raise ValueError(
            f"MODEL.SWIN.OUT_FEATURES: expected names among {', '.join(known)}; found {tuple(out_features)}. "
            "Correct them."
        )
