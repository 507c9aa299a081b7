"""The contract of a method: `WeakHead`, and the registry from which `MODEL.WEAK_HEAD.NAME` chooses one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from weakseg.labels import LabelKind

WEAK_HEAD_REGISTRY = Registry("WEAK_HEAD")
WEAK_HEAD_REGISTRY.__doc__ = """
Heads by name. A head is called as `Head(cfg, input_shape)` with Detectron2's `@configurable`; `input_shape` is the
backbone's `output_shape()` (name -> ShapeSpec).
"""


class SegmentationModel(nn.Module):
    """What a head knows of the model that it is part of (see `segmenter`)."""

    backbone: Backbone
    head: WeakHead

    def preprocess(self, batch: list[dict]) -> ImageList:
        """Normalised and padded images of a batch."""
        raise NotImplementedError

    def predict_plain_view(self, images: ImageList, batch: list[dict]) -> list[dict]:
        """The head's results from one view: the images as they are."""
        raise NotImplementedError


class WeakHead(nn.Module):
    """Base of every method's head.

    features: name -> (B, C, H, W) of the backbone; images: normalised, padded with 0 at the right and the bottom, with
    the unpadded `image_sizes` (h, w); batch: the samples of the mapper, one dict an image.
    """

    accepts: frozenset[LabelKind]
    """The kinds of labels that the head can learn from; the run's `INPUT.SUPERVISION` must be among them."""

    gives: frozenset[str] = frozenset({"panoptic_seg", "instances", "sem_seg"})
    """Keys of its results that can be measured; a head that lacks some says so here."""

    prepare: Callable[[dict], dict] | None = None
    """Picklable function of a sample, run in the loader's workers after the gate: targets that need the CPU."""

    def losses(self, features: dict[str, Tensor], images: ImageList, batch: list[dict]) -> dict[str, Tensor]:
        """Scalar losses by name; their sum is minimised. Defined, and part of the graph, for a batch without any label.
        Normalised so that the mean over all ranks is the loss of the global batch."""
        raise NotImplementedError

    def forward(self, features: dict[str, Tensor], images: ImageList, batch: list[dict]) -> Any:
        """Raw network outputs of one view of the images."""
        raise NotImplementedError

    def finish(self, views: list[tuple[Any, Any]], batch: list[dict]) -> list[dict]:
        """Results per image at its original (`height`, `width`) from all its views, a list of (`inference.View`, raw
        output of `forward`). Keys: "panoptic_seg" (id map (H, W) int32, segments_info as in Detectron2), "instances",
        "sem_seg" (class map (H, W), or class scores (C, H, W)), "referring"."""
        raise NotImplementedError

    def predict(self, model: SegmentationModel, images: ImageList, batch: list[dict]) -> list[dict]:
        """Results of a batch, as `finish` gives them. Here from the images as they are; a method with views of its own
        (scales, flips, tiles) runs `model.backbone` on each, and needs neither `forward` nor `finish`."""
        return model.predict_plain_view(images, batch)

    def pseudo_labels(self, model: SegmentationModel, images: ImageList, batch: list[dict]) -> list[dict]:
        """Optional: what the labels of the batch are grown to by the network as it is. "sem_seg" (always a class map,
        255 for no class), "prototypes" and "cams" (see `pseudo_labels.RESULT_FILES`) are of the image at its stored
        size (`height`, `width`); "panoptic_seg", as of `finish`, is at the size (h, w) of the image in `images`."""
        raise NotImplementedError

    def parameter_groups(self, model: SegmentationModel) -> list[dict]:
        """Every trainable parameter of the whole model exactly once: dicts of "params", "lr_mult", "decay_mult"."""
        return [{"params": [p for p in model.parameters() if p.requires_grad], "lr_mult": 1.0, "decay_mult": 1.0}]

    def set_train_mode(self, model: SegmentationModel) -> None:
        """Called after `model.train()`: put what is frozen into evaluation mode."""

    def after_step(self) -> None:
        """Called after each optimiser step, on all ranks alike: counters, memory banks."""

    def start_anew(self) -> None:
        """Called after fine-tuning weights were loaded, before the first step: counters back to 0."""


def build_weak_head(cfg, input_shape) -> WeakHead:
    """The head named by `MODEL.WEAK_HEAD.NAME`. Raises ValueError when the name is unknown or the run's supervision is
    nothing that the head can learn from."""
    name = cfg.MODEL.WEAK_HEAD.NAME
    if name not in WEAK_HEAD_REGISTRY:
        known = ", ".join(sorted(head for head, _ in WEAK_HEAD_REGISTRY))
        raise ValueError(f"MODEL.WEAK_HEAD.NAME: expected one of {known}; found {name!r}. Choose one of them.")
    head_class = WEAK_HEAD_REGISTRY.get(name)
    refused = sorted(set(cfg.INPUT.SUPERVISION) - {kind.value for kind in head_class.accepts})
    if refused:
        accepted = ", ".join(sorted(kind.value for kind in head_class.accepts))
        raise ValueError(
            f"INPUT.SUPERVISION: {name} learns from {accepted}; found {', '.join(refused)}. "
            "Remove the others, or choose a method that uses them."
        )
    return head_class(cfg, input_shape)
