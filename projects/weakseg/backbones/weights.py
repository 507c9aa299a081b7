"""Start a backbone from a local file of published weights (`MODEL.BACKBONE.WEIGHTS`)."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from detectron2.modeling import Backbone, ResNet

from weakseg.backbones.timm_backbone import TimmBackbone
from weakseg.backbones.torchvision_names import from_torchvision
from weakseg.safe_io import read_weights

logger = logging.getLogger(__name__)


def load_backbone_weights(backbone: Backbone, path: str | Path) -> None:
    """Copy the weights of `path` into `backbone`, in place.

    A Detectron2 `ResNet` takes torchvision's key names, a `TimmBackbone` those of timm, and any backbone its own. What
    the file holds besides (a classifier) is left out. Raises ValueError when a parameter or statistic of the backbone
    is missing in the file, or has another shape there.
    """
    weights = read_weights(path)
    for wrapper in ("state_dict", "model"):
        weights = weights.get(wrapper, weights)
    if isinstance(backbone, ResNet) and "layer1.0.conv1.weight" in weights:
        weights = from_torchvision(weights)
    target = backbone.network if isinstance(backbone, TimmBackbone) else backbone
    # A feature network of timm may hold "stages.0" as "stages_0": dots and underscores are the same here.
    found = {_flat(name): value for name, value in weights.items() if isinstance(value, torch.Tensor)}
    wanted = {name: value for name, value in target.state_dict().items() if not name.endswith("num_batches_tracked")}
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


def _flat(name: str) -> str:
    return name.replace(".", "_")
