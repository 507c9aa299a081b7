"""The whole published Point2Mask model (ResNet, network, counter) for parity tests, filled by the fixtures' rule, and
the published constants that no recorded file holds."""

import re
from pathlib import Path
from types import SimpleNamespace

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from torch import Tensor, nn

from parity.reference import Reference, fill_rule
from weakseg.methods.point2mask.checkpoint import to_ours, to_published
from weakseg.methods.point2mask.network import Point2MaskNetwork

PUBLISHED = SimpleNamespace(
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_std=(58.395, 57.12, 57.375),
    channel_order="RGB",
    # Iterations over which the losses that trust pseudo labels rise (card section 3.10), on both data sets.
    ramp_iters=14659,
    location_weights={"class_weight": 2.0, "box_weight": 5.0, "giou_weight": 2.0},
    temperature=0.07,
    # Pixel graph and transport (card section 3.4).
    stride=16,
    graph={"lambda_probability": 1.0, "lambda_boundary": 0.1, "lambda_feature": 0.1},
    epsilon=1e-3,
    iterations=80,
    # Things, stuff (card section 5; the quality thresholds are those of the ResNets).
    quality_thresholds=(0.25, 0.25),
    overlap_thresholds=(0.4, 0.2),
    data_sets={
        # Iterations of phase 1; training images with a thing, and GPUs of the README's commands (card section 4).
        "voc": SimpleNamespace(classes=(20, 1), transport_warmup=12000, training=(10582, 4)),
        "coco": SimpleNamespace(classes=(80, 53), transport_warmup=60000, training=(117266, 8)),
    },
)
"""Constants of the release that the recorded files take for granted; the one place where parity tests state them."""

PIXEL_MEAN = torch.tensor(PUBLISHED.pixel_mean)
PIXEL_STD = torch.tensor(PUBLISHED.pixel_std)
DEPTHS = {6: 50, 23: 101, 36: 152}
"""Blocks of the third ResNet stage -> depth."""


def data_set_of(name: str, classes: tuple[int, int] | None = None) -> SimpleNamespace:
    """Published facts of the data set with `classes` (T, U); else of the one that the file or config `name` tells; else
    of VOC."""
    for facts in PUBLISHED.data_sets.values():
        if facts.classes == classes:
            return facts
    return next((facts for key, facts in PUBLISHED.data_sets.items() if key in name), PUBLISHED.data_sets["voc"])


def resnet_depth(path: Path, parameters: list[str]) -> int:
    """Depth of the ResNet whose blocks the published `parameters` name; where they do not name all, the depth in
    the file's name ("_r101"), or 50."""
    blocks = {name.split(".")[2] for name in parameters if name.startswith("backbone.layer3.")}
    if len(blocks) in DEPTHS:
        return DEPTHS[len(blocks)]
    named = re.search(r"r(50|101|152)(?!\d)", path.stem)
    return int(named[1]) if named else 50


def build_model(depth: int, *, num_things: int, num_stuff: int, dropout: float = 0.1) -> nn.Module:
    """Backbone and network of the published configs, named as in `WeaklySupervisedSegmenter`."""
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    model = nn.Module()
    model.backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    model.head = nn.Module()
    channels = [spec.channels for spec in model.backbone.output_shape().values()]
    model.head.network = Point2MaskNetwork(channels, num_things=num_things, num_stuff=num_stuff, dropout=dropout)
    model.head.register_buffer("iteration", torch.zeros(1, dtype=torch.int64))
    return model


def filled_state(model: nn.Module, ref: Reference) -> dict[str, Tensor]:
    """The state that the fixtures were recorded with, under our names: the fill rule, then the overrides of `ref`."""
    rule = fill_rule()
    published = to_published(model.state_dict())
    for key, tensor in published.items():
        if tensor.is_floating_point():
            published[key] = torch.from_numpy(rule.fill(key, tuple(tensor.shape)))
    published["bbox_head._iter"].zero_()
    for name in ref.keys():
        if name.startswith("override/"):
            published[name.removeprefix("override/")] = ref.tensor(name)
    return to_ours(published)


def input_batch(ref: Reference) -> tuple[Tensor, list[tuple[int, int]]]:
    """The network input (B, 3, H, W) of the images image0, image1, ..., and their sizes (h, w)."""
    padded_size, *image_sizes = [tuple(size) for size in ref["shapes"].tolist()]
    batch = torch.zeros(len(image_sizes), 3, *padded_size)
    for index, (h, w) in enumerate(image_sizes):
        image = ref.tensor(f"image{index}").float()
        batch[index, :, :h, :w] = ((image - PIXEL_MEAN) / PIXEL_STD).permute(2, 0, 1)
    return batch, image_sizes
