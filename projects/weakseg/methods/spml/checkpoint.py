"""The parameter names of the published checkpoints, and ours (SPML card 10)."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from torch import Tensor

from weakseg.backbones import deep_stem_resnet

_EMBEDDING, _PREDICTION = "embedding_model.", "prediction_model."
_BACKBONE = _EMBEDDING + "resnet_backbone."
_STEM = "conv1."
"""Where the published network keeps the stem of the ImageNet file, all of whose other names are below."""

_NAMES = (
    (_EMBEDDING + "aspp.aspp_{}.0.", "head.network.embedding_head.branches.{}."),
    (_EMBEDDING + "pspp.0.pspp_{}.1.", "head.network.embedding_head.pooling.levels.{}.0."),
    (_EMBEDDING + "pspp.0.pspp_{}.2.", "head.network.embedding_head.pooling.levels.{}.1."),
    (_EMBEDDING + "pspp.0.conv.0.", "head.network.embedding_head.pooling.mix.0."),
    (_EMBEDDING + "pspp.0.conv.1.", "head.network.embedding_head.pooling.mix.1."),
    (_EMBEDDING + "pspp.1.", "head.network.embedding_head.project."),
    (_EMBEDDING + "lfn.smooth_kernel.", "head.network.colors.smooth_kernel."),
    (_PREDICTION + "semantic_classifier.0.", "head.network.classifier.conv."),
    (_PREDICTION + "semantic_classifier.1.", "head.network.classifier.norm."),
    (_PREDICTION + "semantic_classifier.4.", "head.network.classifier.predict."),
)
"""Beginning of a published name, and of ours; {} is an index, published from 1, ours from 0."""

_CONFIGS = {
    "voc_point_classifier": ("aspp.aspp_1.0.weight", 21, 128),
    "densepose_point_classifier": ("lfn.smooth_kernel.weight", 15, 64),
}
"""Config -> a tensor of its embedding that others lack; number of classes, and channels that they are told by."""


def join_parts(content: dict[str, Any]) -> dict[str, Tensor]:
    """One state dict of a published file's two, {"embedding_model": ..., "prediction_model": ...}, whose names begin
    with the part; without the "module." of data-parallel training. Other entries of the file are left out."""
    return {
        f"{part}{name.removeprefix('module.')}": value
        for part in (_EMBEDDING, _PREDICTION)
        for name, value in content.get(part[:-1], {}).items()
    }


def split_parts(state_dict: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `join_parts`: the content of a published file."""
    return {
        part[:-1]: {name.removeprefix(part): value for name, value in state_dict.items() if name.startswith(part)}
        for part in (_EMBEDDING, _PREDICTION)
    }


def to_ours(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict (see `join_parts`) under the names of `WeaklySupervisedSegmenter`, for loading with
    `strict=True`. Raises ValueError for a name that no published checkpoint has."""
    return {our_name(name): value for name, value in state_dict.items()}


def to_published(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_ours`. Raises ValueError for a name without a published one."""
    return {published_name(name): value for name, value in state_dict.items()}


def config_name(state_dict: dict[str, Tensor]) -> str:
    """The config of configs/spml/ that a published state dict belongs to; "" where none does. All rows of VOC have the
    same tensors and their classifiers predict in the same way; that of points stands for them."""
    predict = state_dict.get(_PREDICTION + "semantic_classifier.4.weight")
    if predict is None or _BACKBONE + "res4.22.conv1.weight" not in state_dict:
        return ""
    for config, (tensor, *sizes) in _CONFIGS.items():
        if _EMBEDDING + tensor in state_dict and list(predict.shape[:2]) == sizes:
            return config
    return ""


def our_name(published: str) -> str:
    """The tensor of `WeaklySupervisedSegmenter` that holds the published "embedding_model..." or
    "prediction_model..."."""
    if published.startswith(_BACKBONE):
        name = published.removeprefix(_BACKBONE)
        # "res3.0..." is "layer2.0..." in the ImageNet file; the stem has a level more than there.
        name = re.sub(r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", name.removeprefix(_STEM))
        renamed = deep_stem_resnet.our_name(name)
        return "backbone." + renamed if renamed != name else _refuse(published)
    for theirs, ours in _NAMES:
        match = _match(theirs, published)
        if match:
            return ours.format(*(int(index) - 1 for index in match.groups())) + published[match.end() :]
    _refuse(published)


def published_name(ours: str) -> str:
    """The published tensor that holds the one of `WeaklySupervisedSegmenter`."""
    if ours.startswith("backbone."):
        name = deep_stem_resnet.imagenet_name(ours.removeprefix("backbone."))
        if name.startswith("layer"):
            return _BACKBONE + re.sub(r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", name)
        return _BACKBONE + _STEM + name if name != ours.removeprefix("backbone.") else _refuse(ours)
    for theirs, mine in _NAMES:
        match = _match(mine, ours)
        if match:
            return theirs.format(*(int(index) + 1 for index in match.groups())) + ours[match.end() :]
    _refuse(ours)


def _match(beginning: str, name: str) -> re.Match | None:
    return re.match(re.escape(beginning).replace(r"\{\}", r"(\d+)"), name)


def _refuse(name: str) -> NoReturn:
    raise ValueError(
        f"expected tensors of the SPML network, found {name!r}. Convert a checkpoint of SPML with a deep-stem ResNet."
    )
