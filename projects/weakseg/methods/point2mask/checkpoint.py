"""The parameter names of the published checkpoints, and ours (Point2Mask card 10)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from weakseg.backbones.torchvision_names import detectron2_name, torchvision_name

_BATCH_COUNTER = ".num_batches_tracked"
_PUBLISHED_ITERATION, _ITERATION = "bbox_head._iter", "head.iteration"
_SWIN = re.compile(r"(patch_embed|layers\.\d+|norm\d)\.")

_MASK_LAYER = (
    ("mask_attn.mask_projs.{}.0.", "mask_attention.level_convs.{}."),
    ("mask_attn.mask_proj_all.0.", "mask_attention.all_levels_conv."),
    ("mask_attn.", "mask_attention."),
    ("self_attn.", "self_attention."),
    ("mlp.layers.0.", "mlp.0."),
    ("mlp.layers.3.", "mlp.2."),
    ("norm1.", "mask_norm."),
    ("norm2.", "self_norm."),
    ("norm3.", "mlp_norm."),
)
_MASK_DECODERS = (
    ("things", "thing_decoder"),
    ("stuff", "stuff_decoder.decoder"),
    ("semantic", "semantic_decoder.decoder"),
)
_NAMES = (
    ("neck.extra_convs.0.conv.", "neck.convs.3.conv."),
    ("neck.extra_convs.0.gn.", "neck.convs.3.norm."),
    ("neck.convs.{}.conv.", "neck.convs.{}.conv."),
    ("neck.convs.{}.gn.", "neck.convs.{}.norm."),
    ("bbox_head.transformer.level_embeds", "level_embedding"),
    ("bbox_head.transformer.encoder.layers.{}.attentions.0.", "encoder.layers.{}.attention."),
    ("bbox_head.transformer.encoder.layers.{}.ffns.0.layers.0.0.", "encoder.layers.{}.ffn.expand."),
    ("bbox_head.transformer.encoder.layers.{}.ffns.0.layers.1.", "encoder.layers.{}.ffn.reduce."),
    ("bbox_head.transformer.encoder.layers.{}.norms.0.", "encoder.layers.{}.attention_norm."),
    ("bbox_head.transformer.encoder.layers.{}.norms.1.", "encoder.layers.{}.ffn_norm."),
    ("bbox_head.transformer.decoder.layers.{}.attentions.0.attn.", "location_decoder.layers.{}.self_attention."),
    ("bbox_head.transformer.decoder.layers.{}.attentions.1.", "location_decoder.layers.{}.cross_attention."),
    ("bbox_head.transformer.decoder.layers.{}.ffns.0.layers.0.0.", "location_decoder.layers.{}.ffn.expand."),
    ("bbox_head.transformer.decoder.layers.{}.ffns.0.layers.1.", "location_decoder.layers.{}.ffn.reduce."),
    ("bbox_head.transformer.decoder.layers.{}.norms.0.", "location_decoder.layers.{}.self_norm."),
    ("bbox_head.transformer.decoder.layers.{}.norms.1.", "location_decoder.layers.{}.cross_norm."),
    ("bbox_head.transformer.decoder.layers.{}.norms.2.", "location_decoder.layers.{}.ffn_norm."),
    ("bbox_head.transformer.reference_points.", "location_decoder.reference_points."),
    ("bbox_head.query_embedding.", "location_decoder.queries."),
    ("bbox_head.cls_branches.{}.", "location_decoder.class_branches.{}."),
    ("bbox_head.reg_branches.{}.{}.", "location_decoder.box_branches.{}.{}."),
    *(
        (f"bbox_head.{published}_mask_head.model.layers.{{}}.{a}", f"{ours}.layers.{{}}.{b}")
        for published, ours in _MASK_DECODERS
        for a, b in _MASK_LAYER
    ),
    ("bbox_head.stuff_query.", "stuff_decoder.queries."),
    ("bbox_head.semantic_query.", "semantic_decoder.queries."),
    ("bbox_head.cls_stuff_branches.{}.", "stuff_decoder.existence_branches.{}."),
    ("bbox_head.cls_semantic_branches.{}.", "semantic_decoder.existence_branches.{}."),
    ("bbox_head.semantic_proj.", "semantic_scale."),
    ("bbox_head.memory_proj.layer.{}.", "embedding_head.{}."),
    ("bbox_head.boundary_proj.layer.{}.", "boundary_head.{}."),
)
"""Beginning of a published name, and of the name in `Point2MaskNetwork`; {} is an index. The first that fits counts."""

_DATA = {20: "voc", 80: "coco"}
"""Thing classes -> data set."""
_BACKBONES = {
    "swinl": "layers.2.blocks.17.norm1.weight",
    "r101": "layer3.22.conv1.weight",
    "r50": "layer3.5.conv1.weight",
}
"""Backbone -> a parameter that it has and those below it lack."""


def to_ours(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under the names of `WeaklySupervisedSegmenter`, for loading with `strict=True`.

    Batch counters are dropped, as frozen norms have none; the iteration counter becomes an integer. Raises ValueError
    for a name that no published checkpoint has.
    """
    ours = {}
    for name, value in state_dict.items():
        name = name.removeprefix("module.")
        if name == _PUBLISHED_ITERATION:
            ours[_ITERATION] = value.round().long()
        elif not name.endswith(_BATCH_COUNTER):
            ours[our_name(name)] = value
    return ours


