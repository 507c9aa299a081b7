"""SPML: semantic segmentation from partial labels by pixel-to-segment contrast (arXiv 2105.00957). Start reading here.

The first stage trains an embedding and, beside it, a classifier of its pixels; `classifier_stage` trains that anew on
pseudo labels. Both predict in the same ways.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from weakseg.heads import WEAK_HEAD_REGISTRY, SegmentationModel
from weakseg.methods.spml.build import criterion_of
from weakseg.methods.spml.criterion import Criterion
from weakseg.methods.spml.segmentation import SegmentationHead

ACCURACY_PERIOD = 20
"""Steps between two entries of the prototypes' accuracy in the log."""


@WEAK_HEAD_REGISTRY.register()
class SPMLHead(SegmentationHead):
    """The embedding stage; predicts by the joint classifier or by retrieval.

    Tags and boxes need label maps besides (evidence "semantic"), which class activation maps make; the image relation
    needs over-segmentations (evidence "regions").
    """

    @configurable
    def __init__(self, *, criterion: Criterion, freeze_statistics: bool = False, **arguments):
        """freeze_statistics: norms of stages without gradient keep theirs (fault j); arguments: of
        `SegmentationHead`."""
        super().__init__(**arguments)
        self.criterion = criterion
        self.freeze_statistics = freeze_statistics

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        arguments = cls.arguments(cfg, input_shape)
        return {
            **arguments,
            "criterion": criterion_of(cfg, arguments["classes"]),
            "freeze_statistics": cfg.MODEL.SPML.FREEZE_STATISTICS,
        }

    def losses(self, features: dict[str, Tensor], images: ImageList, batch: list[dict]) -> dict[str, Tensor]:
        labels = self.stacked(batch, "label_map", images)
        embedding = self.network(features[self.in_feature])
        if self.criterion.relations.are_off:
            return self.criterion(None, self.network.classifier(embedding), labels)
        regions = self.stacked(batch, "regions", images)
        local = self.network.local_features(images.tensor, (embedding.shape[-2], embedding.shape[-1]))
        contrast = self.criterion.contrast(embedding, local, labels, regions, self._tags(batch, labels.device))
        losses = self.criterion(contrast, self.network.classifier(embedding), labels)
        self.criterion.remember(contrast.prototypes)
        if has_event_storage() and get_event_storage().iter % ACCURACY_PERIOD == 0:
            get_event_storage().put_scalar("accuracy", contrast.accuracy())
        return losses

    def after_step(self) -> None:
        self.criterion.end_step()

    def set_train_mode(self, model: SegmentationModel) -> None:
        if self.freeze_statistics:
            for module in model.backbone.modules():
                own = list(module.parameters(recurse=False))
                if own and not any(parameter.requires_grad for parameter in own):
                    module.eval()

    def _tags(self, batch: list[dict], device: torch.device) -> Tensor:
        """(N, T) bool: the background, then the other classes."""
        order = torch.tensor(self.classes.class_index)
        tags = torch.stack([torch.isin(order, sample["weak"].tags) for sample in batch])
        if not self.classes.has_background:
            tags = F.pad(tags, (1, 0))
        return tags.to(device)
