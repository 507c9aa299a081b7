"""Edge maps: what finds them in an image, the folder that keeps them, and the evidence "edges" read from there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from weakseg.proposals.edge_networks import network_edges, read_edge_network
from weakseg.proposals.map_folder import EvidenceFolder
from weakseg.proposals.registry import PROPOSAL_LOADER_REGISTRY
from weakseg.proposals.structured_edges import Forest, read_forest, structured_edges
from weakseg.safe_io import read_image, write_png

ENGINES = ("structured", "network", "gradient")
GRADIENT_SIGMA = 1.5
"""Standard deviation, in pixels, of the smoothing before gradients are taken."""
GRADIENT_FULL = 12.0
"""Change of CIE Lab per pixel that is an edge of 1; a border of colours about 50 apart has it, once smoothed."""

EdgeDetector = Callable[[np.ndarray], np.ndarray]
"""Image (H, W, 3) uint8 RGB -> edges (H, W) float32 in [0, 1]."""


def edge_detector(engine: str, weights: str | Path | None = None, *, device: str = "cpu") -> EdgeDetector:
    """The detector of one of `ENGINES`. weights: a forest (model.yml.gz) for "structured", a file that
    `read_edge_network` knows for "network", none for "gradient"; device: of the network. Picklable."""
    if engine not in ENGINES:
        raise ValueError(f"Expected an engine of {', '.join(ENGINES)}; found {engine!r}. Choose one of them.")
    if (weights is None) != (engine == "gradient"):
        what = {"structured": "a forest (model.yml.gz)", "network": "HED or PiDiNet", "gradient": "no weights"}[engine]
        raise ValueError(f"The engine {engine} expects {what}; found {weights or 'none'}. Correct --weights.")
    if engine == "network":
        return partial(network_edges, read_edge_network(str(weights)).to(device))
    return partial(_forest_edges, read_forest(str(weights))) if engine == "structured" else gradient_edges


def gradient_edges(image: np.ndarray) -> np.ndarray:
    """Length of the gradient of the smoothed image in CIE Lab, over `GRADIENT_FULL`, at most 1.

    image (H, W, 3) uint8 RGB. Returns (H, W) float32 in [0, 1].
    """
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab = cv2.GaussianBlur(lab, (0, 0), GRADIENT_SIGMA, borderType=cv2.BORDER_REPLICATE)
    steps = [
        cv2.Sobel(lab, cv2.CV_32F, dx, 1 - dx, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE) for dx in (1, 0)
    ]
    length = np.sqrt(np.square(steps).sum(axis=(0, 3)))
    return np.minimum(length / GRADIENT_FULL, 1, dtype=np.float32)


def write_edge_map(path: str | Path, edges: np.ndarray) -> None:
    """Write edges (H, W) in [0, 1] as an 8-bit grey PNG, atomically."""
    write_png(path, np.round(np.clip(edges, 0, 1) * 255).astype(np.uint8))


class EdgeMaps(EvidenceFolder):
    """Reads the edge map `root`/STEM.png of the image STEM.jpg: (H, W) float32 in [0, 1]."""

    def __init__(self, root: str | Path):
        super().__init__(
            root,
            key="INPUT.EDGE_ROOT",
            what="edge map",
            remedy="Make it with: python tools/make_edges.py IMAGES --output OUTPUT --engine gradient (--help has "
            "better engines).",
        )

    def __call__(self, record: dict) -> np.ndarray:
        return read_image(self.existing_file(record), format="L").astype(np.float32) / 255


@PROPOSAL_LOADER_REGISTRY.register()
def edges(cfg) -> EdgeMaps:
    """`INPUT.EDGE_ROOT`."""
    return EdgeMaps(cfg.INPUT.EDGE_ROOT)


def _forest_edges(forest: Forest, image: np.ndarray) -> np.ndarray:
    return structured_edges(image, forest)