def to_published(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_ours`, with batch counters of 0. Raises ValueError for a name without a published one."""
    published = {}
    for name, value in state_dict.items():
        if name == _ITERATION:
            published[_PUBLISHED_ITERATION] = value.float()
            continue
        published[published_name(name)] = value
        if name.endswith(".running_var"):
            counter = published_name(name).removesuffix(".running_var") + _BATCH_COUNTER
            published[counter] = torch.zeros((), dtype=torch.int64)
    return published


def config_name(state_dict: dict[str, Tensor]) -> str:
    """The config of configs/point2mask/ that a published state dict belongs to, as "voc_r50"; "" where none does."""
    branch = state_dict.get("bbox_head.cls_branches.0.weight")
    data = _DATA.get(0 if branch is None else len(branch), "")
    backbone = next((key for key, name in _BACKBONES.items() if f"backbone.{name}" in state_dict), "")
    return f"{data}_{backbone}" if data and backbone else ""


def our_name(published: str) -> str:
    """The parameter of `WeaklySupervisedSegmenter` that holds the published parameter."""
    if published.startswith("backbone."):
        return "backbone." + _backbone_name(
            published.removeprefix("backbone."), detectron2_name, "published Point2Mask"
        )
    return "head.network." + _renamed(published, _NAMES, "published Point2Mask")


def published_name(ours: str) -> str:
    """The published parameter that holds the parameter of `WeaklySupervisedSegmenter`."""
    if ours.startswith("backbone."):
        return "backbone." + _backbone_name(ours.removeprefix("backbone."), torchvision_name, "Point2Mask")
    inverse = tuple((mine, published) for published, mine in _NAMES)
    return _renamed(ours.removeprefix("head.network."), inverse, "Point2Mask")


def _backbone_name(name: str, rename: Callable[[str], str], kind: str) -> str:
    """Swin's names are the published ones; every name of a ResNet changes."""
    if _SWIN.match(name):
        return name
    renamed = rename(name)
    return renamed if renamed != name else _refuse(f"backbone.{name}", kind)


def _renamed(name: str, names: tuple[tuple[str, str], ...], kind: str) -> str:
    for before, after in names:
        match = re.match(re.escape(before).replace(r"\{\}", r"(\d+)"), name)
        if match:
            return after.format(*match.groups()) + name[match.end() :]
    return _refuse(name, kind)


def _refuse(name: str, kind: str) -> NoReturn:
    raise ValueError(
        f"expected parameters of the {kind} network, found {name!r}. Convert a checkpoint of Point2Mask with a ResNet "
        "or Swin backbone."
    )
