"""Dense labels of a training image, from an embedding and from what the weak labels say: five ways (card 3.11).

Sizes are (h, w). A *cell* is 8 x 8 pixels; the random walk goes from cell to cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weakseg.labels import NO_CLASS
from weakseg.methods.spml.cam_labels import cam_scores
from weakseg.methods.spml.classifier import PixelClassifier
from weakseg.methods.spml.label_propagation import propagate_labels
from weakseg.methods.spml.local_features import position_features
from weakseg.methods.spml.prediction import Embed, Memory, Predictor, Tiling, segment_vectors
from weakseg.methods.spml.retrieval import paint
from weakseg.methods.spml.segments import find_segments
from weakseg.methods.spml.views import pad_to, resize_linear, resize_nearest, views
from weakseg.refine.random_walk import random_walk, transition_matrix

_CELL = 8
"""Side of a cell in pixels."""
_WALK_SCALES = (1.0,)
_CLASSIFIER_SCALES = (0.75, 1.0)
_RETRIEVAL_SCALES = (0.5, 1.0, 1.5, 2.0)
"""Views of the two walks, of the classifier alone and of the nearest segments, each also mirrored."""


@dataclass(frozen=True, kw_only=True)
class PseudoLabeller:
    """Five ways from weak labels to dense ones, one image at a time, in the order of SPML, 0 the background.

    In all of them image (3, H, W) is normalised and of its original size; labels (H, W) are integers, 0..K-1 labelled,
    255 ignored, others unlabelled. The classes that occur in them are the image's, others have no score; without any,
    none is ruled out and scores stay as they are. The result is (H, W) int64 of 0..K-1, the first class on ties.
    """

    num_classes: int
    """K, with the background."""
    crop_size: int
    """Images are padded to at least this; the side of tiles. In pixels."""
    stride: int
    """Of the tiles."""
    divisor: int = 1
    """What the backbone wants the sides of its input to be multiples of."""
    alpha: float = 6.0
    """Power of the background's score in class activation maps."""
    walk_steps: int = 64
    power: int = 20
    """Of the affinity of two cells, for the walk."""
    min_peak: float = 0.15
    """Least divisor of the votes for a class."""
    kmeans_grid: tuple[int, int] = (12, 12)
    kmeans_iterations: int = 10
    neighbours: int = 20
    crf: dict | None = None
    """Keyword arguments of `refine.crf.dense_crf`; None: arg max of the scores."""
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    """Of the normalisation, with `std`, for values 0..1 in RGB: the CRF sees the image in bytes."""
    std: Sequence[float] = (0.229, 0.224, 0.225)
    at_stride_4: bool = False
    """Classify at the classifier's stride in training and resize the logits (fault l)."""
    official: bool = False
    """As published: faults q, r, s and aa, and labels without a class leave no score."""

    @torch.no_grad()
    def cam_walk(self, image: Tensor, embed: Embed, cams: Tensor) -> Tensor:
        """Class activation maps, spread by the walk. They alone say which classes there are; where all are 0 is
        background.

        cams (K-1, H, W) of 0..1, 0 for a class without one; (K, H, W) where no class is the background.
        """
        embeddings, _ = self._on_cells(image, embed, _WALK_SCALES)
        scores = cams.float() if len(cams) == self.num_classes else cam_scores(cams.float(), self.alpha)
        rows, columns = cells = _part(image.shape[-2:], _CELL)
        # Every 8 pixels, where that leaves some over at the right and the bottom too.
        scores = resize_linear(scores[:, : _CELL * rows, : _CELL * columns], cells)
        return self._refined(image, self._walked(scores, embeddings, self.walk_steps))

    @torch.no_grad()
    def classifier_walk(self, image: Tensor, embed: Embed, classifier: PixelClassifier, labels: Tensor) -> Tensor:
        """Probabilities of the classifier that was trained beside the embedding, spread by the walk."""
        embeddings, logits = self._on_cells(image, embed, _WALK_SCALES, classifier)
        scores = self._of_image(logits.softmax(1).mean(0), labels)
        return self._refined(image, self._walked(scores, embeddings, self.walk_steps))

    @torch.no_grad()
    def classifier_only(self, image: Tensor, embed: Embed, classifier: PixelClassifier, labels: Tensor) -> Tensor:
        """Probabilities of the classifier from two scales, after one step of the walk; never a CRF."""
        embeddings, logits = self._on_cells(image, embed, _CLASSIFIER_SCALES, classifier)
        scores = self._walked(self._of_image(logits.mean(0).softmax(0), labels), embeddings, 1)
        return resize_linear(scores, image.shape[-2:]).argmax(0)

    @torch.no_grad()
    def nearest_segments(self, image: Tensor, embed: Embed, memory: Memory, labels: Tensor) -> Tensor:
        """Votes of the memory's nearest prototypes for the segments of eight views. `official` lets classes win that
        are not the image's (fault aa)."""
        scores, _ = self._predictor().retrieval_scores(image, embed, memory)
        return self._refined(image, self._of_image(scores, labels, self.min_peak, keep_others=self.official))

    @torch.no_grad()
    def densepose_walk(self, image: Tensor, embed: Embed, labels: Tensor, region: Tensor) -> Tensor:
        """Labels of the most similar labelled segments of the image, spread by the walk.

        region (H, W) integers 0..255, the over-segmentation. The result is 255 where `labels` is, and everywhere where
        no segment has a label: nothing is known of such an image.
        """
        padded = self._padded(image)
        full = resize_linear(embed(padded).float(), padded.shape[-2:])[0]
        rows, columns = _part(image.shape[-2:], 2)
        half = resize_linear(full, _part(padded.shape[-2:], 2))[:, :rows, :columns]
        shares = resize_linear(self._propagated(half, labels, region), _part(image.shape[-2:], _CELL))
        if not shares.any():
            return torch.full_like(labels, NO_CLASS, dtype=torch.long)
        scores = self._walked(self._of_image(shares, labels), [half], self.walk_steps)
        return self._refined(image, scores).masked_fill(labels == NO_CLASS, NO_CLASS)

    def _on_cells(
        self, image: Tensor, embed: Embed, scales: Sequence[float], classifier: PixelClassifier | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Embeddings (C, h, w) and logits (V, K, h, w), of no view without a classifier, at the size of the cells,
        without padding, the mirrored ones turned back."""
        cells = _part(image.shape[-2:], _CELL)
        embeddings, logits = [], []
        for view, is_mirrored in views(image, scales, True):
            padded = self._padded(view)
            embedding = embed(padded).float()
            size = (padded.shape[-2], padded.shape[-1])
            embeddings.append(_straight(resize_linear(embedding, size), view, is_mirrored, cells))
            if classifier is not None:
                full = classifier.full_logits(embedding, size, at_stride_4=self.at_stride_4)
                logits.append(_straight(full.float(), view, is_mirrored, cells))
        return embeddings, torch.stack(logits) if logits else image.new_zeros(0)

    def _of_image(self, scores: Tensor, labels: Tensor, min_peak: float = 0.0, *, keep_others: bool = False) -> Tensor:
        """scores (K, h, w): those of the image's classes divided by the largest of the class, at least by `min_peak`;
        the others 0, or as they were."""
        counts = torch.bincount(labels.flatten().long(), minlength=NO_CLASS + 1)
        occurs = (counts[: self.num_classes] > 0)[:, None, None]
        if not (self.official or occurs.any()):
            return scores
        peak = scores.amax((1, 2), keepdim=True).clamp(min=min_peak)
        if not self.official:
            # An image's class without any score (fault r).
            peak = peak.masked_fill(peak == 0, 1.0)
        return torch.where(occurs, scores / peak, scores if keep_others else 0.0)

    def _walked(self, scores: Tensor, embeddings: Sequence[Tensor], steps: int) -> Tensor:
        """scores (K, h, w) on cells after the walk along the affinity in `embeddings`, a map a view."""
        transition = transition_matrix(embeddings, (scores.shape[-2], scores.shape[-1]), power=self.power)
        return random_walk(scores, transition, steps=steps)

    def _refined(self, image: Tensor, scores: Tensor) -> Tensor:
        """(H, W) int64: the first class with the largest score (K, h, w) at the size of the image, after the CRF."""
        size = image.shape[-2:]
        return self._predictor().label_map(resize_linear(scores, size), image, size)

    def _propagated(self, embedding: Tensor, labels: Tensor, region: Tensor) -> Tensor:
        """(K, h, w): the share of a segment's pixels that are most similar to a labelled segment of each class, on the
        segment; 0 without any labelled segment. embedding (C, h, w)."""
        size = embedding.shape[-2:]
        semantic = resize_nearest(labels, size)
        segments = find_segments(
            embedding[None],
            local=position_features(*size, device=embedding.device),
            grid=self.kmeans_grid,
            iterations=self.kmeans_iterations,
            # Pixels to ignore are clustered like unlabelled ones.
            semantic=semantic.masked_fill(semantic == NO_CLASS, self.num_classes)[None],
            region=resize_nearest(region, size)[None],
        )
        found = propagate_labels(
            segments.embedding,
            segments.image,
            prototypes=segment_vectors(segments),
            prototype_label=segments.segment_semantic,
            prototype_image=segments.segment_image,
            num_classes=self.num_classes,
            threshold=-torch.inf,
        )
        # Without any labelled segment each pixel is in column 0, which is left out.
        columns, count = self.num_classes + 1, len(segments.segment_semantic)
        votes = torch.bincount(segments.segment * columns + found + 1, minlength=count * columns).view(count, columns)
        shares = votes[:, 1:] / votes.sum(1, keepdim=True)
        return paint(shares, segments.segment, torch.ones_like(semantic, dtype=torch.bool))

    def _predictor(self) -> Predictor:
        """What predicts a test image from its nearest segments at the scales of pseudo labels, and has the CRF."""
        return Predictor(
            num_classes=self.num_classes,
            tiling=Tiling(self.crop_size, self.stride, self.divisor),
            scales=_RETRIEVAL_SCALES,
            flip=True,
            kmeans_grid=self.kmeans_grid,
            kmeans_iterations=self.kmeans_iterations,
            neighbours=self.neighbours,
            crf=self.crf,
            mean=self.mean,
            std=self.std,
            official=self.official,
        )

    def _padded(self, image: Tensor) -> Tensor:
        """(1, 3, h, w) as the network takes it."""
        return pad_to(image, (self.crop_size, self.crop_size), self.divisor)[None]


def _straight(maps: Tensor, view: Tensor, is_mirrored: bool, cells: tuple[int, int]) -> Tensor:
    """maps (1, C, h, w) of a padded view without the padding, turned back, (C, *cells)."""
    maps = maps[0, :, : view.shape[-2], : view.shape[-1]]
    return resize_linear(maps.flip(-1) if is_mirrored else maps, cells)


def _part(size: Sequence[int], divisor: int) -> tuple[int, int]:
    """Both sides divided and rounded down, at least 1."""
    return max(size[0] // divisor, 1), max(size[1] // divisor, 1)
