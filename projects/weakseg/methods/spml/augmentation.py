"""Random changes of a training image with its label and region map (card 4.3), in the published order of draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np

from weakseg.labels import IGNORED
from weakseg.methods.spml.resizing import pad_to, resize_image, resize_labels, scaled_size

MEAN = (0.485, 0.456, 0.406)
"""Mean colour, RGB in 0..1: what is subtracted from the images, and what they are padded with."""

_GREY = np.array([0.3, 0.59, 0.11], np.float32)


class Uniform(Protocol):
    """`numpy.random.Generator`, or the legacy `RandomState` that the published draws come from."""

    def uniform(self, low: float, high: float) -> float: ...


def augment(
    image: np.ndarray,
    semantic: np.ndarray,
    region: np.ndarray,
    generator: Uniform,
    *,
    crop_size: int,
    scale_range: tuple[float, float] = (0.5, 1.5),
    flip_pairs: Sequence[tuple[int, int]] = (),
    grey_probability: float = 0.0,
    blur_probability: float = 0.0,
    mean: Sequence[float] = MEAN,
    official: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Flip, scale, pad, crop, and for the classifier stage grey and blur.

    image (H, W, 3) float32 RGB in 0..1; semantic and region (H, W) uint8. scale_range: the ratio of sizes is uniform in
    it. flip_pairs: values of `semantic` that a mirrored image swaps. A probability of 0 draws no number for its step.
    mean: colour of the padding, which both maps ignore. official: the crop never starts at the last position (fault k).
    Draws, in order: flip, ratio, y, x, grey, blur, sigma (when blurred). Returns the three at crop_size x crop_size,
    the image not normalised; and the tags (n,): the values in the whole of `semantic` (card 3.1), after `flip_pairs`
    (official: before).
    """
    maps, tags = np.stack([semantic, region], axis=-1), np.unique(semantic)
    if generator.uniform(0.0, 1.0) >= 0.5:
        image, maps = image[:, ::-1], _mirrored(maps, flip_pairs)
        tags = tags if official else np.unique(maps[..., 0])
    size = scaled_size(image.shape[:2], generator.uniform(*scale_range))
    image, maps = resize_image(np.ascontiguousarray(image), size), resize_labels(np.ascontiguousarray(maps), size)
    crop = (crop_size, crop_size)
    image, maps = pad_to(image, crop, mean), pad_to(maps, crop, IGNORED)
    y, x = (_crop_start(side, crop_size, generator, official) for side in image.shape[:2])
    window = np.s_[y : y + crop_size, x : x + crop_size]
    image, maps = image[window], maps[window]
    if grey_probability and generator.uniform(0.0, 1.0) < grey_probability:
        image = np.repeat(image @ _GREY[:, None], 3, axis=2)
    if blur_probability and generator.uniform(0.0, 1.0) < blur_probability:
        image = _blurred(image, generator.uniform(0.1, 5.0))
    return np.ascontiguousarray(image), maps[..., 0].copy(), maps[..., 1].copy(), tags


def _mirrored(maps: np.ndarray, flip_pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """maps (H, W, 2) uint8, semantic and region: left to right, with `flip_pairs` swapped in the first."""
    swapped = np.arange(256, dtype=np.uint8)
    for right, left in flip_pairs:
        swapped[[right, left]] = left, right
    return np.stack([swapped[maps[:, ::-1, 0]], maps[:, ::-1, 1]], axis=-1)


def _crop_start(side: int, crop_size: int, generator: Uniform, official: bool) -> int:
    # A number is drawn also where there is nothing to choose, so that what follows does not depend on the size.
    last = side - crop_size
    return min(int(generator.uniform(0.0, last if official else last + 1)), last)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """5 x 5 kernel exp(-(dx^2 + dy^2) / sigma^2), as published without the factor 1/2; borders mirrored."""
    line = np.exp(-(np.arange(-2.0, 3.0) ** 2) / sigma**2)
    line /= line.sum()
    return cv2.sepFilter2D(image, -1, line, line, borderType=cv2.BORDER_REFLECT_101)
