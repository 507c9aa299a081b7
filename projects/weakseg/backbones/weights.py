"""Start a backbone from a local file of published weights (`MODEL.BACKBONE.WEIGHTS`)."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from detectron2.modeling import Backbone, ResNet
from torch import Tensor

from weakseg.backbones.deep_stem_resnet import DeepStemResNet, from_imagenet
from weakseg.backbones.swin import SwinBackbone, resize_position_table
from weakseg.backbones.timm_backbone import TimmBackbone
from weakseg.backbones.torchvision_names import from_torchvision
from weakseg.weights import read_checkpoint

logger = logging.getLogger(__name__)

_COMPUTED = ("num_batches_tracked", "relative_position_index")
"""Buffers that a network counts or computes itself."""
_POSITION_TABLE = "relative_position_bias_table"


def load_backbone_weights(backbone: Backbone, path: str | Path) -> None:
    """Copy the weights of `path` into `backbone`, in place.

    A Detectron2 `ResNet` takes torchvision's key names, a `TimmBackbone` those of timm, a `SwinBackbone` and a
    `DeepStemResNet` those of the published ImageNet files, and any backbone its own. What the file holds besides (a
    classifier) is left out. Raises ValueError when a parameter or statistic of the backbone is missing in the file, or
    has another shape there; but a Swin's position tables are resized to its window, and its norms of the maps, which no
    classifier has, may be new.
    """
    weights = _read(path)
    target = backbone.network if isinstance(backbone, TimmBackbone) else backbone
    if isinstance(backbone, DeepStemResNet) and "conv1.0.weight" in weights:
        weights = from_imagenet(weights)
    elif isinstance(backbone, ResNet) and "layer1.0.conv1.weight" in weights:
        weights = from_torchvision(weights)
    if isinstance(backbone, SwinBackbone):
        weights = _with_tables_of_window(weights, backbone.window_size)
    # A feature network of timm may hold "stages.0" as "stages_0": dots and underscores are the same here.
    found = {_flat(name): value for name, value in weights.items() if isinstance(value, Tensor)}
    wanted = {name: value for name, value in target.state_dict().items() if not name.endswith(_COMPUTED)}
    new = [name for name in wanted if _flat(name) not in found and _may_be_new(name, backbone)]
    for name in new:
        del wanted[name]
    fitting = {name: found[_flat(name)] for name in wanted if _flat(name) in found}
    fitting = {name: value for name, value in fitting.items() if value.shape == wanted[name].shape}
    missing = sorted(set(wanted) - set(fitting))
    if missing:
        raise ValueError(
            f"{path}: expected {len(wanted)} parameters of the backbone, found {len(fitting)}, and {len(missing)} are "
            f"missing or of another shape, the first is {missing[0]}. Choose the file of this very network."
        )
    target.load_state_dict(fitting, strict=False)
    logger.info("Backbone: loaded %d tensors of %s, left out %d.", len(fitting), path, len(found) - len(fitting))
    if new:
        logger.info("Backbone: not in the file, so these start new: %s.", ", ".join(new))


def _read(path: str | Path) -> dict[str, Any]:
    weights = read_checkpoint(path)
    for wrapper in ("state_dict", "model"):
        weights = weights.get(wrapper, weights)
    return weights


def _with_tables_of_window(weights: dict[str, Any], window_size: int) -> dict[str, Any]:
    """The published Swin-L comes for windows of 12, detectors use 7 (Point2Mask card, fault w)."""
    length = (2 * window_size - 1) ** 2
    tables = {name: value for name, value in weights.items() if name.endswith(_POSITION_TABLE)}
    resized = {
        name: resize_position_table(table, window_size)
        for name, table in tables.items()
        if len(table) != length and math.isqrt(len(table)) ** 2 == len(table)
    }
    if resized:
        logger.info("Backbone: resized %d position tables to windows of %d.", len(resized), window_size)
    return weights | resized


def _may_be_new(name: str, backbone: Backbone) -> bool:
    return isinstance(backbone, SwinBackbone) and name.startswith("norm")


def _flat(name: str) -> str:
    return name.replace(".", "_")
