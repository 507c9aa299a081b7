"""Point2Mask: points to panoptic masks through optimal transport (arXiv 2308.01779). Start reading here."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from weakseg.data.catalog import class_counts, metadata_of
from weakseg.heads import WEAK_HEAD_REGISTRY, SegmentationModel, WeakHead
from weakseg.inference.views import View
from weakseg.labels import LabelKind
from weakseg.methods.point2mask.config import criterion_arguments, network_arguments, transport_arguments
from weakseg.methods.point2mask.criterion import Criterion, Outputs
from weakseg.methods.point2mask.edges import PrepareEdges, pad_edges, prepare_edges
from weakseg.methods.point2mask.merge import RawPrediction, image_result, top_pairs
from weakseg.methods.point2mask.network import Encoded, Point2MaskNetwork
from weakseg.methods.point2mask.pseudo_labels import PseudoLabels, make_pseudo_labels, pseudo_panoptic
from weakseg.methods.point2mask.semantic_losses import DilatedPoints, dilate_points
from weakseg.methods.point2mask.set_losses import box_scales, match
from weakseg.methods.point2mask.targets import PointTargets, point_targets, true_labels

SLOW_PARAMETERS = ("backbone", "sampling_offsets", "reference_points")
"""Parameters whose full name contains one of these learn with the backbone's rate (card section 4)."""


