"""The class map of a test image, from the classifier or from the nearest labelled segments (card 5); prototypes for
the latter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weakseg.inference.tiles import by_tiles
from weakseg.labels import NO_CLASS
from weakseg.methods.spml.classifier import PixelClassifier
from weakseg.methods.spml.local_features import position_features
from weakseg.methods.spml.resizing import longer_side_ratio, resize_image, scaled_size
from weakseg.methods.spml.retrieval import majority_labels, nearest_labels, usable_memory, vote, vote_shares
from weakseg.methods.spml.segments import Segments, find_segments, segment_prototypes
from weakseg.methods.spml.views import pad_to, resize_linear, resize_nearest, to_bytes, views
from weakseg.refine.crf import dense_crf
from weakseg.safe_io import read_npz

Embed = Callable[[Tensor], Tensor]
"""Normalised images (B, 3, h, w), h and w multiples of `Tiling.divisor`, to embeddings (B, C, h', w') of stride 4."""
Memory = tuple[Tensor, Tensor]
"""Prototypes (R, C) of unit length and their labels (R,) 0..255."""


@dataclass(frozen=True)
class Tiling:
    """Square tiles that the network sees one by one, all in pixels (card 5.1)."""

    crop_size: int
    stride: int
    divisor: int = 1
    """What the backbone wants the sides of its input to be multiples of."""

    def apply(self, view: Tensor, function: Callable[[Tensor, tuple[int, int]], Tensor], *, mean: bool) -> Tensor:
        """The mean, or the sum, over tiles of `function`'s maps: (D, h', w') of a view (3, h, w), with its padding.

        function: a padded tile (1, 3, c', c') and its size to maps (1, D, c', c').
        """
        side = self.crop_size

        def tile_maps(tile: Tensor) -> Tensor:
            padded = pad_to(tile, (side, side), self.divisor)
            return function(padded, (padded.shape[-2], padded.shape[-1]))[..., :side, :side]

        return by_tiles(view[None], tile_maps, tile=side, stride=self.stride, mean=mean)[0][0]


@torch.no_grad()
def view_segments(
    view: Tensor, embed: Embed, *, tiling: Tiling, grid: tuple[int, int], iterations: int, padded: bool
) -> Segments:
    """The segments of a view (3, h, w), by clustering alone; each of its pixels is in one, in row-major order.

    padded: the initial grid and the positions are those of the view with its padding (single scale, and prototypes),
    else those of the view (card 5.1, step 5).
    """
    height, width = view.shape[-2:]

    def unit_vectors(tile: Tensor, size: tuple[int, int]) -> Tensor:
        return F.normalize(resize_linear(embed(tile), size).float(), dim=1)

    embedding = tiling.apply(view, unit_vectors, mean=True)
    if not padded:
        embedding = embedding[:, :height, :width]
    size = embedding.shape[-2:]
    semantic = torch.full(size, NO_CLASS, device=view.device)
    semantic[:height, :width] = 0
    return find_segments(
        embedding[None],
        local=position_features(*size, device=view.device),
        grid=grid,
        iterations=iterations,
        semantic=semantic[None],
    )


def segment_vectors(segments: Segments) -> Tensor:
    """(P, C): the prototype of each segment."""
    return segment_prototypes(segments.embedding, segments.segment, len(segments.segment_semantic))


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """All ways of predicting one image; labels are in the order of SPML, 0 the background.

    Without `scales` the longer side is resized to `image_size`, and a CRF works at that size; with them the views have
    these factors of the image's size, with `flip` each also mirrored, and are averaged at the size of the image.
    """

    num_classes: int
    """K, with the background."""
    tiling: Tiling
    image_size: int = 512
    scales: Sequence[float] = ()
    flip: bool = False
    kmeans_grid: tuple[int, int] = (12, 12)
    kmeans_iterations: int = 10
    neighbours: int = 20
    crf: dict | None = None
    """Keyword arguments of `refine.crf.dense_crf`; None: no CRF."""
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    """Of the normalisation, with `std`, for values 0..1 in RGB: the CRF sees the image in bytes."""
    std: Sequence[float] = (0.229, 0.224, 0.225)
    at_stride_4: bool = False
    """Classify at the classifier's stride in training and resize the logits (fault l)."""
    official: bool = False
    """The published bytes (fault q), and votes of unlabelled segments (fault s)."""

    def softmax(self, image: Tensor, embed: Embed, classifier: PixelClassifier) -> Tensor:
        """(H, W) int64 classes of a normalised image (3, H, W), from the classifier's logits (card 5.4)."""
        return self.label_map(*self.softmax_scores(image, embed, classifier), image.shape[-2:])

    def retrieval(self, image: Tensor, embed: Embed, memory: Memory) -> Tensor:
        """(H, W) int64 classes of a normalised image (3, H, W): each segment's nearest prototypes vote (card 5.3).

        memory on the image's device; with `official` its labels from K on, the unlabelled ones, vote too and at one
        scale without CRF may win.
        """
        if self.scales or self.crf is not None:
            return self.label_map(*self.retrieval_scores(image, embed, memory), image.shape[-2:])
        view = self._resized(image)
        segments, labels = self._neighbour_labels(view, embed, self.usable(memory))
        return resize_nearest(vote(labels)[segments.segment].view(view.shape[-2:]), image.shape[-2:])

    @torch.no_grad()
    def softmax_scores(self, image: Tensor, embed: Embed, classifier: PixelClassifier) -> tuple[Tensor, Tensor]:
        """Probabilities (K, h, w) of the classifier before the CRF, and the image (3, h, w) at their size."""

        def tile_logits(tile: Tensor, size: tuple[int, int]) -> Tensor:
            return classifier.full_logits(embed(tile), size, at_stride_4=self.at_stride_4)

        def logits(view: Tensor) -> Tensor:
            # The published sum at a single scale makes probabilities sharper where tiles overlap.
            maps = self.tiling.apply(view, tile_logits, mean=bool(self.scales))
            return maps[:, : view.shape[-2], : view.shape[-1]]

        return self._scores(image, logits, lambda maps: maps.softmax(0))

    @torch.no_grad()
    def retrieval_scores(self, image: Tensor, embed: Embed, memory: Memory) -> tuple[Tensor, Tensor]:
        """Shares of the votes (K, h, w) for each class before the CRF, and the image (3, h, w) at their size."""

        usable = self.usable(memory)

        def shares(view: Tensor) -> Tensor:
            segments, labels = self._neighbour_labels(view, embed, usable)
            painted = vote_shares(labels, self.num_classes).T.index_select(1, segments.segment)
            return painted.view(-1, *view.shape[-2:])

        return self._scores(image, shares, lambda maps: maps)

    def label_map(self, scores: Tensor, image: Tensor, size: Sequence[int]) -> Tensor:
        """(H, W) int64 at `size` from scores (K, h, w), after the CRF with the normalised image (3, h, w)."""
        if self.crf is not None:
            scores = dense_crf(scores, to_bytes(image, self.mean, self.std, official=self.official), **self.crf)
        return resize_nearest(scores.argmax(0), size)

    def _scores(
        self, image: Tensor, raw: Callable[[Tensor], Tensor], finish: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """`raw` of a view (3, h, w) gives maps (K, h, w); `finish` makes them scores once they have their size."""
        if not self.scales:
            view = self._resized(image)
            return finish(raw(view)), view
        total = image.new_zeros(self.num_classes, *image.shape[-2:])
        for view, is_flipped in views(image, self.scales, self.flip):
            scores = finish(resize_linear(raw(view), image.shape[-2:]))
            total += scores.flip(-1) if is_flipped else scores
        return total / (len(self.scales) * (1 + self.flip)), image

    def _neighbour_labels(self, view: Tensor, embed: Embed, memory: Memory) -> tuple[Segments, Tensor]:
        """The segments of a view, and the labels (P, n) of their nearest prototypes."""
        segments = view_segments(
            view,
            embed,
            tiling=self.tiling,
            grid=self.kmeans_grid,
            iterations=self.kmeans_iterations,
            padded=not self.scales,
        )
        return segments, nearest_labels(segment_vectors(segments), *memory, neighbours=self.neighbours)

    def usable(self, memory: Memory) -> Memory:
        """The prototypes that may vote; the memory itself, not a copy of it, where all of them may."""
        vectors, labels = memory
        _, kept = usable_memory(labels, labels, self.num_classes, official=self.official)
        if len(kept) == len(labels):
            return memory
        return usable_memory(vectors, labels, self.num_classes, official=self.official)

    def _resized(self, image: Tensor) -> Tensor:
        size = single_scale_size(image, self.image_size)
        if not self.official:
            return resize_linear(image, size)
        # A byte that is truncated hangs on the last digit: by the published reader's rounding.
        resized = resize_image(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()), size)
        return torch.from_numpy(resized).permute(2, 0, 1).contiguous().to(image.device)


