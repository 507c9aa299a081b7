"""The whole published Point2Mask model (backbone, network, counter) for parity tests, filled by the fixtures' rule, and
the published constants that no recorded file holds."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from parity.reference import Reference, fill_rule
from tiny import CONFIGS
from weakseg.engine.defaults import load_config
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
    # Things, stuff (card section 5); `quality_thresholds` below gives those of a file.
    quality_thresholds=(0.25, 0.25),
    quality_thresholds_of={"voc_swinl": (0.3, 0.3)},
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


def quality_thresholds(name: str) -> tuple[float, float]:
    """Published thresholds (things, stuff) of the config that the file `name` tells."""
    special = PUBLISHED.quality_thresholds_of
    return next((values for key, values in special.items() if key in name), PUBLISHED.quality_thresholds)


def resnet_depth(path: Path, parameters: Iterable[str]) -> int | None:
    """Depth of the ResNet whose blocks the published `parameters` name, None for a Swin; where they name no backbone,
    the one in the file's name ("_r101", "_swinl"), or 50."""
    parameters = list(parameters)
    if any(name.startswith("backbone.layers.") for name in parameters):
        return None
    blocks = {name.split(".")[2] for name in parameters if name.startswith("backbone.layer3.")}
    if len(blocks) in DEPTHS:
        return DEPTHS[len(blocks)]
    if "swin" in path.stem:
        return None
    named = re.search(r"r(50|101|152)(?!\d)", path.stem)
    return int(named[1]) if named else 50


def published_config(depth: int | None, shapes: dict[str, list[int]] | None = None) -> CfgNode:
    """The config of the published ResNet of `depth`, or (None) of a Swin with the sizes of the published `shapes`, by
    default Swin-L. It names no data set."""
    cfg = load_config(CONFIGS / "point2mask/_base.yaml", ["MODEL.DEVICE", "cpu"])
    if depth is not None:
        cfg.MODEL.RESNETS.DEPTH = depth
        return cfg
    cfg.MODEL.BACKBONE.NAME = "build_swin_backbone"
    if shapes:
        table = "backbone.layers.{}.blocks.{}.attn.relative_position_bias_table"
        depths = [sum(table.format(stage, block) in shapes for block in range(99)) for stage in range(4)]
        cfg.MODEL.SWIN.EMBED_DIM = shapes["backbone.patch_embed.proj.weight"][0]
        cfg.MODEL.SWIN.DEPTHS = depths
        cfg.MODEL.SWIN.NUM_HEADS = [shapes[table.format(stage, 0)][1] for stage in range(4)]
        cfg.MODEL.SWIN.WINDOW_SIZE = (math.isqrt(shapes[table.format(0, 0)][0]) + 1) // 2
    return cfg


def build_model(depth: int | None, *, num_things: int, num_stuff: int, dropout: float = 0.1) -> nn.Module:
    """Backbone (None: Swin-L) and network of the published configs, named as in `WeaklySupervisedSegmenter`."""
    model = nn.Module()
    model.backbone = build_backbone(published_config(depth))
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
