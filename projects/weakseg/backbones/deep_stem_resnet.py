"""ResNet-50/101 with a stem of three 3x3 convolutions and dilation instead of stride in the last two stages."""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock
from fvcore.nn import weight_init
from torch import Tensor

from weakseg.backbones.torchvision_names import detectron2_name, torchvision_name
from weakseg.layers.sync_batch_norm import batch_norm

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Depth -> bottlenecks of res2..res5."""
STRIDES = (1, 2, 1, 1)
DILATIONS = ((1, 1), (1, 1), (1, 2), (2, 4))
"""Of the 3x3 convolutions of res2..res5: in the first block, in the others."""

_STEM_NAMES = (
    ("conv1.1.", "stem.conv1.norm."),
    ("conv1.4.", "stem.conv2.norm."),
    ("bn1.", "stem.conv3.norm."),
    ("conv1.0.", "stem.conv1."),
    ("conv1.3.", "stem.conv2."),
    ("conv1.6.", "stem.conv3."),
)
"""Beginning of a name in the ImageNet files, and of ours; the first that fits counts."""


class DeepStem(CNNBlockBase):
    """Three 3x3 convolutions, each with norm and ReLU, the first of stride 2, and a max pooling of stride 2."""

    def __init__(self, in_channels: int, out_channels: int, *, norm):
        """norm: function of the number of channels. The first two convolutions have half of `out_channels`."""
        super().__init__(in_channels, out_channels, stride=4)
        width = out_channels // 2
        self.conv1 = _conv3x3(in_channels, width, stride=2, norm=norm)
        self.conv2 = _conv3x3(width, width, stride=1, norm=norm)
        self.conv3 = _conv3x3(width, out_channels, stride=1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.conv1, self.conv2, self.conv3):
            x = F.relu_(layer(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class DeepStemResNet(ResNet):
    """The backbone of SPML (card 2.1): res2 (stride 4), res3, res4 and res5 (stride 8).

    Detectron2's ResNet with its names of parameters. Each stride of 2 maps a side n to floor((n - 1) / 2) + 1, so that
    any image size is possible.
    """

    def __init__(
        self,
        depth: int,
        *,
        in_channels: int = 3,
        stem_channels: int = 128,
        res2_channels: int = 256,
        width: int = 64,
        norm: str = "SyncBN",
        norm_momentum: float = 3e-4,
        out_features: tuple[str, ...] = ("res5",),
        freeze_at: int = 0,
    ):
        """depth: 50 or 101. res2_channels, width: of res2 and of its 3x3 convolutions; each further stage doubles them.
        norm: see `layers.sync_batch_norm.batch_norm`. out_features: names among stem, res2..res5. freeze_at: see
        `freeze`."""
        if depth not in BLOCKS:
            raise ValueError(
                f"MODEL.RESNETS.DEPTH: expected 50 or 101 with a deep stem; found {depth}. Set one of them."
            )
        make_norm = batch_norm(norm, momentum=norm_momentum)
        stages, channels = [], stem_channels
        for i, (blocks, stride, (first, others)) in enumerate(zip(BLOCKS[depth], STRIDES, DILATIONS)):
            stages.append(
                self.make_stage(
                    BottleneckBlock,
                    blocks,
                    in_channels=channels,
                    out_channels=res2_channels * 2**i,
                    bottleneck_channels=width * 2**i,
                    stride_per_block=[stride] + [1] * (blocks - 1),
                    dilation_per_block=[first] + [others] * (blocks - 1),
                    norm=make_norm,
                )
            )
            channels = res2_channels * 2**i
        stem = DeepStem(in_channels, stem_channels, norm=make_norm)
        super().__init__(stem, stages, out_features=list(out_features), freeze_at=freeze_at)

    def freeze(self, freeze_at: int = 0) -> DeepStemResNet:
        """No gradient in the first `freeze_at` stages (1: the stem; 2: and res2; ...). Their norms stay as they are:
        published training never updates the stem and res2, but their statistics move (SPML card, fault j)."""
        for stage in [self.stem, *self.stages][:freeze_at]:
            stage.requires_grad_(False)
        return self


@BACKBONE_REGISTRY.register()
def build_deep_stem_resnet_backbone(cfg, input_shape: ShapeSpec) -> DeepStemResNet:
    """The network of `MODEL.RESNETS`, whose STEM_OUT_CHANNELS is 128 in published files; MODEL.BACKBONE.FREEZE_AT 2
    leaves the stem and res2 without gradient."""
    node = cfg.MODEL.RESNETS
    return DeepStemResNet(
        node.DEPTH,
        in_channels=input_shape.channels,
        stem_channels=node.STEM_OUT_CHANNELS,
        res2_channels=node.RES2_OUT_CHANNELS,
        width=node.WIDTH_PER_GROUP,
        norm=node.NORM,
        out_features=tuple(node.OUT_FEATURES),
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


def our_name(name: str) -> str:
    """ "conv1.3.weight" to "stem.conv2.weight", "layer1.0.bn2.bias" to "res2.0.conv2.norm.bias"."""
    for theirs, ours in _STEM_NAMES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return detectron2_name(name)


def imagenet_name(name: str) -> str:
    """The inverse of `our_name`."""
    for theirs, ours in _STEM_NAMES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return torchvision_name(name)


def from_imagenet(state_dict: dict) -> dict:
    """A published ImageNet state dict (`resnet-101-cuhk.pth`) under our names, without the classifier `fc`."""
    return {our_name(name): value for name, value in state_dict.items() if not name.startswith("fc.")}


def _conv3x3(in_channels: int, out_channels: int, *, stride: int, norm) -> Conv2d:
    conv = Conv2d(
        in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False, norm=norm(out_channels)
    )
    weight_init.c2_msra_fill(conv)
    return conv
