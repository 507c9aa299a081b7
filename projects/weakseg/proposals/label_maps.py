"""Semantic label maps as evidence: partial labels and pseudo labels, one label PNG an image (evidence "semantic")."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weakseg.proposals.map_folder import map_file, read_provenance
from weakseg.proposals.registry import PROPOSAL_LOADER_REGISTRY
from weakseg.safe_io import read_label_png


class LabelMaps:
    """Reads the label PNG `root`/STEM.png of the image STEM.jpg: (H, W) uint8, grey values or palette indices as
    stored, never colours. What the values mean: `labels.ClassOrder`."""

    def __init__(self, root: str | Path):
        if not root or not Path(root).is_dir():
            raise FileNotFoundError(
                f"INPUT.SEMANTIC_ROOT: expected a folder of label PNGs; found {str(root)!r}, which is none. Make it "
                "with: python tools/make_pseudo_labels.py --config-file YAML --output FOLDER (it writes "
                "FOLDER/semantic), or put label maps there."
            )
        self.root = Path(root)
        made_by = read_provenance(self.root) or "something that nothing there names"
        self.provenance = f"label maps in {root}, made by {made_by}"

    def __call__(self, record: dict) -> np.ndarray:
        path = map_file(self.root, record["file_name"])
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: expected the label map of {record['file_name']}; found none. Make the missing ones with "
                "tools/make_pseudo_labels.py, or correct INPUT.SEMANTIC_ROOT."
            )
        values = read_label_png(path)
        size = (record["height"], record["width"])
        if values.dtype != np.uint8 or values.shape != size:
            raise ValueError(
                f"{path}: expected an 8-bit map, grey or with a palette, of {size[1]} x {size[0]} pixels; found "
                f"{values.dtype} of shape {values.shape}. Write one value a pixel at the size of {record['file_name']}."
            )
        return values


@PROPOSAL_LOADER_REGISTRY.register()
def semantic(cfg) -> LabelMaps:
    """`INPUT.SEMANTIC_ROOT`."""
    return LabelMaps(cfg.INPUT.SEMANTIC_ROOT)
