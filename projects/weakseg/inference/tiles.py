"""A large image in overlapping tiles: where they end, and the map put together from theirs (SPML card 5.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def tile_ends(side: int, tile: int, stride: int) -> list[int]:
    """Where the tiles of `tile` pixels end along a side of `side` >= `tile` pixels: evenly spaced, at most `stride`
    apart (one more where rounding adds up), the last one at the end of the side."""
    count = math.ceil((side - tile) / stride) + 1
    return np.linspace(tile, side, count).astype(int).tolist()


def by_tiles(
    image: Tensor, function: Callable[[Tensor], Tensor], *, tile: int, stride: int, mean: bool = True
) -> tuple[Tensor, Tensor]:
    """Apply `function` to every tile of an image and put its maps together.

    image (B, C, H, W), padded with zeros at the right and the bottom to at least tile x tile. function: (B, C, tile,
    tile) -> (B, D, tile, tile), of the same pixels. Returns the mean over the tiles that cover a pixel, with
    `mean=False` their sum, (B, D, max(H, tile), max(W, tile)) float32, padding included, and the number of tiles at
    each pixel (max(H, tile), max(W, tile)) float32.
    """
    height, width = image.shape[-2:]
    image = F.pad(image, (0, max(tile - width, 0), 0, max(tile - height, 0)))
    size = image.shape[-2:]
    cover = image.new_zeros(size, dtype=torch.float32)
    ends = product(*(tile_ends(side, tile, stride) for side in size))
    for number, (bottom, right) in enumerate(ends):
        window = (..., slice(bottom - tile, bottom), slice(right - tile, right))
        part = function(image[window])
        if number == 0:
            total = part.new_zeros((*part.shape[:2], *size), dtype=torch.float32)
        total[window] += part
        cover[window] += 1
    return (total.div_(cover) if mean else total), cover
