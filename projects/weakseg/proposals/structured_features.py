"""What the trees of structured edge detection look at: colour, gradients and their orientations at half size."""

from __future__ import annotations

import cv2
import numpy as np

from weakseg.proposals.structured_forest import ForestOptions

_RGB_TO_XYZ = ((0.430574, 0.341550, 0.178325), (0.222015, 0.706655, 0.071330), (0.020183, 0.129553, 0.939180))
_SCALES = (1.0, 0.5)


def edge_features(image: np.ndarray, options: ForestOptions) -> np.ndarray:
    """Feature channels of an image (Point2Mask card, section 3.5, steps 2 and 3).

    image (H, W, 3) float32 RGB in [0, 1], already padded. Returns (round(H / shrink), round(W / shrink), channels)
    float32: L, u, v, then magnitude and orientation histogram of the gradient at full and at half size.
    """
    luv = _luv(image)
    height, width = image.shape[:2]
    size = round(height / options.shrink_number), round(width / options.shrink_number)
    channels = [_resized(luv, size)]
    for scale in _SCALES:
        scaled = _resized(luv, (round(height * scale), round(width * scale)))
        scaled = smooth(scaled, options.gradient_smoothing_radius)
        cell = max(1, int(options.shrink_number * scale))
        magnitude, angle = _gradient(scaled)
        magnitude /= smooth(magnitude, options.gradient_normalization_radius) + np.float32(0.01)
        histogram = _histogram(magnitude, angle, options.number_of_gradient_orientations, cell)
        channels += [_resized(magnitude, size)[..., None], _resized(histogram, size)]
    return np.concatenate(channels, axis=2)


def smooth(image: np.ndarray, radius: int) -> np.ndarray:
    """Convolution with the triangle 1 .. radius + 1 .. 1 of sum 1 along both axes, mirrored at the border without
    repeating the outermost pixel. image (H, W) or (H, W, C) float32."""
    if radius == 0:
        return image
    rise = np.arange(1, radius + 2, dtype=np.float32)
    kernel = np.concatenate([rise, rise[-2::-1]]) / np.float32((radius + 1) ** 2)
    return cv2.sepFilter2D(image, -1, kernel, kernel).reshape(image.shape)


def grown_to_cells(image: np.ndarray, options: ForestOptions) -> np.ndarray:
    """`image` (H, W, 3) mirrored at the lower and right border until, padded, the cells of the histogram cover it.

    The number of cells is rounded, so that a side of 4k + 1 (for cells of 2) has a last row of pixels in no cell, which
    OpenCV counts outside of its array.
    """
    border = options.patch_size - options.patch_inner_size
    extra = [_missing(side + border, options.shrink_number) for side in image.shape[:2]]
    return cv2.copyMakeBorder(image, 0, extra[0], 0, extra[1], cv2.BORDER_REFLECT)


def _missing(side: int, shrink: int) -> int:
    def covered(side: int) -> bool:
        for scale in _SCALES:
            cell, scaled = max(1, int(shrink * scale)), round(side * scale)
            if round(scaled / cell) * cell < scaled:
                return False
        return True

    extra = 0
    while not covered(side + extra):
        extra += 1
    return extra


def _luv(image: np.ndarray) -> np.ndarray:
    """CIE Luv divided by 270 and moved to non-negative numbers, (H, W, 3) of RGB (H, W, 3) float32 in [0, 1]."""
    x, y, z = (image[..., 0] * row[0] + image[..., 1] * row[1] + image[..., 2] * row[2] for row in _RGB_TO_XYZ)
    step = np.clip(np.floor(1024 * y).astype(np.int32), 0, len(_LIGHTNESS) - 1)
    lightness = _LIGHTNESS[step]
    norm = 1 / (x + 15 * y + 3 * z + 1e-35)
    u = lightness * (52 * x * norm - 13 * 0.197833) + 88 / 270
    v = lightness * (117 * y * norm - 13 * 0.468331) + 134 / 270
    return np.stack([lightness, u, v], axis=2)


def _lightness_table() -> np.ndarray:
    """L / 270 at Y = i / 1024; 40 more entries for Y a little above 1."""
    slope = 29**3 / 27
    y = np.arange(1024) / 1024
    table = np.where(y > 8 / slope, 116 * np.cbrt(y) - 16, slope * y) / 270
    return np.concatenate([table, np.full(40, table[-1])]).astype(np.float32)


_LIGHTNESS = _lightness_table()


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < image.shape[0] and size[1] < image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and angle, in half turns from 0 to 1, of the central difference in the channel where it is largest."""
    across = cv2.Sobel(image, cv2.CV_32F, 1, 0, ksize=1, borderType=cv2.BORDER_REFLECT)
    down = cv2.Sobel(image, cv2.CV_32F, 0, 1, ksize=1, borderType=cv2.BORDER_REFLECT)
    squared = across**2 + down**2
    largest = squared.argmax(axis=2)[..., None]
    across, down = (np.take_along_axis(array, largest, axis=2)[..., 0] for array in (across, down))
    # OpenCV's arc tangent: the exact one differs by 0.01 degrees, which moves a pixel to another bin now and then.
    angle = cv2.phase(across, down, angleInDegrees=True) / 180 - (down < 0)
    angle[np.abs(across) + np.abs(down) < 1e-5] = 0.5
    return np.sqrt(np.take_along_axis(squared, largest, axis=2)[..., 0]), angle.astype(np.float32)


def _histogram(magnitude: np.ndarray, angle: np.ndarray, orientations: int, cell: int) -> np.ndarray:
    """Sum of the magnitudes by orientation in cells of `cell` x `cell` pixels, divided by the area of a full cell."""
    rows, columns = (round(side / cell) for side in magnitude.shape)
    weights = np.zeros((rows * cell, columns * cell), np.float32)
    bins = np.zeros(weights.shape, np.int32)
    height, width = min(magnitude.shape[0], rows * cell), min(magnitude.shape[1], columns * cell)
    weights[:height, :width] = magnitude[:height, :width] / cell**2
    bins[:height, :width] = np.rint(angle[:height, :width] * orientations) % orientations
    histogram = np.zeros((rows, columns, orientations), np.float32)
    for orientation in range(orientations):
        chosen = np.where(bins == orientation, weights, np.float32(0))
        for y in range(cell):
            for x in range(cell):
                histogram[..., orientation] += chosen[y::cell, x::cell]
    return histogram
