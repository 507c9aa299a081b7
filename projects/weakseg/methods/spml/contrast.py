"""Pixel-to-segment contrast: a pixel is drawn to the segments that are related to it and repelled by the others.

Four relations say which those are: (I) the same over-segmentation region of the same image, (C) the same annotated
class, (O) an image tag in common, (A) a propagated label in common. Each loss comes as a sum with the number that it
is to be divided by, over all processes, at least 1: where nothing takes part the loss is 0 and in the graph (fault d).
"""

from __future__ import annotations

import torch
from torch import Tensor

from weakseg.methods.spml.label_propagation import label_sets
from weakseg.methods.spml.segments import Prototypes, Segments, segment_prototypes

_TILE_ELEMENTS = {"cpu": 2**18}
_TILE_ELEMENTS_ELSEWHERE = 2**24


def image_similarity_loss(segments: Segments, vectors: Tensor, *, concentration: float) -> tuple[Tensor, int]:
    """Relation I (card section 3.5): regions, within each image, against prototypes of `vectors` (M, D), which are
    `segments.located`, or `segments.embedding` for DensePose. Returns the sum over images of the mean over their
    pixels, and the number of images with a pixel."""
    prototypes = segment_prototypes(vectors, segments.segment, len(segments.segment_image))
    losses = vectors.sum() * 0
    pixels, first = 0, 0
    per_image = zip(
        vectors.split(segments.pixels_per_image),
        prototypes.split(segments.segments_per_image),
        segments.pixels_per_image,
        segments.segments_per_image,
    )
    for pixel_vectors, segment_vectors, num_pixels, num_segments in per_image:
        region = segments.segment_region[first : first + num_segments]
        own = segments.segment[pixels : pixels + num_pixels] - first
        if num_pixels:
            loss = contrast_sum(
                pixel_vectors,
                segment_vectors,
                own=own,
                row=own,
                positive=region[:, None] == region,
                concentration=concentration,
            )
            losses = losses + loss / num_pixels
        pixels, first = pixels + num_pixels, first + num_segments
    return losses, sum(count > 0 for count in segments.pixels_per_image)


def annotation_loss(
    segments: Segments,
    prototypes: Prototypes,
    *,
    first: int,
    num_classes: int,
    concentration: float,
    memory: Prototypes | None = None,
) -> tuple[Tensor, int]:
    """Relation C (card section 3.5): pixels and segments with a class 0..K-1, of all images and the memory. `first` is
    the place of this process's segments among the prototypes. Returns the sum over pixels and their number."""
    pixels = (segments.semantic < num_classes).nonzero()[:, 0]
    is_labelled = prototypes.semantic < num_classes
    labels, constants = prototypes.semantic[is_labelled], None
    if memory is not None:
        is_in_memory = memory.semantic < num_classes
        labels, constants = torch.cat([labels, memory.semantic[is_in_memory]]), memory.vector[is_in_memory]
    renumbered = is_labelled.cumsum(0) - 1
    loss = contrast_sum(
        segments.embedding[pixels],
        prototypes.vector[is_labelled],
        own=renumbered[segments.segment[pixels] + first],
        row=segments.semantic[pixels],
        positive=torch.arange(num_classes, device=labels.device)[:, None] == labels,
        concentration=concentration,
        constants=constants,
    )
    return loss, len(pixels)


def cooccurrence_loss(
    segments: Segments,
    prototypes: Prototypes,
    tags: Tensor,
    *,
    first: int,
    concentration: float,
    memory: Prototypes | None = None,
    official: bool = False,
) -> tuple[Tensor, int]:
    """Relation O (card section 3.5): images that share a tag, against all segments and the memory. tags (N, K) bool of
    this process's images; class 0, the background, is no tag. Returns the sum over pixels and their number.

    Pixels of an image without tags are left out; `official` keeps them, and each repels its own segment (fault g).
    """
    embedding, own, image = segments.embedding, segments.segment + first, segments.image
    if not official:
        tagged = tags[:, 1:].any(1)[image].nonzero()[:, 0]
        embedding, own, image = embedding[tagged], own[tagged], image[tagged]
    prototype_tags = prototypes.tags if memory is None else torch.cat([prototypes.tags, memory.tags])
    loss = contrast_sum(
        embedding,
        prototypes.vector,
        own=own,
        row=image,
        positive=share_label(tags[:, 1:], prototype_tags[:, 1:]),
        concentration=concentration,
        constants=None if memory is None else memory.vector,
    )
    return loss, len(embedding)


