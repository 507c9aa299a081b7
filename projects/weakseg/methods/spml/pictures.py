"""What there is to see of a network of SPML on one image, as arrays: embedding, segments, and the given labels."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch

from weakseg.labels import IGNORED, UNLABELLED, ClassOrder
from weakseg.methods.spml.prediction import single_scale_size, view_segments
from weakseg.methods.spml.segmentation import SegmentationHead
from weakseg.methods.spml.views import resize_linear, resize_nearest
from weakseg.segmenter import WeaklySupervisedSegmenter

_EMBEDDING_STRIDE = 4


@torch.no_grad()
def embedding_and_segments(model: WeaklySupervisedSegmenter, sample: dict) -> tuple[np.ndarray, np.ndarray]:
    """How a network in evaluation mode, with the head of a stage of SPML, sees an image at a single scale (card 5.2).

    Returns the embedding (h, w, C) float32 at a quarter of the size of the resized image, as the network gives it; and
    the segments that k-means finds of all of its pixels, (H, W) int64 at the size of the image.
    """
    head = cast(SegmentationHead, model.head)
    image = model.preprocess([sample])[0]
    predictor = head.predictor
    view = resize_linear(image, single_scale_size(image, predictor.image_size))
    segments = view_segments(
        view,
        lambda images: head.network(model.backbone(images)[head.in_feature]),
        tiling=replace(predictor.tiling, divisor=model.backbone.size_divisibility or 1),
        grid=predictor.kmeans_grid,
        iterations=predictor.kmeans_iterations,
        padded=True,
    )
    height, width = view.shape[-2:]
    embedding = segments.embedding.float().T.view(-1, height, width)
    embedding = resize_linear(embedding, (-(-height // _EMBEDDING_STRIDE), -(-width // _EMBEDDING_STRIDE)))
    segment = resize_nearest(segments.segment.view(height, width), image.shape[-2:])
    return embedding.permute(1, 2, 0).cpu().numpy(), segment.cpu().numpy()


def given_labels(label_map: np.ndarray, classes: ClassOrder) -> np.ndarray:
    """Ordered classes (H, W) as house indices, uint8; 254 unlabelled and 255 ignored stay apart."""
    unlabelled = (label_map >= len(classes.class_index)) & (label_map != IGNORED)
    return np.where(unlabelled, UNLABELLED, classes.to_house(label_map)).astype(np.uint8)
