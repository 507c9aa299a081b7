"""A classifier of image tags, whose activation maps give SPML its first labels from tags and boxes (card 3.11, end)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from detectron2.utils import comm
from torch import Tensor, nn

from weakseg.data.catalog import metadata_of
from weakseg.heads import WEAK_HEAD_REGISTRY, SegmentationModel, WeakHead
from weakseg.inference.views import View
from weakseg.labels import NO_CLASS, ClassOrder, LabelKind, WeakLabels, resize
from weakseg.layers.resize import resize_and_crop
from weakseg.methods.spml.build import check_numbers, feature_of
from weakseg.methods.spml.cam_labels import MIN_PEAK, cam_scores, labels_from_boxes, labels_from_tags
from weakseg.methods.spml.network import parameter_groups
from weakseg.methods.spml.views import pad_to, views


@WEAK_HEAD_REGISTRY.register()
class CAMHead(WeakHead):
    """Which classes an image shows, learned from its tags or from the classes of its boxes, and where they are active.

    The K' classes here are those that are not the background, in class order. An image of which neither tags nor boxes
    are known takes no part.
    """

    gives = frozenset({"sem_seg"})
    accepts = frozenset({LabelKind.TAGS, LabelKind.BOXES})
    house_index: Tensor

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        in_feature: str,
        classes: ClassOrder,
        scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0),
        alpha: float = 6.0,
        tag_threshold: float = 0.2,
        box_threshold: float = 0.5,
        head_lr_factor: float = 10.0,
        bias_lr_factor: float = 2.0,
    ):
        """in_channels: of the backbone's map `in_feature`. scales: of the views that pseudo labels are made from, each
        also mirrored. alpha, thresholds: see `cam_labels`."""
        super().__init__()
        self.in_feature = in_feature
        self.classes = classes
        self.foreground = classes.class_index[1:] if classes.has_background else classes.class_index
        if not self.foreground:
            raise ValueError(
                "CAMHead: expected at least one class that is not the background; found none. Train with a data set "
                "of more classes."
            )
        self.scales = scales
        self.alpha = alpha
        self.tag_threshold, self.box_threshold = tag_threshold, box_threshold
        self.lr_factors = {"head_lr_factor": head_lr_factor, "bias_lr_factor": bias_lr_factor}
        self.classifier = nn.Conv2d(in_channels, len(self.foreground), kernel_size=1, bias=False)
        # House index of each value of a label map, 255 for what is no class.
        house_index = torch.from_numpy(classes.to_house(np.arange(256)).astype(np.int64))
        self.register_buffer("house_index", house_index, persistent=False)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node = cfg.MODEL.SPML
        check_numbers(cfg)
        return {
            "in_channels": feature_of(cfg, input_shape).channels,
            "in_feature": node.IN_FEATURE,
            "classes": ClassOrder.of(metadata_of(cfg).stuff_classes),
            "scales": tuple(node.CAM.SCALES),
            "alpha": node.PSEUDO.ALPHA,
            "tag_threshold": node.CAM.TAG_THRESHOLD,
            "box_threshold": node.CAM.BOX_THRESHOLD,
            "head_lr_factor": node.SOLVER.HEAD_LR_FACTOR,
            "bias_lr_factor": node.SOLVER.BIAS_LR_FACTOR,
        }

    def losses(self, features: dict[str, Tensor], images: ImageList, batch: list[dict]) -> dict[str, Tensor]:
        """Binary cross entropy of the pooled logits, mean over classes and over the images whose tags are known."""
        logits = _mean_inside(self(features, images, batch), images.image_sizes, _size(images.tensor))
        shown = [self._shown(sample["weak"]) for sample in batch]
        absent = torch.zeros(len(self.foreground), dtype=torch.bool)
        target = torch.stack([absent if tags is None else tags for tags in shown]).to(logits)
        is_known = torch.tensor([tags is not None for tags in shown]).to(logits)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)
        count = is_known.sum()
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(count)
        # The mean of this over all ranks is the loss of the global batch.
        return {"loss_tags": (loss * is_known).sum() * comm.get_world_size() / count.clamp(min=1)}

    def forward(self, features: dict[str, Tensor], images: ImageList, batch: list[dict]) -> Tensor:
        """Logits (B, K', h, w) float32 of each cell of the backbone's map."""
        return self.classifier(features[self.in_feature]).float()

    @torch.no_grad()
    def finish(self, views: list[tuple[View, Tensor]], batch: list[dict]) -> list[dict]:
        """Per image "sem_seg" (H, W), the class of the largest score among the background and the classes whose
        probability is above 0.5. Without a background every pixel has a class: the likeliest one competes in any case.
        Raises ValueError for several views."""
        if len(views) != 1:
            raise ValueError(f"CAMHead predicts from one view of an image; found {len(views)}. Turn test views off.")
        ((view, raw),) = views
        image_logits = _mean_inside(raw, view.image_sizes, view.padded_size)
        results = []
        for b, sample in enumerate(batch):
            is_shown = image_logits[b] > 0
            output_size = sample["height"], sample["width"]
            maps = resize_and_crop(raw[b].relu(), view.padded_size, view.image_sizes[b], output_size)
            cams = _normalised(maps)
            if self.classes.has_background:
                label = cam_scores(cams * is_shown[:, None, None], self.alpha).argmax(dim=0)
            else:
                is_shown[image_logits[b].argmax()] = True
                label = cams.masked_fill(~is_shown[:, None, None], -1).argmax(dim=0)
            results.append({"sem_seg": self.house_index[label]})
        return results

    @torch.no_grad()
    def pseudo_labels(self, model: SegmentationModel, images: ImageList, batch: list[dict]) -> list[dict]:
        """Per image "cams", the activation map (H, W) float32 in 0..1 of each class that the image shows by the number
        (as a word) of the class among the K', and "sem_seg" (H, W) int64, house class indices, 255 for unlabelled: from
        the boxes where the image has any, else from its tags; all at the sample's (`height`, `width`)."""
        backbone = cast(Backbone, model.backbone)
        return [
            self._pseudo_label(backbone, images[b], sample["weak"], (sample["height"], sample["width"]))
            for b, sample in enumerate(batch)
        ]

    def parameter_groups(self, model: SegmentationModel) -> list[dict]:
        return parameter_groups(cast(Backbone, model.backbone), self, **self.lr_factors)

    def _shown(self, weak: WeakLabels) -> Tensor | None:
        """(K',) bool: the classes that the tags or the boxes name; None where the image has neither."""
        if weak.tags is None and not len(weak.boxes):
            return None
        shown = torch.zeros(len(self.classes.class_index), dtype=torch.bool)
        shown[weak.classes[weak.box_target]] = True
        if weak.tags is not None:
            shown[weak.tags] = True
        return shown[list(self.foreground)]

    def _pseudo_label(self, backbone: Backbone, image: Tensor, weak: WeakLabels, size: tuple[int, int]) -> dict:
        shown = self._shown(weak)
        if shown is None:
            return {"cams": {}, "sem_seg": self.house_index.new_full(size, NO_CLASS)}
        numbers = shown.nonzero().flatten().tolist()
        cams = image.new_zeros(len(self.foreground), *size)
        if numbers:
            cams[numbers] = self._activation_maps(backbone, image, numbers, size)
        with_background = {"has_background": self.classes.has_background}
        if len(weak.boxes):
            boxes, box_classes = self._boxes(resize(weak, size))
            label = labels_from_boxes(cams, boxes, box_classes, threshold=self.box_threshold, **with_background)
        else:
            label = labels_from_tags(cams, alpha=self.alpha, threshold=self.tag_threshold, **with_background)
        return {"cams": {str(k): cams[k] for k in numbers}, "sem_seg": self.house_index[label]}

    def _activation_maps(self, backbone: Backbone, image: Tensor, numbers: list[int], size: tuple[int, int]) -> Tensor:
        """(len(numbers), H, W) of `size`: the sum over all views of the positive logits, over its largest value.

        image (3, h, w), normalised, not padded.
        """
        total = image.new_zeros(len(numbers), *size)
        for view, is_mirrored in views(image, self.scales, True):
            padded = pad_to(view, view.shape[-2:], backbone.size_divisibility or 1)
            logits = self.classifier(backbone(padded[None])[self.in_feature])[0, numbers]
            maps = resize_and_crop(logits.float().relu(), _size(padded), _size(view), size)
            total += maps.flip(-1) if is_mirrored else maps
        return _normalised(total)

    def _boxes(self, weak: WeakLabels) -> tuple[Tensor, Tensor]:
        """Boxes (M, 4) and their classes (M,) among the K', without those of the background."""
        number_of = {house: k for k, house in enumerate(self.foreground)}
        numbers = [number_of.get(house, -1) for house in weak.classes[weak.box_target].tolist()]
        classes = torch.tensor(numbers, dtype=torch.int64)
        return weak.boxes[classes >= 0], classes[classes >= 0]


def _mean_inside(maps: Tensor, image_sizes: Sequence[tuple[int, int]], padded_size: tuple[int, int]) -> Tensor:
    """Mean (B, K') of maps (B, K', h, w) over what of a padded batch of `padded_size` is image: a cell counts by the
    share of it that lies inside."""
    rows, columns = (
        torch.stack([_coverage(size[side], padded_size[side], maps.shape[2 + side]) for size in image_sizes])
        for side in (0, 1)
    )
    rows, columns = rows.to(maps)[:, None, :, None], columns.to(maps)[:, None, None, :]
    return (maps * rows * columns).sum((2, 3)) / (rows.sum(2) * columns.sum(3)).squeeze(2)


def _coverage(length: int, padded_length: int, cells: int) -> Tensor:
    """(cells,) share of each of the equal `cells` of `padded_length` pixels that lies in the first `length` ones."""
    return (length * cells / padded_length - torch.arange(cells)).clamp(0, 1)


def _normalised(maps: Tensor) -> Tensor:
    """maps (K, H, W) >= 0, each over its largest value."""
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=MIN_PEAK)


def _size(maps: Tensor) -> tuple[int, int]:
    height, width = maps.shape[-2:]
    return int(height), int(width)
