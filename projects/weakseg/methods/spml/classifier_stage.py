"""The second stage of SPML: the pixel classifier alone, trained anew on pseudo labels (card 3.13)."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.structures import ImageList
from detectron2.utils import comm
from torch import Tensor

from weakseg.heads import WEAK_HEAD_REGISTRY, SegmentationModel
from weakseg.methods.spml.build import check_labels
from weakseg.methods.spml.classifier import pixel_cross_entropy
from weakseg.methods.spml.segmentation import SegmentationHead


@WEAK_HEAD_REGISTRY.register()
class SPMLClassifierHead(SegmentationHead):
    """The embedding of `MODEL.WEIGHTS` stays as it is, in evaluation mode; the classifier starts anew.

    It is the model that is evaluated. It learns from label maps (evidence "semantic"), or from the pixels that the
    labels themselves name.
    """

    @configurable
    def __init__(self, *, weights: str = "", **arguments):
        """weights: where the embedding of a training comes from; arguments: of `SegmentationHead`."""
        super().__init__(**arguments)
        self.weights = weights
        self.network.embedding_head.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        check_labels(cfg)
        return {**cls.arguments(cfg, input_shape), "weights": cfg.MODEL.WEIGHTS}

    def losses(self, features: dict[str, Tensor], images: ImageList, batch: list[dict]) -> dict[str, Tensor]:
        labels = self.stacked(batch, "label_map", images)
        total, count = pixel_cross_entropy(self.network.classifier(self.network(features[self.in_feature])), labels)
        count = count.float()
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(count)
            count /= comm.get_world_size()
        return {"loss_pixel": total / torch.where(count > 0, count, 1.0)}

    def start_anew(self) -> None:
        if not self.weights:
            raise ValueError(
                "MODEL.WEIGHTS: expected the checkpoint of an embedding stage, as the classifier stage trains none; "
                "found none. Set it to that stage's model_final.pth."
            )
        self.network.classifier.reset()

    def parameter_groups(self, model: SegmentationModel) -> list[dict]:
        trainable = [name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad]
        if trainable:
            raise ValueError(
                "MODEL.BACKBONE.FREEZE_AT: expected a backbone without gradient in the classifier stage; found "
                f"{len(trainable)} trainable tensors ({trainable[0]}, ...). Set it to 5 (timm: MODEL.TIMM.FREEZE_AT)."
            )
        return super().parameter_groups(model)

    def set_train_mode(self, model: SegmentationModel) -> None:
        model.backbone.eval()
        self.network.eval()
        self.network.classifier.train()
