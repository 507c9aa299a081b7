"""Random changes of an image together with its labels and evidence, by name: `AUGMENTATION_REGISTRY`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from detectron2.utils.registry import Registry

from weakseg.labels import WeakLabels
from weakseg.labels.geometry import hflip, resize

Evidence = dict[str, np.ndarray]
Augmented = tuple[np.ndarray, WeakLabels, Evidence]
Augmentation = Callable[[np.ndarray, WeakLabels, Evidence, np.random.Generator], Augmented]

AUGMENTATION_REGISTRY = Registry("AUGMENTATION")
AUGMENTATION_REGISTRY.__doc__ = """
Augmentations by name, chosen by `INPUT.AUGMENTATION`. An entry is called as `entry(cfg, is_train)` and returns a
picklable function (image (H, W, C) uint8, labels, evidence: name -> map (H, W) or (H, W, C) of the image's size,
generator) -> the first three, changed alike.
"""


class ResizeFlip:
    """Resize keeping the aspect ratio, then mirror at random."""

    def __init__(
        self,
        *,
        short_sides: Sequence[int],
        long_side: int,
        is_range: bool = False,
        flip_probability: float = 0.0,
        resize_labels: Callable[[WeakLabels, tuple[int, int]], WeakLabels] = resize,
    ):
        """short_sides: limits of the short side in pixels, of which one is drawn (with `is_range`: any number from the
        first to the last); 0 keeps the image's size. long_side: limit of the long side. See `keep_ratio_size`."""
        self.short_sides = tuple(short_sides)
        self.long_side = long_side
        self.is_range = is_range
        self.flip_probability = flip_probability
        self.resize_labels = resize_labels

    def __call__(
        self, image: np.ndarray, labels: WeakLabels, evidence: Evidence, generator: np.random.Generator
    ) -> Augmented:
        short_side = self._draw_short_side(generator)
        if short_side:
            height, width = image.shape[:2]
            size = keep_ratio_size(height, width, short_side, self.long_side)
            image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
            labels = self.resize_labels(labels, size)
            evidence = {name: resize_map(values, size) for name, values in evidence.items()}
        if generator.random() < self.flip_probability:
            image, labels = image[:, ::-1], hflip(labels)
            evidence = {name: values[:, ::-1] for name, values in evidence.items()}
        return image, labels, evidence

    def _draw_short_side(self, generator: np.random.Generator) -> int:
        if self.is_range:
            return int(generator.integers(self.short_sides[0], self.short_sides[-1] + 1))
        return int(generator.choice(self.short_sides))


def keep_ratio_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """The largest (h, w) of the same aspect ratio whose short and long side are within the limits, in pixels."""
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (H, W) or (H, W, C) at `size` (h, w): floats bilinear, integers and booleans nearest (pixel centres)."""
    if values.dtype.kind == "f":
        return cv2.resize(values.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR).reshape(
            *size, *values.shape[2:]
        )
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, values.shape))
    return values[rows[:, None], columns]


@AUGMENTATION_REGISTRY.register()
def resize_flip(cfg, is_train: bool) -> ResizeFlip:
    """`INPUT.{MIN,MAX}_SIZE_{TRAIN,TEST}`, `MIN_SIZE_TRAIN_SAMPLING` and, in training, `RANDOM_FLIP`."""
    return ResizeFlip(**resize_flip_arguments(cfg, is_train))


def resize_flip_arguments(cfg, is_train: bool) -> dict:
    """Arguments of `ResizeFlip` from Detectron2's keys, for entries that add their own."""
    if not is_train:
        return {"short_sides": (cfg.INPUT.MIN_SIZE_TEST,), "long_side": cfg.INPUT.MAX_SIZE_TEST}
    flips = {"none": 0.0, "horizontal": 0.5}
    if cfg.INPUT.RANDOM_FLIP not in flips:
        raise ValueError(f"INPUT.RANDOM_FLIP: expected one of {', '.join(flips)}; found {cfg.INPUT.RANDOM_FLIP!r}.")
    return {
        "short_sides": cfg.INPUT.MIN_SIZE_TRAIN,
        "long_side": cfg.INPUT.MAX_SIZE_TRAIN,
        "is_range": cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range",
        "flip_probability": flips[cfg.INPUT.RANDOM_FLIP],
    }


def build_augmentation(cfg, is_train: bool) -> Augmentation:
    """The augmentation named by `INPUT.AUGMENTATION`."""
    name = cfg.INPUT.AUGMENTATION
    if name not in AUGMENTATION_REGISTRY:
        known = ", ".join(sorted(entry for entry, _ in AUGMENTATION_REGISTRY))
        raise ValueError(f"INPUT.AUGMENTATION: expected one of {known}; found {name!r}. Choose one of them.")
    return AUGMENTATION_REGISTRY.get(name)(cfg, is_train)
