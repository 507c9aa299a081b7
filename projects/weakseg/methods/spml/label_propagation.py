"""Labels for unlabelled segments: that of the most similar labelled prototype of the same image."""

from __future__ import annotations

import torch
from torch import Tensor

_TILE_ROWS = 1024


@torch.no_grad()
def propagate_labels(
    vectors: Tensor,
    image: Tensor,
    *,
    prototypes: Tensor,
    prototype_label: Tensor,
    prototype_image: Tensor,
    num_classes: int,
    threshold: float,
) -> Tensor:
    """Label of the most similar prototype of the same image that has one (card sections 3.9 and 3.11).

    vectors (R, D) and prototypes (P, D) unit vectors with image and prototype_image; prototype_label (P,), labelled
    where it is 0..K-1. Returns (R,): a label where the similarity is at least `threshold`, else -1; the first prototype
    on ties. For feature affinity the vectors are prototypes with location, threshold 0.95, and a labelled one finds
    itself; for DensePose's pseudo labels they are pixels, threshold -1. No gradient.
    """
    labelled = (prototype_label < num_classes).nonzero()[:, 0]
    found = torch.full((len(vectors),), -1, dtype=torch.long, device=vectors.device)
    if not len(labelled):
        return found
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    candidates, labels, images = prototypes[labelled].to(dtype), prototype_label[labelled], prototype_image[labelled]
    with torch.autocast(vectors.device.type, enabled=False):
        for start in range(0, len(vectors), _TILE_ROWS):
            part = slice(start, start + _TILE_ROWS)
            similarity = vectors[part].to(dtype) @ candidates.T
            # Below every threshold, whatever the sign of the least similarity.
            similarity.masked_fill_(image[part, None] != images, -torch.inf)
            nearest = similarity.argmax(1)
            is_found = similarity.gather(1, nearest[:, None])[:, 0] >= threshold
            found[part] = torch.where(is_found, labels[nearest], -1)
    return found


def label_sets(labels: Tensor, num_classes: int) -> Tensor:
    """(P, K) bool: the set of each label (P,), all classes where it is -1."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)) | (labels < 0)[:, None]
