"""What SPML puts behind a backbone: an embedding of stride 4, and the classifier of its pixels (card 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakseg.methods.spml.classifier import PixelClassifier, at_least_fp32
from weakseg.methods.spml.embedding_heads import DILATIONS, DeepLabHead, PSPHead
from weakseg.methods.spml.local_features import ColorFeatures, position_features

STRIDE = 4
"""Of the embedding, in pixels of the input."""


class SPMLNetwork(nn.Module):
    """Embedding head and pixel classifier on one map of a backbone."""

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        head: str = "deeplab",
        embedding_dim: int = 64,
        dilations: Sequence[int] = DILATIONS,
        feature_stride: int = 8,
        dropout: float = 0.75,
        norm: str = "SyncBN",
        classifier_trains_embedding: bool = False,
        colors: ColorFeatures | None = None,
    ):
        """in_channels, feature_stride: of the backbone's map. head: "deeplab", with `dilations`, or "pspnet".
        num_classes counts the background. norm: see `layers.sync_batch_norm.batch_norm`; dropout and
        classifier_trains_embedding: see `PixelClassifier`. colors: among the local features of the DensePose network,
        whose checkpoints hold their kernel."""
        super().__init__()
        if head not in ("deeplab", "pspnet"):
            raise ValueError(f"MODEL.SPML.HEAD: expected deeplab or pspnet; found {head!r}. Set one of them.")
        if head == "deeplab":
            self.embedding_head: nn.Module = DeepLabHead(in_channels, embedding_dim, dilations)
        else:
            self.embedding_head = PSPHead(in_channels, embedding_dim, norm=norm)
        self.scale = feature_stride // STRIDE
        self.classifier = PixelClassifier(
            embedding_dim,
            num_classes,
            dropout=dropout,
            norm=norm,
            trains_embedding=classifier_trains_embedding,
        )
        self.colors = colors

    def forward(self, feature: Tensor) -> Tensor:
        """The embedding (B, C, h, w), not normalised, in fp32 at least, from a map (B, in_channels, h / 2, w / 2) of
        stride 8.

        An input of H x W gives h = 2 ceil(H / 8), w = 2 ceil(W / 8).
        """
        embedding = at_least_fp32(self.embedding_head(feature))
        return F.interpolate(embedding, scale_factor=self.scale, mode="bilinear", align_corners=False)

    def local_features(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """What is appended to the embedding for clustering (card 2.3), for a map of `size` (h, w).

        images (B, 3, H, W), normalised. Returns (h, w, 2), the positions (y, x), or with colours (B, h, w, 5); float32,
        no gradient.
        """
        position = position_features(*size, device=images.device)
        if self.colors is None:
            return position
        return torch.cat([position.expand(len(images), -1, -1, -1), self.colors(images, size)], dim=-1)


def parameter_groups(
    backbone: nn.Module, network: nn.Module, *, head_lr_factor: float = 10.0, bias_lr_factor: float = 2.0
) -> list[dict]:
    """The published groups (card 4.1), in the form of `WeakHead.parameter_groups`, of what has a gradient.

    What lies behind the backbone learns `head_lr_factor` times as fast; each bias `bias_lr_factor` times as fast as its
    weight, and without decay.
    """
    return [
        group
        for module, factor in ((backbone, 1.0), (network, head_lr_factor))
        for group in (
            {"params": _trainable(module, biases=False), "lr_mult": factor, "decay_mult": 1.0},
            {"params": _trainable(module, biases=True), "lr_mult": factor * bias_lr_factor, "decay_mult": 0.0},
        )
    ]


def _trainable(module: nn.Module, *, biases: bool) -> list[nn.Parameter]:
    return [
        parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and (name.rsplit(".", 1)[-1] == "bias") == biases
    ]