def single_scale_size(image: Tensor, longer_side: int) -> tuple[int, int]:
    """(h, w) of an image (3, H, W) whose longer side is resized to `longer_side` (card 5.1, step 1)."""
    size = image.shape[-2:]
    return scaled_size(size, longer_side_ratio(size, longer_side))


@torch.no_grad()
def make_prototypes(
    image: Tensor,
    embed: Embed,
    labels: Tensor,
    *,
    tiling: Tiling,
    image_size: int = 512,
    scales: Sequence[float] = (),
    kmeans_grid: tuple[int, int] = (12, 12),
    kmeans_iterations: int = 10,
) -> Memory:
    """The segments of an image as labelled prototypes, (n, C) float32 and (n,) int64 (card 5.2).

    image (3, H, W) normalised; labels (H, W) integers 0..255: a segment has its most frequent one. At one scale, or one
    after another at several, never mirrored.
    """
    if scales:
        all_views = [view for view, _ in views(image, scales, flip=False)]
    else:
        all_views = [resize_linear(image, single_scale_size(image, image_size))]
    vectors, found = [], []
    for view in all_views:
        segments = view_segments(
            view, embed, tiling=tiling, grid=kmeans_grid, iterations=kmeans_iterations, padded=True
        )
        vectors.append(segment_vectors(segments))
        view_labels = resize_nearest(labels, view.shape[-2:]).flatten().long()
        found.append(majority_labels(view_labels, segments.segment, len(vectors[-1])))
    return torch.cat(vectors), torch.cat(found)


