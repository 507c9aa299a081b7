"""Semantic label maps as evidence: partial labels and pseudo labels, one label PNG an image (evidence "semantic")."""

from __future__ import annotations

from pathlib import Path

from weakseg.proposals.map_folder import EightBitMaps
from weakseg.proposals.registry import PROPOSAL_LOADER_REGISTRY


class LabelMaps(EightBitMaps):
    """Reads the label PNG `root`/STEM.png of the image STEM.jpg. What the values mean: `labels.ClassOrder`."""

    def __init__(self, root: str | Path):
        super().__init__(
            root,
            key="INPUT.SEMANTIC_ROOT",
            what="label map",
            remedy="Make it with: python tools/make_pseudo_labels.py --config-file YAML --output FOLDER (it writes "
            "FOLDER/semantic), or put label PNGs there.",
        )


@PROPOSAL_LOADER_REGISTRY.register()
def semantic(cfg) -> LabelMaps:
    """`INPUT.SEMANTIC_ROOT`."""
    return LabelMaps(cfg.INPUT.SEMANTIC_ROOT)
