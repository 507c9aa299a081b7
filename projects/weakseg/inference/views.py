"""The views of an image that a network sees at inference."""

from __future__ import annotations

from dataclasses import dataclass

from detectron2.structures import ImageList


@dataclass(frozen=True)
class View:
    """One pass of a batch through the network. Sizes are (h, w) in pixels of the network input."""

    image_sizes: tuple[tuple[int, int], ...]
    """Size of each image without padding."""
    padded_size: tuple[int, int]
    """Size of the batch tensor; images lie at its top left."""


def plain_view(images: ImageList) -> View:
    """The images as they are: one scale, not flipped."""
    height, width = images.tensor.shape[-2:]
    return View(tuple((int(h), int(w)) for h, w in images.image_sizes), (int(height), int(width)))
