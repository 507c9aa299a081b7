"""From the head's parameter groups to an optimiser, and the clipping of its gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import nn

from weakseg.engine.caffe_sgd import CaffeMomentumSGD

OPTIMIZER_REGISTRY = Registry("OPTIMIZER")
OPTIMIZER_REGISTRY.__doc__ = """
Optimisers by the name in `SOLVER.OPTIMIZER`. An entry is called as `entry(groups, solver)`: torch's parameter groups
with their own `lr` and `weight_decay`, and the node `cfg.SOLVER`.
"""


@OPTIMIZER_REGISTRY.register()
def AdamW(groups: list[dict], solver: CfgNode) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)


@OPTIMIZER_REGISTRY.register()
def SGD(groups: list[dict], solver: CfgNode) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
    )


@OPTIMIZER_REGISTRY.register()
def CaffeSGD(groups: list[dict], solver: CfgNode) -> torch.optim.Optimizer:
    return CaffeMomentumSGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser `SOLVER.OPTIMIZER` over `model.parameter_groups()`; a group's learning rate and weight decay are
    `SOLVER.BASE_LR` and `SOLVER.WEIGHT_DECAY` times its "lr_mult" and "decay_mult"."""
    name = cfg.SOLVER.OPTIMIZER
    if name not in OPTIMIZER_REGISTRY:
        known = ", ".join(sorted(entry for entry, _ in OPTIMIZER_REGISTRY))
        raise ValueError(f"SOLVER.OPTIMIZER: expected one of {known}; found {name!r}. Choose one of them.")
    groups: list[dict] = model.parameter_groups()  # type: ignore[operator]
    _check_groups(groups, model)
    groups = [
        {
            "params": list(group["params"]),
            "lr": cfg.SOLVER.BASE_LR * group["lr_mult"],
            "weight_decay": cfg.SOLVER.WEIGHT_DECAY * group["decay_mult"],
        }
        for group in groups
        if len(group["params"])
    ]
    return OPTIMIZER_REGISTRY.get(name)(groups, cfg.SOLVER)


def _check_groups(groups: list[dict], model: nn.Module) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    counts = Counter(id(parameter) for group in groups for parameter in group["params"])
    faults = {
        "in no group": [name for key, name in names.items() if key not in counts],
        "in several places": [name for key, name in names.items() if counts[key] > 1],
        "in a group, but frozen or of another model": ["a parameter"] * len(counts.keys() - names.keys()),
    }
    found = "; ".join(f"{len(which)} {fault} ({which[0]}, ...)" for fault, which in faults.items() if which)
    if not names:
        found = "no trainable parameter at all"
    if found:
        raise ValueError(
            f"{type(model).__name__}.parameter_groups: expected every trainable parameter exactly once; found {found}. "
            "Correct the head's parameter_groups, or what it freezes."
        )


def build_gradient_clipper(cfg: CfgNode) -> Callable[[Iterable[nn.Parameter]], None] | None:
    """The function that clips all gradients in place after they were unscaled, from `SOLVER.CLIP_GRADIENTS`; None where
    that is off. CLIP_TYPE "full_model" bounds the norm over all parameters together, Detectron2's own "norm" bounds
    that of each parameter, "value" each number. Parameters without a gradient are left out."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    limit, norm = clip.CLIP_VALUE, clip.NORM_TYPE

    def full_model(parameters: Iterable[nn.Parameter]) -> None:
        nn.utils.clip_grad_norm_(parameters, limit, norm)

    def each_norm(parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            nn.utils.clip_grad_norm_(parameter, limit, norm)

    def each_value(parameters: Iterable[nn.Parameter]) -> None:
        nn.utils.clip_grad_value_(parameters, limit)

    clippers = {"full_model": full_model, "norm": each_norm, "value": each_value}
    if not clip.ENABLED:
        return None
    if clip.CLIP_TYPE not in clippers:
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE: expected one of {', '.join(clippers)}; found {clip.CLIP_TYPE!r}. "
            "Choose one of them."
        )
    return clippers[clip.CLIP_TYPE]