@WEAK_HEAD_REGISTRY.register()
class Point2MaskHead(WeakHead):
    """Panoptic segmentation from points on things and stuff; from true masks as the baseline."""

    accepts = frozenset({LabelKind.POINTS, LabelKind.MASKS})
    iteration: Tensor

    @configurable
    def __init__(
        self,
        *,
        network: Point2MaskNetwork,
        criterion: Criterion,
        in_features: tuple[str, ...],
        num_things: int,
        num_stuff: int,
        from_masks: bool = False,
        point_dilation: int = 17,
        transport_warmup: int = 12000,
        transport: dict | None = None,
        low_level_edges: bool = False,
        prepare: PrepareEdges | None = None,
        backbone_multiplier: float = 0.1,
        topk: int = 100,
        quality_thresholds: tuple[float, float] = (0.25, 0.25),
        overlap_thresholds: tuple[float, float] = (0.4, 0.2),
        with_semantic: bool = True,
        official: bool = False,
    ):
        """from_masks: learn from true masks instead of points; transport_warmup: iterations of phase 1; transport:
        keyword arguments of `make_pseudo_labels` (stride, epsilon, iterations, lambda_...); low_level_edges: the graph
        uses the evidence "edges", which `prepare` makes or the loader reads; thresholds: for (things, stuff)."""
        super().__init__()
        if point_dilation % 2 == 0:
            raise ValueError(
                f"MODEL.POINT2MASK.POINT_DILATION: expected an odd number of pixels; found {point_dilation}. Add 1."
            )
        self.network, self.criterion = network, criterion
        self.in_features = in_features
        self.num_things, self.num_stuff = num_things, num_stuff
        self.from_masks = from_masks
        self.point_dilation = point_dilation
        self.transport_warmup, self.transport = transport_warmup, dict(transport or {})
        self.low_level_edges, self.prepare = low_level_edges, prepare
        self.backbone_multiplier = backbone_multiplier
        self.topk = topk
        self.quality_thresholds, self.overlap_thresholds = quality_thresholds, overlap_thresholds
        self.with_semantic = with_semantic
        self.official = official
        # Optimiser steps done: the one counter of loss ramp and transport phase (card fault d).
        self.register_buffer("iteration", torch.zeros(1, dtype=torch.int64))
        if from_masks:
            # Their losses stand in for missing labels; without them nothing would train these heads.
            self.network.embedding_head.requires_grad_(False)
            self.network.boundary_head.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node = cfg.MODEL.POINT2MASK
        if {LabelKind.POINTS.value, LabelKind.MASKS.value} <= set(cfg.INPUT.SUPERVISION):
            raise ValueError(
                "INPUT.SUPERVISION: expected one of points or masks for Point2Mask; found both. Remove one of them."
            )
        num_things, num_stuff = class_counts(metadata_of(cfg))
        classes: dict = {"num_things": num_things, "num_stuff": num_stuff}
        in_channels = [input_shape[name].channels for name in node.IN_FEATURES]
        return {
            "network": Point2MaskNetwork(in_channels, **classes, **network_arguments(cfg)),
            "criterion": Criterion(**classes, **criterion_arguments(cfg)),
            "in_features": tuple(node.IN_FEATURES),
            **classes,
            "from_masks": LabelKind.MASKS.value in cfg.INPUT.SUPERVISION,
            "point_dilation": node.POINT_DILATION,
            "transport_warmup": node.OT.WARMUP_ITERS,
            "transport": transport_arguments(cfg),
            "low_level_edges": node.GRAPH.LOW_LEVEL_EDGES,
            "prepare": prepare_edges(cfg),
            "backbone_multiplier": cfg.SOLVER.BACKBONE_MULTIPLIER,
            "topk": node.TEST.TOPK,
            "quality_thresholds": (node.TEST.QUALITY_THRESH_THING, node.TEST.QUALITY_THRESH_STUFF),
            "overlap_thresholds": (node.TEST.OVERLAP_THRESH_THING, node.TEST.OVERLAP_THRESH_STUFF),
            "with_semantic": node.TEST.SEMANTIC,
            "official": node.OFFICIAL_COMPAT,
        }

    def losses(self, features: dict[str, Tensor], images: ImageList, batch: list[dict]) -> dict[str, Tensor]:
        device = images.tensor.device
        encoded = self._encode(features, images)
        location = self.network.locate(encoded)
        semantic = self.network.semantic(encoded)

        targets: PointTargets | None = None
        embedding: Tensor | None = None
        boundary: Tensor | None = None
        if self.from_masks:
            labels = [sample["weak"] for sample in batch]
            classes, pseudo = true_labels(labels, _size(images), num_things=self.num_things, device=device)
            dilated = dilate_points(pseudo.semantic, self.num_things + self.num_stuff, size=1)
        else:
            targets, dilated = self._points(batch, images)
            classes = targets.classes
            embedding, boundary = self.network.embed(encoded)
            pseudo = self._transport(semantic[0][-1], boundary, embedding, targets, dilated, images, batch)

        matches = match(
            location.class_logits,
            location.boxes,
            pseudo_boxes=pseudo.boxes,
            classes=classes,
            image_scales=box_scales(images.image_sizes, device),
            **self.criterion.weights.location,
        )
        queries = _padded([location.states[-1][b, query] for b, (query, _) in enumerate(matches[-1])])
        outputs = Outputs(
            location=location,
            matches=matches,
            thing_masks=self.network.thing_masks(queries, encoded),
            stuff=self.network.stuff(encoded),
            semantic=semantic,
            embedding=embedding,
            boundary=boundary,
        )
        return self.criterion(outputs, classes, pseudo, dilated, images, step=self.iteration[0], targets=targets)

    def after_step(self) -> None:
        self.iteration += 1

    def start_anew(self) -> None:
        self.iteration.zero_()

    @torch.no_grad()
    def pseudo_labels(self, model: SegmentationModel, images: ImageList, batch: list[dict]) -> list[dict]:
        """Per image "panoptic_seg": its instances' masks, then a segment per stuff class of the semantic pseudo label;
        where the points leave a pixel open it is void. And "boundary", the learned probability (h, w)."""
        targets, pseudo, boundary = self.grow_points(model.backbone(images.tensor), images, batch)
        boundary = F.interpolate(boundary[:, None].float(), _size(images), mode="bilinear")[:, 0].sigmoid()
        classes: dict = {"num_things": self.num_things, "num_stuff": self.num_stuff}
        results = []
        for b, (height, width) in enumerate(images.image_sizes):
            owner, kind = pseudo.instance_map[b][:height, :width], pseudo.semantic[b, :height, :width]
            panoptic = pseudo_panoptic(owner, kind, targets.classes[b], **classes)
            results.append({"panoptic_seg": panoptic, "boundary": boundary[b, :height, :width]})
        return results

    @torch.no_grad()
    def grow_points(
        self, features: dict[str, Tensor], images: ImageList, batch: list[dict]
    ) -> tuple[PointTargets, PseudoLabels, Tensor]:
        """The labelled pixels of a batch, what they are grown to with the network as it is, and the boundary logits
        (B, h0, w0)."""
        encoded = self._encode(features, images)
        semantic, _ = self.network.semantic(encoded, last_only=True)
        embedding, boundary = self.network.embed(encoded)
        targets, dilated = self._points(batch, images)
        pseudo = self._transport(semantic[-1], boundary, embedding, targets, dilated, images, batch)
        return targets, pseudo, boundary

    def _encode(self, features: dict[str, Tensor], images: ImageList) -> Encoded:
        return self.network.encode([features[name] for name in self.in_features], images.image_sizes, _size(images))

    def _points(self, batch: list[dict], images: ImageList) -> tuple[PointTargets, DilatedPoints]:
        targets = point_targets(
            [sample["weak"] for sample in batch],
            _size(images),
            num_things=self.num_things,
            device=images.tensor.device,
            official=self.official,
        )
        num_classes = self.num_things + self.num_stuff
        return targets, dilate_points(targets.point_map, num_classes, self.point_dilation)

    def _transport(
        self,
        semantic_logits: Tensor,
        boundary: Tensor,
        embedding: Tensor,
        targets: PointTargets,
        dilated: DilatedPoints,
        images: ImageList,
        batch: list[dict],
    ) -> PseudoLabels:
        # The first step is number 1 (card fault ak). Reading the counter waits for the device, once a step: the phase
        # decides what is computed, and the transport asks the device anyway.
        phase = 1 if int(self.iteration) + 1 <= self.transport_warmup else 2
        return make_pseudo_labels(
            semantic_logits,
            dilated,
            boundary,
            embedding,
            targets.classes,
            targets.points,
            images.image_sizes,
            num_things=self.num_things,
            phase=phase,
            edges=pad_edges(batch, _size(images), images.tensor.device) if self.low_level_edges else None,
            official=self.official,
            **self.transport,
        )

    def forward(self, features: dict[str, Tensor], images: ImageList, batch: list[dict]) -> RawPrediction:
        encoded = self._encode(features, images)
        location = self.network.locate(encoded)
        class_logits, states = location.class_logits[-1], location.states[-1]
        # Queries do not see each other in the mask decoder: each distinct one is decoded once (card 8.11).
        queries = [top_pairs(logits, self.topk)[1].unique() for logits in class_logits]
        masks = self.network.thing_masks(_padded([s[q] for s, q in zip(states, queries)]), encoded, last_only=True)[-1]
        stuff_masks, stuff_logits = self.network.stuff(encoded, last_only=True)
        semantic = self.network.semantic(encoded, last_only=True)[0][-1] if self.with_semantic else None
        return RawPrediction(
            class_logits=class_logits,
            boxes=location.boxes[-1],
            queries=queries,
            thing_masks=[mask[: len(query)] for mask, query in zip(masks, queries)],
            stuff_masks=stuff_masks[-1],
            stuff_logits=stuff_logits[-1],
            semantic_logits=semantic,
        )

    @torch.no_grad()
    def finish(self, views: list[tuple[View, RawPrediction]], batch: list[dict]) -> list[dict]:
        """Per image what `image_result` gives. Raises ValueError for several views: Point2Mask has no test-time
        augmentation."""
        if len(views) != 1:
            raise ValueError(f"Point2Mask predicts from one view of an image; found {len(views)}. Turn test views off.")
        ((view, raw),) = views
        return [
            image_result(
                raw,
                b,
                num_things=self.num_things,
                topk=self.topk,
                padded_size=view.padded_size,
                image_size=view.image_sizes[b],
                output_size=(sample["height"], sample["width"]),
                quality_thresholds=self.quality_thresholds,
                overlap_thresholds=self.overlap_thresholds,
            )
            for b, sample in enumerate(batch)
        ]

    def parameter_groups(self, model: SegmentationModel) -> list[dict]:
        slow: list[nn.Parameter] = []
        fast: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                (slow if any(part in name for part in SLOW_PARAMETERS) else fast).append(parameter)
        return [
            {"params": fast, "lr_mult": 1.0, "decay_mult": 1.0},
            {"params": slow, "lr_mult": self.backbone_multiplier, "decay_mult": 1.0},
        ]


def _size(images: ImageList) -> tuple[int, int]:
    height, width = images.tensor.shape[-2:]
    return int(height), int(width)


def _padded(queries: list[Tensor]) -> Tensor:
    """Queries (n_b, D) of B images as (B, N, D), N >= 1: zeros behind each image's own."""
    longest = max(max(len(rows) for rows in queries), 1)
    return torch.stack([F.pad(rows, (0, 0, 0, longest - len(rows))) for rows in queries])
