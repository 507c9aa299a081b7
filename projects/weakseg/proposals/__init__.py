"""Outside evidence per image: readers and makers, found through `PROPOSAL_LOADER_REGISTRY`."""

from weakseg.proposals.cams import ActivationMaps
from weakseg.proposals.edge_maps import EdgeMaps, edge_detector
from weakseg.proposals.label_maps import LabelMaps
from weakseg.proposals.oversegmentation import RegionMaps
from weakseg.proposals.registry import PROPOSAL_LOADER_REGISTRY, ProposalLoader, build_evidence

__all__ = [
    "PROPOSAL_LOADER_REGISTRY",
    "ActivationMaps",
    "EdgeMaps",
    "LabelMaps",
    "ProposalLoader",
    "RegionMaps",
    "build_evidence",
    "edge_detector",
]