def memory_files(folder: str | Path) -> list[Path]:
    """The files NAME.npz of a memory, in the order of their names; "" is no folder."""
    paths = sorted(Path(folder).glob("[!.]*.npz"), key=lambda path: path.name) if str(folder) else []
    if not paths:
        raise FileNotFoundError(
            f"MODEL.SPML.TEST.MEMORY: expected a folder with files NAME.npz of prototypes; found none in "
            f"{str(folder)!r}. Make prototypes of labelled images first, with the PREDICTOR softmax."
        )
    return paths


def read_memory(folder: str | Path) -> Memory:
    """The prototypes of all files of a folder (see `memory_files`): arrays "prototype" (n, C) and "prototype_label"
    (n,) of values 0..255. Returns them as (R, C) float32 and (R,) int64."""
    paths = memory_files(folder)
    vectors, labels = zip(*map(_read_prototypes, paths))
    for path, part in zip(paths, vectors):
        if part.shape[1] != vectors[0].shape[1]:
            raise ValueError(
                f"{path}: expected prototypes of length {vectors[0].shape[1]} as in {paths[0].name}; found "
                f"{part.shape[1]}. Make all of them with one model."
            )
    return torch.cat(vectors), torch.cat(labels)


def _read_prototypes(path: Path) -> Memory:
    arrays = read_npz(path)
    missing = [name for name in ("prototype", "prototype_label") if name not in arrays]
    if missing:
        raise ValueError(
            f"{path}: expected arrays prototype and prototype_label; found no {' and no '.join(missing)}. "
            "Make the file with the pseudo-label method prototypes."
        )
    vectors, labels = arrays["prototype"], arrays["prototype_label"]
    fits = vectors.ndim == 2 and labels.shape == vectors.shape[:1]
    if not (fits and vectors.dtype.kind == "f" and labels.dtype.kind in "iu"):
        raise ValueError(
            f"{path}: expected prototype (n, C) of floats and prototype_label (n,) of integers; found "
            f"{vectors.dtype} {vectors.shape} and {labels.dtype} {labels.shape}. Make the file again."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() <= NO_CLASS:
        raise ValueError(
            f"{path}: expected labels 0 to {NO_CLASS}; found {labels.min()} to {labels.max()}. Make the file again."
        )
    return torch.from_numpy(vectors).float(), torch.from_numpy(labels.astype("int64"))
