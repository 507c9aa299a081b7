"""From an embedding to every loss of SPML's first stage: segments, prototypes, four relations, the pixel classifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from weakseg.methods.spml.classifier import pixel_cross_entropy
from weakseg.methods.spml.contrast import affinity_loss, annotation_loss, cooccurrence_loss, image_similarity_loss
from weakseg.methods.spml.label_propagation import propagate_labels
from weakseg.methods.spml.memory_bank import MemoryBank
from weakseg.methods.spml.resizing import labels_at_embedding
from weakseg.methods.spml.retrieval import neighbour_accuracy
from weakseg.methods.spml.segments import (
    Prototypes,
    Segments,
    find_segments,
    gather_prototypes,
    join_prototypes,
    local_prototypes,
    segment_prototypes,
)

Sums = dict[str, tuple[float, tuple[Tensor, Tensor | int]]]
"""Name of a loss -> its weight, and the sum with the number that it is divided by."""


@dataclass(frozen=True)
class Relation:
    """Weight of a relation's loss, 0 for none, and its concentration kappa (card 3.5)."""

    weight: float
    concentration: float


@dataclass(frozen=True)
class Relations:
    """The four relations of a run. affinity_threshold: similarity from which on a label is propagated; with
    `image_of_embedding` the image relation compares embeddings instead of located vectors, as for DensePose."""

    annotation: Relation
    cooccurrence: Relation
    image: Relation
    affinity: Relation
    affinity_threshold: float = 0.95
    image_of_embedding: bool = False

    @property
    def are_off(self) -> bool:
        return not any(one.weight for one in (self.annotation, self.cooccurrence, self.image, self.affinity))


@dataclass(frozen=True)
class Contrast:
    """Who is contrasted with whom in a step: this process's segments and image tags (N, T), the prototypes of all
    processes, of which this one's begin at `first`, and those of earlier steps."""

    segments: Segments
    tags: Tensor
    prototypes: Prototypes
    first: int
    memory: Prototypes | None

    @torch.no_grad()
    def accuracy(self) -> Tensor:
        """How many of the prototypes nearest to a prototype have its class; unlabelled is one (card 3.7)."""
        vectors, semantic = self.prototypes.vector, self.prototypes.semantic
        if self.memory is not None:
            vectors = torch.cat([vectors, self.memory.vector])
            semantic = torch.cat([semantic, self.memory.semantic])
        return neighbour_accuracy(vectors, semantic)


