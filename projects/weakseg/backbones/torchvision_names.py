"""The parameter names of torchvision's ResNets, in which most published weights are stored, and Detectron2's."""

from __future__ import annotations

import re

_TO_DETECTRON2 = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d+)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)
_TO_TORCHVISION = (
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.conv1\.", "conv1."),
    (r"^res(\d+)\.", lambda match: f"layer{int(match[1]) - 1}."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
)


def detectron2_name(torchvision_name: str) -> str:
    """ "layer1.0.bn2.weight" to "res2.0.conv2.norm.weight"."""
    return _rename(torchvision_name, _TO_DETECTRON2)


def torchvision_name(detectron2_name: str) -> str:
    """ "res2.0.conv2.norm.weight" to "layer1.0.bn2.weight"."""
    return _rename(detectron2_name, _TO_TORCHVISION)


def from_torchvision(state_dict: dict) -> dict:
    """A torchvision ResNet's state dict under Detectron2's names, without the classifier `fc`, and without the batch
    counters, which Detectron2's frozen norms do not have."""
    return {
        detectron2_name(name): value
        for name, value in state_dict.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }


def _rename(name: str, rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
