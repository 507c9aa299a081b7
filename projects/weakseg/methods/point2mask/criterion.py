"""Every loss term of Point2Mask for one batch (card section 3), each under its name in table 3.10."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from detectron2.utils import comm
from torch import Tensor, nn

from weakseg.labels import NO_CLASS
from weakseg.layers.color import denormalize, rgb_to_lab
from weakseg.methods.point2mask.embedding_losses import boundary_loss, contrastive_loss
from weakseg.methods.point2mask.loss_weights import LossWeights, loss_ramp, scale_losses
from weakseg.methods.point2mask.mask_losses import dice_losses, stuff_losses, stuff_presence
from weakseg.methods.point2mask.pseudo_labels import PseudoLabels
from weakseg.methods.point2mask.semantic_losses import (
    DilatedPoints,
    color_affinity,
    color_prior_loss,
    color_tree,
    existence_loss_sum,
    partial_cross_entropy_sum,
    pixels_inside,
    tree_loss_sum,
    unlabelled_count,
)
from weakseg.methods.point2mask.set_losses import Matches, box_scales, location_losses
from weakseg.methods.point2mask.targets import PointTargets
from weakseg.methods.point2mask.transformer import Location

_PUBLISHED_STD = (58.395, 57.12, 57.375)
"""RGB. The tree's similarity is of colours over these (card 3.3), whatever statistics the backbone asks for."""


@dataclass
class Outputs:
    """What the network says of a batch; L layers each.

    location: see `Location`; matches: per layer and image; thing_masks (L, B, N, h0, w0) of the last layer's matched
    queries, image b's matches first. stuff: masks (L, B, U, h0, w0) and existence logits (L, B, U); semantic: scaled
    logits (L, B, C, h0, w0) and existence logits (L, B, C). embedding (B, E, h0, w0) and boundary (B, h0, w0) logits;
    None where the labels are true masks.
    """

    location: Location
    matches: list[Matches]
    thing_masks: Tensor
    stuff: tuple[Tensor, Tensor]
    semantic: tuple[Tensor, Tensor]
    embedding: Tensor | None
    boundary: Tensor | None


