"""Low-level edges for the pixel graph (card section 3.5): computed in the loader's workers, padded to the batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weakseg.labels import LabelKind
from weakseg.proposals.structured_edges import Forest, read_forest, structured_edges


class PrepareEdges:
    """Adds the evidence "edges", (H, W) float32, that a structured forest finds in the augmented image of a sample.

    Picklable; the forest is read once a process, at the first image.
    """

    def __init__(self, forest_path: str | Path, *, channel_order: str, official: bool = False):
        """channel_order: "RGB" or "BGR" of the samples' images (`INPUT.FORMAT`). official: the detector gets the
        channels reversed, blue first (card fault m), and values over 1 stay."""
        self.forest_path = forest_path
        self.is_reversed, self.official = (channel_order == "BGR") != official, official
        self._forest: Forest | None = None

    def __call__(self, sample: dict) -> dict:
        """sample: with "image" (3, H, W) uint8. Returns it with the edges in a new "evidence"."""
        if self._forest is None:
            self._forest = read_forest(self.forest_path)
        image = sample["image"].numpy().transpose(1, 2, 0)
        edges = structured_edges(image[..., ::-1] if self.is_reversed else image, self._forest)
        if not self.official:
            edges = edges.clip(max=1.0)  # as maps from a file are
        return {**sample, "evidence": {**sample["evidence"], "edges": edges}}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_forest": None}


def prepare_edges(cfg) -> PrepareEdges | None:
    """What `MODEL.POINT2MASK.GRAPH` asks to be computed for each sample. Raises ValueError where keys contradict."""
    graph = cfg.MODEL.POINT2MASK.GRAPH
    if not graph.EDGE_MODEL or LabelKind.MASKS.value in cfg.INPUT.SUPERVISION:
        return None
    if not graph.LOW_LEVEL_EDGES or "edges" in cfg.INPUT.EVIDENCE:
        found = "with the evidence edges" if graph.LOW_LEVEL_EDGES else "without LOW_LEVEL_EDGES"
        raise ValueError(
            "MODEL.POINT2MASK.GRAPH.EDGE_MODEL: expected with LOW_LEVEL_EDGES, and as the only source of edges; found "
            f"{found}. Set it to '', or correct the other key."
        )
    return PrepareEdges(graph.EDGE_MODEL, channel_order=cfg.INPUT.FORMAT, official=cfg.MODEL.POINT2MASK.OFFICIAL_COMPAT)


def pad_edges(batch: Sequence[dict], size: tuple[int, int], device: torch.device | str) -> Tensor:
    """The edge maps of B samples in the top left corners of (B, H, W) float32 zeros, `size` = (H, W), on `device`.

    Raises ValueError where a sample has none.
    """
    padded = torch.zeros(len(batch), *size)
    for target, sample in zip(padded, batch):
        edges = sample.get("evidence", {}).get("edges")
        if edges is None:
            raise ValueError(
                f"{sample.get('file_name', 'a sample')}: expected an edge map, for MODEL.POINT2MASK.GRAPH."
                "LOW_LEVEL_EDGES; found none. Set INPUT.EVIDENCE: (edges,) and INPUT.EDGE_ROOT to a folder that "
                "tools/make_edges.py wrote (on test data also TEST.INPUTS: (points, proposals)), or MODEL.POINT2MASK."
                "GRAPH.EDGE_MODEL to a forest (model.yml.gz)."
            )
        height, width = edges.shape
        target[:height, :width] = torch.as_tensor(edges)
    return padded.to(device, non_blocking=True)
