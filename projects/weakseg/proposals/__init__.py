"""Outside evidence per image: readers and makers, found through `PROPOSAL_LOADER_REGISTRY`."""

from weakseg.proposals.registry import PROPOSAL_LOADER_REGISTRY, ProposalLoader, build_evidence

__all__ = ["PROPOSAL_LOADER_REGISTRY", "ProposalLoader", "build_evidence"]
