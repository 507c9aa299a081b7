"""Views of an image in prediction: other sizes, mirrored, padded, and as bytes (card 3.11, 5). Sizes are (h, w)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from weakseg.methods.spml.resizing import scaled_size


def resize_linear(maps: Tensor, size: Sequence[int]) -> Tensor:
    """maps (..., C, H, W) floating point -> (..., C, h, w): linear, half-pixel centres, no antialiasing."""
    batch = maps.reshape(-1, *maps.shape[-3:])
    resized = F.interpolate(batch, tuple(size), mode="bilinear", align_corners=False)
    return resized.view(*maps.shape[:-2], *resized.shape[-2:])


def resize_nearest(labels: Tensor, size: Sequence[int]) -> Tensor:
    """labels (H, W) -> (h, w): pixel i takes pixel floor(i * old / new)."""
    rows, columns = (
        torch.arange(new, device=labels.device) * old // new for old, new in zip(labels.shape, size, strict=True)
    )
    return labels[rows[:, None], columns]


def pad_to(image: Tensor, size: Sequence[int], divisor: int = 1) -> Tensor:
    """image (..., H, W) with zeros at the right and the bottom, up to at least `size` and to multiples of `divisor`."""
    height, width = (
        -(-max(old, least) // divisor) * divisor for old, least in zip(image.shape[-2:], size, strict=True)
    )
    return F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))


def to_bytes(image: Tensor, mean: Sequence[float], std: Sequence[float], *, official: bool = False) -> Tensor:
    """(H, W, 3) uint8, the image that (3, H, W) float32 was normalised from; mean and std (3) of values 0..1.

    Rounded. `official` repeats the published arithmetic to the bit, which truncates: up to a quarter of the values are
    one too small (fault q).
    """
    dtype = torch.float64 if official else torch.float32
    shift, scale = (
        torch.tensor(list(values), dtype=dtype, device=image.device)[:, None, None] for values in (mean, std)
    )
    if official:
        values = ((image * scale).float() + shift).float() * 255
    else:
        values = torch.round((image * scale + shift) * 255)
    return values.clamp(0, 255).byte().permute(1, 2, 0).contiguous()


def views(image: Tensor, scales: Sequence[float], flip: bool) -> Iterator[tuple[Tensor, bool]]:
    """The views of a multi-scale prediction: for each scale, with `flip`, the mirrored view first, then the plain one.

    image (3, H, W). Yields (3, h, w), and whether it is mirrored.
    """
    for scale in scales:
        view = resize_linear(image, scaled_size(image.shape[-2:], scale))
        if flip:
            yield view.flip(-1), True
        yield view, False
