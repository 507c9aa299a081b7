"""Any feature network of the library timm as a backbone (`MODEL.BACKBONE.NAME: build_timm_backbone`)."""

from __future__ import annotations

from typing import Any

import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import Format, freeze_batch_norm_2d
from torch import Tensor, nn

STRIDES = {"stem": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32}
"""Feature name, in Detectron2's words, to stride in pixels of a network without dilation. A dilated one (argument
`output_stride`) keeps the names, and its last maps the same stride."""


class TimmBackbone(Backbone):
    """A network of timm, by name, that hands out the feature maps of some strides.

    The network starts at random; `load_backbone_weights` reads a local file.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        out_features: tuple[str, ...] = ("res3", "res4", "res5"),
        frozen_norm: bool = True,
        freeze_at: int = 0,
        **arguments,
    ):
        """out_features: names in `STRIDES`. frozen_norm: batch norms keep their statistics and affine parameters for
        good. freeze_at: number of stages without gradient, counted as feature maps from the first one of the network.
        arguments: of the network in timm (`pad_type="same"`, ...)."""
        super().__init__()
        arguments = {"pretrained": False, "features_only": True, "in_chans": in_channels, **arguments}
        with torch.device("meta"):
            whole: Any = timm.create_model(name, **arguments)
        stages = whole.feature_info
        strides = stages.reduction()
        names = _feature_names(strides)
        wanted = {_index_of(feature, names, name): feature for feature in out_features}
        # What lies behind the last map is not built: it would cost time, and get no gradient.
        network: Any = timm.create_model(name, out_indices=sorted(wanted), **arguments)
        self.network = network
        self._features = [wanted[index] for index in sorted(wanted)]
        self._channels = dict(zip(self._features, network.feature_info.channels()))
        self._strides = {feature: strides[index] for index, feature in wanted.items()}
        self._channels_last = getattr(self.network, "output_fmt", Format.NCHW) == Format.NHWC
        if frozen_norm:
            self.network = freeze_batch_norm_2d(self.network)
        if not 0 <= freeze_at <= len(strides):
            raise ValueError(
                f"MODEL.TIMM.FREEZE_AT: expected a number from 0 to the {len(strides)} stages of {name}, "
                f"found {freeze_at}. Choose one of them."
            )
        if freeze_at:
            _freeze_until(self.network, stages.module_name(freeze_at - 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x (B, C, H, W). Returns name -> (B, C_l, H / stride, W / stride) per name of `out_features`."""
        maps = self.network(x)
        if self._channels_last:
            maps = [feature.permute(0, 3, 1, 2) for feature in maps]
        return dict(zip(self._features, maps))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            feature: ShapeSpec(channels=channels, stride=self._strides[feature])
            for feature, channels in self._channels.items()
        }

    @property
    def size_divisibility(self) -> int:
        """Networks that cut the image into patches lose what does not fill one; padding keeps it."""
        return max(self._strides.values())


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg, input_shape: ShapeSpec) -> TimmBackbone:
    """The network named by `MODEL.TIMM`."""
    node = cfg.MODEL.TIMM
    if node.NORM not in ("frozen", "train"):
        raise ValueError(f"MODEL.TIMM.NORM: expected frozen or train, found {node.NORM!r}. Choose one of them.")
    return TimmBackbone(
        node.NAME,
        in_channels=input_shape.channels,
        out_features=tuple(node.OUT_FEATURES),
        frozen_norm=node.NORM == "frozen",
        freeze_at=node.FREEZE_AT,
        **node.ARGUMENTS,
    )


def _feature_names(strides: list[int]) -> list[str]:
    """The name of each feature map of a network with these strides, in order."""
    by_stride = {stride: name for name, stride in STRIDES.items()}
    names: list[str] = []
    for stride, before in zip(strides, [0, *strides]):
        # A map of the same stride as the one before is what dilation leaves of the next stage.
        nominal = 2 * STRIDES.get(names[-1], 0) if stride == before else stride
        names.append(by_stride.get(nominal, f"stride {nominal}"))
    return names


def _index_of(feature: str, names: list[str], network: str) -> int:
    """The position of `feature` among the names of a network's feature maps."""
    if feature in STRIDES and feature in names:
        return names.index(feature)
    known = ", ".join(name for name in STRIDES if name in names)
    raise ValueError(
        f"MODEL.TIMM.OUT_FEATURES: expected names among {known} for {network}, found {feature!r}. Remove it."
    )


def _freeze_until(network: nn.Module, module_name: str) -> None:
    """No gradient for the modules up to `module_name`, in the order of the forward pass, in which timm builds them."""
    # A feature network may hold "stages.0" as "stages_0".
    target = module_name.replace("_", ".") + "."
    modules = [(name.replace("_", ".") + ".", module) for name, module in network.named_modules() if name]
    inside = [index for index, (name, _) in enumerate(modules) if name.startswith(target)]
    if not inside:
        raise ValueError(
            f"MODEL.TIMM.FREEZE_AT: expected a network that is built stage after stage, found one without a module "
            f"{module_name}. Set it to 0."
        )
    for _, module in modules[: inside[-1] + 1]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
