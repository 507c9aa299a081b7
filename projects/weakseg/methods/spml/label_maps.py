"""What a person gave, or a label PNG says, as one map of SPML's classes; and the training images with it (card 4.3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from weakseg.data.augmentation import AUGMENTATION_REGISTRY, Augmented, Evidence
from weakseg.data.catalog import metadata_of
from weakseg.heads import WEAK_HEAD_REGISTRY
from weakseg.labels import IGNORED, UNLABELLED, ClassOrder, WeakLabels
from weakseg.labels.scribbles import POINT_DIAMETER, SCRIBBLE_WIDTH, draw_scribbles
from weakseg.methods.spml.augmentation import augment
from weakseg.methods.spml.segmentation import SegmentationHead

logger = logging.getLogger(__name__)


class LabelMaps:
    """The label map (H, W) uint8 of an image: classes 0..K-1 in SPML's order, 254 unlabelled, 255 ignored.

    It is the evidence "semantic" (a label PNG) and nothing else where there is one: what was grown from labels is not
    mixed with them. Else masks are painted, then scribbles and points
    drawn, later ones over earlier ones; of an image with masks, what no mask covers is ignored; outside all boxes is
    background.
    """

    def __init__(
        self,
        classes: ClassOrder,
        *,
        scribble_width: float = SCRIBBLE_WIDTH,
        point_diameter: float = POINT_DIAMETER,
    ):
        """scribble_width, point_diameter: in pixels of the stored image."""
        self.classes = classes
        self.scribble_width, self.point_diameter = scribble_width, point_diameter

    def __call__(self, weak: WeakLabels, evidence: Evidence) -> np.ndarray:
        if "semantic" in evidence:
            return self.classes.from_png(evidence["semantic"])
        size = weak.image_size
        drawn = np.full(size, UNLABELLED, dtype=np.uint8)
        if len(weak.boxes) and self.classes.has_background:
            drawn = self._outside_boxes(weak)
        if weak.masks is not None:
            drawn[:] = IGNORED
            for mask, value in zip(weak.masks.numpy(), self._values(weak, weak.mask_target)):
                drawn[mask] = value
        lines = [line.numpy() for line in weak.scribbles]
        self._draw(drawn, lines, self._values(weak, weak.scribble_target), self.scribble_width)
        positive = weak.point_positive
        points = list(weak.points[positive].numpy())
        self._draw(drawn, points, self._values(weak, weak.point_target[positive]), self.point_diameter)
        return drawn

    def present(self, label_map: np.ndarray) -> torch.Tensor:
        """House indices of the classes among the values of a label map, of any shape: (G,) int64."""
        found = np.unique(label_map)
        found = found[found < len(self.classes.class_index)]
        return torch.from_numpy(self.classes.to_house(found).astype(np.int64))

    def _values(self, weak: WeakLabels, target: torch.Tensor) -> list[int]:
        return self.classes.from_house(weak.classes[target].numpy()).tolist()

    def _outside_boxes(self, weak: WeakLabels) -> np.ndarray:
        drawn = np.zeros(weak.image_size, dtype=np.uint8)
        background = self.classes.class_index[0]
        for x0, y0, x1, y1 in weak.boxes[weak.classes[weak.box_target] != background].numpy():
            rows = slice(max(int(np.floor(y0)), 0), int(np.ceil(y1)))
            drawn[rows, max(int(np.floor(x0)), 0) : int(np.ceil(x1))] = UNLABELLED
        return drawn

    def _draw(self, drawn: np.ndarray, lines: Sequence[np.ndarray], values: Sequence[int], width: float) -> None:
        # No class has the value 255: it marks what these lines do not cover.
        lines_only = draw_scribbles(lines, values, drawn.shape, unlabelled=IGNORED, width=width)
        np.copyto(drawn, lines_only, where=lines_only != IGNORED)


class TrainingImages:
    """Flip, scale, pad and crop an image with its label map and its regions; see `augment` for the rest.

    Returns the image float32 in 0..255, (crop, crop, 3); labels that know only the tags: the classes that occur in the
    label map of the whole image (card 3.1); and the evidence "label_map" and "regions" (one region without any).
    """

    def __init__(self, label_maps: LabelMaps, *, mean: Sequence[float], **arguments):
        """mean: colour of the padding, values 0..255; arguments: of `augment`."""
        self.label_maps = label_maps
        self.mean = tuple(value / 255 for value in mean)
        self.arguments = arguments

    def __call__(
        self, image: np.ndarray, labels: WeakLabels, evidence: Evidence, generator: np.random.Generator
    ) -> Augmented:
        label_map = self.label_maps(labels, evidence)
        regions = evidence.get("regions", np.zeros_like(label_map))
        pixels, label_map, regions, tags = augment(
            image.astype(np.float32) / 255, label_map, regions, generator, mean=self.mean, **self.arguments
        )
        weak = WeakLabels(image_size=label_map.shape, tags=self.label_maps.present(tags))
        return pixels * 255, weak, {"label_map": label_map, "regions": regions}


class WholeImages:
    """An image as it is, with its label map for pseudo labels; other evidence stays."""

    def __init__(self, label_maps: LabelMaps):
        self.label_maps = label_maps

    def __call__(
        self, image: np.ndarray, labels: WeakLabels, evidence: Evidence, generator: np.random.Generator
    ) -> Augmented:
        return image, labels, {**evidence, "label_map": self.label_maps(labels, evidence)}


@AUGMENTATION_REGISTRY.register()
def spml(cfg, is_train: bool) -> TrainingImages | WholeImages:
    """`MODEL.SPML.INPUT`. At test the image is as stored: the head makes its views. Raises ValueError for a head that
    would miss the labels that are no longer there."""
    node, name = cfg.MODEL.SPML.INPUT, cfg.MODEL.WEAK_HEAD.NAME
    if name in WEAK_HEAD_REGISTRY and not issubclass(WEAK_HEAD_REGISTRY.get(name), SegmentationHead):
        raise ValueError(
            f"INPUT.AUGMENTATION: expected one that keeps the labels that {name} learns from; found spml, which draws "
            "them as label maps for the stages of SPML. Set it to that of the method, or to resize_flip."
        )
    label_maps = LabelMaps(
        ClassOrder.of(metadata_of(cfg).stuff_classes),
        scribble_width=node.SCRIBBLE_WIDTH,
        point_diameter=node.POINT_DIAMETER,
    )
    if not is_train:
        return WholeImages(label_maps)
    if cfg.INPUT.SUPERVISION and "semantic" in cfg.INPUT.EVIDENCE:
        logger.info("Labels: evidence semantic alone; %s are not drawn over it", ", ".join(cfg.INPUT.SUPERVISION))
    return TrainingImages(
        label_maps,
        mean=cfg.MODEL.PIXEL_MEAN,
        crop_size=node.CROP_SIZE,
        scale_range=tuple(node.SCALE_RANGE),
        flip_pairs=tuple(map(tuple, node.FLIP_PAIRS)),
        grey_probability=node.GRAYSCALE,
        blur_probability=node.BLUR,
        official=cfg.MODEL.SPML.OFFICIAL_COMPAT,
    )
