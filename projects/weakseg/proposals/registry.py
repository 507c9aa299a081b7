"""Evidence, what a program made for an image, by name: `PROPOSAL_LOADER_REGISTRY`."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from detectron2.utils.registry import Registry

PROPOSAL_LOADER_REGISTRY = Registry("PROPOSAL_LOADER")
PROPOSAL_LOADER_REGISTRY.__doc__ = """
Loaders of evidence by name, chosen by `INPUT.EVIDENCE`. An entry is called as `entry(cfg)` and returns a
`ProposalLoader`.
"""


class ProposalLoader(Protocol):
    """Reads the evidence of one image. Picklable: it runs in the loader's workers."""

    provenance: str
    """What made the evidence, and whether masks were used to make it; the run's log prints it."""

    def __call__(self, record: dict) -> np.ndarray:
        """A map (H, W) or (H, W, C) of the image at its stored size. `record` has passed the supervision gate."""


def build_evidence(cfg) -> dict[str, ProposalLoader]:
    """The loaders named by `INPUT.EVIDENCE`, in that order."""
    unknown = [name for name in cfg.INPUT.EVIDENCE if name not in PROPOSAL_LOADER_REGISTRY]
    if unknown:
        known = ", ".join(sorted(name for name, _ in PROPOSAL_LOADER_REGISTRY))
        raise ValueError(
            f"INPUT.EVIDENCE: expected names of proposal loaders ({known}); found {', '.join(unknown)}. "
            "Remove them, or import the module that registers them."
        )
    return {name: PROPOSAL_LOADER_REGISTRY.get(name)(cfg) for name in cfg.INPUT.EVIDENCE}
