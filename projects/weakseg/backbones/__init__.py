"""Backbones that Detectron2 lacks, and published weights for all of them."""

from weakseg.backbones.deep_stem_resnet import DeepStemResNet, build_deep_stem_resnet_backbone
from weakseg.backbones.swin import SwinBackbone, build_swin_backbone
from weakseg.backbones.timm_backbone import TimmBackbone, build_timm_backbone
from weakseg.backbones.torchvision_names import from_torchvision
from weakseg.backbones.weights import load_backbone_weights

__all__ = [
    "DeepStemResNet",
    "SwinBackbone",
    "TimmBackbone",
    "build_deep_stem_resnet_backbone",
    "build_swin_backbone",
    "build_timm_backbone",
    "from_torchvision",
    "load_backbone_weights",
]