class Criterion(nn.Module):
    """Weighs, normalises and ramps the loss terms. It has no parameters; pixel statistics are buffers."""

    pixel_mean: Tensor
    pixel_std: Tensor
    guide_scale: Tensor

    def __init__(
        self,
        *,
        num_things: int,
        num_stuff: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        channel_order: str,
        temperature: float,
        ramp_iters: int,
        weights: LossWeights,
        official: bool,
    ):
        """pixel_mean, pixel_std: of pixel values 0..255, per channel in the images' `channel_order`, RGB or BGR."""
        super().__init__()
        self.num_things, self.num_stuff = num_things, num_stuff
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std), persistent=False)
        published_std = _PUBLISHED_STD if channel_order == "RGB" else _PUBLISHED_STD[::-1]
        guide_scale = torch.tensor(pixel_std) / torch.tensor(published_std)
        self.register_buffer("guide_scale", guide_scale[:, None, None], persistent=False)
        self.channel_order = channel_order
        self.temperature, self.ramp_iters = temperature, ramp_iters
        self.weights = weights
        self.official = official

    def forward(
        self,
        outputs: Outputs,
        classes: list[Tensor],
        pseudo: PseudoLabels,
        dilated: DilatedPoints,
        images: ImageList,
        *,
        step: Tensor,
        targets: PointTargets | None,
    ) -> dict[str, Tensor]:
        """Scaled loss terms by name. `step`: optimiser steps done before. Without `targets` the labels are true masks,
        and the losses that stand in for missing labels (colour, tree, contrastive, boundary) are left out."""
        height, width = outputs.semantic[0].shape[-2:]
        padded = (images.tensor.shape[-2], images.tensor.shape[-1])
        valid = None
        if not self.official:
            valid = pixels_inside(images.image_sizes, padded, (height, width), device=images.tensor.device)
        target, covering = dilated.labels_at(height, width)
        if valid is not None:
            target = torch.where(valid, target, NO_CLASS)
        stuff_present = stuff_presence(pseudo.semantic, num_things=self.num_things, num_stuff=self.num_stuff)
        counts = _global_counts(
            classes=dilated.present.sum(),
            labelled=(target != NO_CLASS).sum(),
            unlabelled=unlabelled_count(covering, valid, official=self.official),
            matched=sum(len(queries) for queries, _ in outputs.matches[-1]),
            stuff=stuff_present.sum(),
            at_least_one=("classes", "labelled", "matched", *(() if self.official else ("unlabelled",))),
        )
        losses = self._semantic(*outputs.semantic, target, dilated.present, counts)
        if targets is not None:
            losses |= self._colors(outputs.semantic[0], dilated.present, images, valid, counts)
        losses |= self._location(outputs, classes, pseudo, images, counts)
        losses |= self._masks(outputs, pseudo, images, stuff_present, counts)
        if targets is not None and outputs.embedding is not None and outputs.boundary is not None:
            losses |= self._graph(outputs.embedding, outputs.boundary, pseudo, images, targets)
        return scale_losses(
            losses,
            thing_count=counts["matched"],
            stuff_count=counts["stuff"],
            ramp=loss_ramp(step, self.ramp_iters),
            official=self.official,
        )

    def _semantic(
        self, logits: Tensor, existence_logits: Tensor, target: Tensor, present: Tensor, counts: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        existence = existence_loss_sum(existence_logits, present) / counts["classes"]
        cross_entropy = partial_cross_entropy_sum(logits, target) / counts["labelled"]
        return _by_layer("loss_sem_cls", 2 * existence) | _by_layer("loss_sem_mask", cross_entropy)

    def _colors(
        self, logits: Tensor, present: Tensor, images: ImageList, valid: Tensor | None, counts: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        small = F.interpolate(images.tensor, logits.shape[-2:], mode="bilinear", align_corners=False)
        rgb = denormalize(small, self.pixel_mean, self.pixel_std) / 255
        lab = rgb_to_lab(rgb.flip(1) if self.channel_order == "BGR" else rgb)
        color = color_prior_loss(logits, color_affinity(lab, valid, official=self.official))
        named = None if self.official else present
        tree_and_similarity = color_tree(small * self.guide_scale, valid)
        tree = tree_loss_sum(logits, *tree_and_similarity, valid, present=named) / counts["unlabelled"]
        return _by_layer("loss_sem_color", self.weights.color * color) | _by_layer(
            "loss_tree_color", self.weights.tree * tree
        )

    def _location(
        self,
        outputs: Outputs,
        classes: list[Tensor],
        pseudo: PseudoLabels,
        images: ImageList,
        counts: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        location = outputs.location
        losses: dict[str, Tensor] = {}
        last = len(outputs.matches) - 1
        scales = box_scales(images.image_sizes, location.boxes.device)
        for layer, matches in enumerate(outputs.matches):
            terms = location_losses(
                location.class_logits[layer],
                location.boxes[layer],
                matches,
                pseudo_boxes=pseudo.boxes,
                classes=classes,
                image_scales=scales,
                normalizer=counts["matched"],
                **self.weights.location,
            )
            prefix = "" if layer == last else f"d{layer}."
            losses |= {prefix + name: term for name, term in zip(("loss_cls", "loss_bbox", "loss_iou"), terms)}
        return losses

    def _masks(
        self,
        outputs: Outputs,
        pseudo: PseudoLabels,
        images: ImageList,
        stuff_present: Tensor,
        counts: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        image_sizes = None if self.official else images.image_sizes
        instances = [instance for _, instance in outputs.matches[-1]]
        things = dice_losses(
            [outputs.thing_masks[:, b, : len(instance)] for b, instance in enumerate(instances)],
            torch.stack(pseudo.instance_map),
            instances,
            image_sizes=image_sizes,
        ).sum(1)
        # Slots beyond an image's matches are zeros that keep the decoder in the graph when nothing is matched.
        things = things / counts["matched"] + 0.0 * outputs.thing_masks.flatten(1).sum(1)
        stuff, existence = stuff_losses(
            *outputs.stuff,
            pseudo.semantic,
            present=stuff_present,
            num_things=self.num_things,
            normalizer=counts["stuff"],
            image_sizes=image_sizes,
        )
        weight = self.weights.mask
        return (
            _by_layer("loss_mask", weight * things)
            | _by_layer("loss_st_mask", weight * stuff)
            | _by_layer("loss_st_cls", self.weights.classification * self.weights.stuff_class_factor * existence)
        )

    def _graph(
        self, embedding: Tensor, boundary: Tensor, pseudo: PseudoLabels, images: ImageList, targets: PointTargets
    ) -> dict[str, Tensor]:
        contrast = contrastive_loss(
            embedding,
            pseudo.instance_map,
            pseudo.semantic,
            points=targets.points,
            point_map=targets.point_map,
            num_instances=[len(labels) for labels in targets.classes],
            num_things=self.num_things,
            num_stuff=self.num_stuff,
            temperature=self.temperature,
        )
        affinity = boundary_loss(
            boundary,
            pseudo.instance_map,
            pseudo.semantic,
            num_things=self.num_things,
            image_sizes=images.image_sizes,
            official=self.official,
        )
        return {"loss_cl": contrast, "loss_bnd": affinity}


def _by_layer(name: str, losses: Tensor) -> dict[str, Tensor]:
    return {f"d{layer}.{name}": loss for layer, loss in enumerate(losses)}


def _global_counts(*, at_least_one: tuple[str, ...], **counts: Tensor | int) -> dict[str, Tensor]:
    """Each count as its mean over all ranks, so that the mean of the ranks' losses is the loss of the global batch; the
    totals named `at_least_one` are raised to 1 before. One collective a step, whatever the data."""
    device = next(count.device for count in counts.values() if isinstance(count, Tensor))
    total = torch.stack([torch.as_tensor(count, dtype=torch.float32, device=device) for count in counts.values()])
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(total)
    floor = torch.tensor([1.0 if name in at_least_one else -torch.inf for name in counts], device=device)
    return dict(zip(counts, torch.maximum(total, floor) / comm.get_world_size()))