def affinity_loss(
    segments: Segments, prototypes: Prototypes, *, first: int, num_classes: int, concentration: float
) -> tuple[Tensor, int]:
    """Relation A (card section 3.9): propagated label sets that intersect, against all segments; a segment to which no
    label was propagated has all K labels. Returns the sum over pixels and their number."""
    own = segments.segment + first
    # One row a class, and at -1 the row of all classes.
    rows = torch.tensor([*range(num_classes), -1], device=own.device)
    loss = contrast_sum(
        segments.embedding,
        prototypes.vector,
        own=own,
        row=prototypes.propagated[own] % (num_classes + 1),
        positive=share_label(label_sets(rows, num_classes), label_sets(prototypes.propagated, num_classes)),
        concentration=concentration,
    )
    return loss, len(own)


def share_label(sets: Tensor, others: Tensor) -> Tensor:
    """(R, P) bool: which of the label sets (R, K) and (P, K), 0 or 1, have a label in common."""
    return sets.float() @ others.float().T > 0


def contrast_sum(
    pixels: Tensor,
    prototypes: Tensor,
    *,
    own: Tensor,
    row: Tensor,
    positive: Tensor,
    concentration: float,
    constants: Tensor | None = None,
) -> Tensor:
    """Sum over pixels of -log(positives / (positives + negatives)), exp(concentration * cosine) summed over each (card
    section 3.5, without the cancellation of fault ff).

    pixels (M, C) and prototypes (P, C) unit vectors; own (M,) the segment of each pixel, which is left out of both
    sums where another positive exists and is the only positive elsewhere; row (M,) and positive (R, P + Q) bool: pixel
    i is related to prototype j where positive[row[i], j]; constants (Q, C) follow the prototypes and get no gradient.
    In fp32 at least; time M (P + Q) C, memory that of the arguments.
    """
    dtype = torch.promote_types(pixels.dtype, torch.float32)
    constants = prototypes.new_zeros(0, prototypes.shape[1]) if constants is None else constants.detach()
    with torch.autocast(pixels.device.type, enabled=False):
        return _TiledContrast.apply(
            pixels.to(dtype), prototypes.to(dtype), constants.to(dtype), own, row, positive.to(dtype), concentration
        )


class _TiledContrast(torch.autograd.Function):
    """The sum is linear in what flows back to it, a number: gradients are made with the loss, while a tile of pixels
    times prototypes is at hand, and only scaled in the backward pass."""

    @staticmethod
    def forward(ctx, pixels, prototypes, constants, own, row, positive, concentration):
        with_gradient = any(ctx.needs_input_grad)
        candidates = torch.cat([prototypes, constants])
        tile = _tile_pixels(pixels, candidates)
        similarity, coefficient = (pixels.new_empty(tile, len(candidates)) for _ in range(2))
        positives_of_row = positive.sum(1)
        loss = pixels.new_zeros(())
        pixel_gradient, prototype_gradient = torch.zeros_like(pixels), torch.zeros_like(prototypes)
        for start in range(0, len(pixels), tile):
            part = slice(start, start + tile)
            scaled = pixels[part] * concentration
            own_column, own_row = own[part, None], row[part]
            exponential = torch.mm(scaled, candidates.T, out=similarity[: len(scaled)]).exp_()
            own_exponential = exponential.gather(1, own_column)
            exponential.scatter_(1, own_column, 0.0)
            is_positive = torch.index_select(positive, 0, own_row, out=coefficient[: len(scaled)])
            own_is_positive = is_positive.gather(1, own_column)
            is_alone = (positives_of_row[own_row, None] == own_is_positive).to(pixels.dtype)
            others = (exponential * is_positive).sum(1, keepdim=True)
            numerator = torch.lerp(others, own_exponential, is_alone)
            # Of an image without tags the own segment is no positive, yet the only numerator: then it counts twice.
            own_in_denominator = is_alone + (1 - own_is_positive)
            denominator = exponential.sum(1, keepdim=True) + own_in_denominator * own_exponential
            loss += (denominator.log() - numerator.log()).sum()
            if with_gradient:
                weight = is_positive.div_(-numerator).add_(1 / denominator).mul_(exponential)
                weight.scatter_(
                    1, own_column, own_exponential * (own_in_denominator / denominator - is_alone / numerator)
                )
                torch.mm(weight, candidates, out=pixel_gradient[part])
                prototype_gradient.addmm_(weight[:, : len(prototypes)].T, scaled)
        ctx.save_for_backward(pixel_gradient.mul_(concentration), prototype_gradient)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        pixel_gradient, prototype_gradient = ctx.saved_tensors
        return gradient * pixel_gradient, gradient * prototype_gradient, None, None, None, None, None


def _tile_pixels(pixels: Tensor, candidates: Tensor) -> int:
    """So many that a tile of pixels times prototypes stays in the cache of a core, or is a small part of a GPU."""
    elements = _TILE_ELEMENTS.get(pixels.device.type, _TILE_ELEMENTS_ELSEWHERE)
    return min(max(1, len(pixels)), max(16, elements // max(1, len(candidates))))
