"""The one meta-architecture: normalise, pad, backbone, head. No method is named here."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor

from weakseg.backbones import load_backbone_weights
from weakseg.heads import SegmentationModel, WeakHead, build_weak_head
from weakseg.inference.views import plain_view


@META_ARCH_REGISTRY.register()
class WeaklySupervisedSegmenter(SegmentationModel):
    """A backbone and the head of one method.

    In training mode a batch (list of samples, see `data.mapper`) gives a dict of scalar losses; in evaluation mode a
    list of results, one dict an image, at the image's original size (see `WeakHead.finish`).
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(self, *, backbone: Backbone, head: WeakHead, pixel_mean: list[float], pixel_std: list[float]):
        """pixel_mean, pixel_std: per channel, in the order of `INPUT.FORMAT`, of pixel values 0..255."""
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg) -> dict:
        backbone = build_backbone(cfg)
        if cfg.MODEL.BACKBONE.WEIGHTS:
            load_backbone_weights(backbone, cfg.MODEL.BACKBONE.WEIGHTS)
        return {
            "backbone": backbone,
            "head": build_weak_head(cfg, backbone.output_shape()),
            "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": list(cfg.MODEL.PIXEL_STD),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batch: list[dict]) -> dict[str, Tensor] | list[dict]:
        images = self.preprocess(batch)
        if self.training:
            return self.head.losses(self.backbone(images.tensor), images, batch)
        return self.head.predict(self, images, batch)

    def predict_plain_view(self, images: ImageList, batch: list[dict]) -> list[dict]:
        """The head's results from one view: the images as they are."""
        raw = self.head(self.backbone(images.tensor), images, batch)
        return self.head.finish([(plain_view(images), raw)], batch)

    @torch.no_grad()
    def pseudo_labels(self, batch: list[dict]) -> list[dict]:
        """What the labels of a batch are grown to, see `WeakHead.pseudo_labels`."""
        images = self.preprocess(batch)
        return self.head.pseudo_labels(self, images, batch)

    def preprocess(self, batch: list[dict]) -> ImageList:
        """Normalise each `image`, (C, H, W) of values 0..255, and pad with 0 at the right and the bottom to the largest
        size."""
        images = [(sample["image"].to(self.device) - self.pixel_mean) / self.pixel_std for sample in batch]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def parameter_groups(self) -> list[dict]:
        """See `WeakHead.parameter_groups`."""
        return self.head.parameter_groups(self)

    def train(self, mode: bool = True) -> WeaklySupervisedSegmenter:
        super().train(mode)
        if mode:
            self.head.set_train_mode(self)
        return self