class Criterion(nn.Module):
    """Weighs and normalises the losses; keeps the memory bank, which is all its state."""

    def __init__(
        self,
        *,
        num_classes: int,
        relations: Relations,
        pixel_loss_weight: float,
        kmeans_grid: tuple[int, int],
        kmeans_iterations: int,
        memory: MemoryBank,
        squeeze: float = 1.0,
        official: bool = False,
    ):
        """official: means over the pixels of each process (then over processes), the weight of the annotation relation
        for the pixel classifier too (fault a), and images without tags repel their own segments (fault g)."""
        super().__init__()
        self.num_classes = num_classes
        self.relations = relations
        self.pixel_loss_weight = relations.annotation.weight if official else pixel_loss_weight
        self.kmeans_grid, self.kmeans_iterations, self.squeeze = kmeans_grid, kmeans_iterations, squeeze
        self.memory = memory
        self.official = official
        self._unremembered: list[Prototypes] = []

    def contrast(self, embedding: Tensor, local: Tensor, labels: Tensor, regions: Tensor, tags: Tensor) -> Contrast:
        """Segments and prototypes of a batch.

        embedding (N, C, h, w); local features, see `SPMLNetwork.local_features`; labels and regions (N, H, W) integers
        0..255 at the size of the images; tags (N, T) bool, of which column 0 is the background.
        """
        size = (embedding.shape[-2], embedding.shape[-1])
        segments = find_segments(
            embedding,
            local=local,
            grid=self.kmeans_grid,
            iterations=self.kmeans_iterations,
            semantic=labels_at_embedding(labels, size),
            region=labels_at_embedding(regions, size),
            squeeze=self.squeeze,
        )
        mine = local_prototypes(segments, tags, propagated=self._propagated(segments))
        prototypes, first = gather_prototypes(mine, len(embedding))
        return Contrast(segments, tags, prototypes, first, self.memory.prototypes())

    def forward(self, contrast: Contrast | None, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Scalars by name. contrast: None where no relation is on; logits (N, K, h, w) of the pixel classifier, labels
        (N, H, W) as in `contrast`.

        The mean over processes is the mean over the pixels of the global batch: the counts of all losses travel in one
        collective. The prototypes travel in their own: three in `contrast`, one in the backward pass.
        """
        sums: Sums = {"pixel": (self.pixel_loss_weight, pixel_cross_entropy(logits, labels))}
        if contrast is not None:
            sums |= self._relations(contrast)
        counts = self._counts([count for _, (_, count) in sums.values()], logits.device)
        losses = {f"loss_{name}": weight * total / n for (name, (weight, (total, _))), n in zip(sums.items(), counts)}
        if contrast is not None:
            # Each process takes part in the collective of the prototypes' backward pass, also where no pixel uses them.
            losses["loss_pixel"] = losses["loss_pixel"] + 0 * contrast.prototypes.vector.sum()
        return losses

    def _relations(self, contrast: Contrast) -> Sums:
        segments, prototypes, memory, first = contrast.segments, contrast.prototypes, contrast.memory, contrast.first
        relations, classes = self.relations, self.num_classes
        sums: Sums = {}
        if relations.annotation.weight:
            kappa = relations.annotation.concentration
            loss = annotation_loss(
                segments, prototypes, first=first, num_classes=classes, concentration=kappa, memory=memory
            )
            sums["annotation"] = relations.annotation.weight, loss
        if relations.cooccurrence.weight:
            kappa = relations.cooccurrence.concentration
            loss = cooccurrence_loss(
                *(segments, prototypes, contrast.tags),
                first=first,
                concentration=kappa,
                memory=memory,
                official=self.official,
            )
            sums["cooccurrence"] = relations.cooccurrence.weight, loss
        if relations.image.weight:
            vectors = segments.embedding if relations.image_of_embedding else segments.located
            loss = image_similarity_loss(segments, vectors, concentration=relations.image.concentration)
            sums["image"] = relations.image.weight, loss
        if relations.affinity.weight:
            kappa = relations.affinity.concentration
            loss = affinity_loss(segments, prototypes, first=first, num_classes=classes, concentration=kappa)
            sums["affinity"] = relations.affinity.weight, loss
        return sums

    def remember(self, prototypes: Prototypes) -> None:
        """Note the prototypes of a micro-batch for the memory bank; `end_step` takes them in."""
        if self.memory.length:
            self._unremembered.append(prototypes)

    def end_step(self) -> None:
        """All micro-batches of a step are one iteration of the memory bank."""
        if self._unremembered:
            self.memory.append(join_prototypes(self._unremembered, [0] * len(self._unremembered)))
            self._unremembered = []

    def _propagated(self, segments: Segments) -> Tensor | None:
        if not self.relations.affinity.weight:
            return None
        located = segment_prototypes(segments.located.detach(), segments.segment, len(segments.segment_image))
        return propagate_labels(
            located,
            segments.segment_image,
            prototypes=located,
            prototype_label=segments.segment_semantic,
            prototype_image=segments.segment_image,
            num_classes=self.num_classes,
            threshold=self.relations.affinity_threshold,
        )

    def _counts(self, counts: list[Tensor | int], device: torch.device) -> Tensor:
        """What each sum is divided by (n,): its count over all processes per process, 1 where nothing was counted."""
        total = torch.stack([torch.as_tensor(count, dtype=torch.float32, device=device) for count in counts])
        if comm.get_world_size() > 1 and not self.official:
            torch.distributed.all_reduce(total)
            total /= comm.get_world_size()
        return torch.where(total > 0, total, 1.0)
