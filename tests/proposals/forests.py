"""Small random forests in the published form, images for them, and the smoothing of the card as loops."""

import cv2
import numpy as np

from weakseg.proposals.structured_edges import Forest, ForestOptions

OPTIONS = ForestOptions(
    stride=2,
    shrink_number=2,
    patch_size=32,
    patch_inner_size=16,
    number_of_gradient_orientations=4,
    gradient_smoothing_radius=0,
    reg_feature_smoothing_radius=2,
    ss_feature_smoothing_radius=8,
    gradient_normalization_radius=4,
    selfsimilarity_grid_size=5,
    number_of_trees=8,
    number_of_trees_to_evaluate=4,
)
"""Those of the published forest (card 3.5)."""


def random_forest(options: ForestOptions, *, depth: int, seed: int = 0, vote_channels: int = 1) -> Forest:
    """Full trees whose leaves vote for a quarter of the inner patch on average."""
    generator = np.random.default_rng(seed)
    node = np.arange(2 ** (depth + 1) - 1)
    is_inner = np.tile(node < 2**depth - 1, (options.number_of_trees, 1))
    ids = generator.integers(0, options.patch_features + options.cell_pairs * options.channels, is_inner.shape)
    values = np.where(
        ids < options.patch_features,
        generator.uniform(0, 0.4, is_inner.shape),
        generator.normal(0, 0.05, is_inner.shape),
    )
    pixels = options.patch_inner_size**2
    counts = np.where(is_inner.ravel(), 0, generator.integers(0, pixels // 2, is_inner.size))
    return Forest(
        options,
        children=np.where(is_inner, 2 * node + 2, 0).astype(np.int32),
        feature_ids=np.where(is_inner, ids, 0).astype(np.int32),
        thresholds=np.where(is_inner, values, 0).astype(np.float32),
        edge_boundaries=np.concatenate([[0], counts.cumsum()]),
        edge_bins=generator.integers(0, pixels * vote_channels, counts.sum()).astype(np.int32),
    )


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blurred noise, (height, width, 3) float32 in [0, 1]."""
    coarse = np.random.default_rng(seed).random((max(2, height // 4), max(2, width // 4), 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def slow_smooth(image: np.ndarray, radius: int) -> np.ndarray:
    """Triangle filter of a map (h, w), the border pixel not repeated."""
    weights = {shift: (radius + 1 - abs(shift)) / (radius + 1) ** 2 for shift in range(-radius, radius + 1)}

    def at(index: int, size: int) -> int:
        return abs(index) if index < size else 2 * size - 2 - index

    height, width = image.shape
    out = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        for dy, down in weights.items():
            for dx, across in weights.items():
                out[y, x] += down * across * image[at(y + dy, height), at(x + dx, width)]
    return out
