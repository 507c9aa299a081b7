"""Caffe's solver: SGD with the learning rate inside the momentum buffer, and its polynomial decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from fvcore.common.param_scheduler import ParamScheduler


class CaffeMomentumSGD(torch.optim.Optimizer):
    """buffer <- momentum * buffer + lr * (gradient + weight_decay * weight);  weight <- weight - buffer.

    In torch's SGD a change of the learning rate also scales what the buffer has from before; here it does not. A
    parameter without a gradient is skipped, decay included. (SPML card 4.1.)
    """

    def __init__(self, params: Iterable, lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns what `closure` returns, which is called first and with gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if "buffer" not in self.state[weight]:
                    self.state[weight]["buffer"] = torch.zeros_like(weight)
            buffers = [self.state[weight]["buffer"] for weight in weights]
            gradients = torch._foreach_add([w.grad for w in weights], weights, alpha=group["weight_decay"])
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, gradients, alpha=group["lr"])
            torch._foreach_sub_(weights, buffers)
        return loss


class PolynomialSchedule(ParamScheduler):
    """Multiplier (1 - t / T)^power of the base rate, and in the first iterations not above a linear ramp from
    `warmup_factor` to 1 (SPML card 4.2)."""

    def __init__(self, power: float = 0.9, *, warmup_length: float = 0.0, warmup_factor: float = 0.1):
        """warmup_length: iterations of the ramp divided by T."""
        self.power = power
        self.warmup_length = warmup_length
        self.warmup_factor = warmup_factor

    def __call__(self, where: float) -> float:
        """where: t / T; 0 from 1 on."""
        decayed = max(1 - where, 0.0) ** self.power
        if where >= self.warmup_length:
            return decayed
        done = where / self.warmup_length
        return min(self.warmup_factor * (1 - done) + done, decayed)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """The scheduler `SOLVER.LR_SCHEDULER_NAME`: "PolynomialLR", with SOLVER.WARMUP_ITERS and WARMUP_FACTOR, or one of
    Detectron2's."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "PolynomialLR":
        return build_detectron2_lr_scheduler(cfg, optimizer)
    schedule = PolynomialSchedule(
        warmup_length=solver.WARMUP_ITERS / solver.MAX_ITER, warmup_factor=solver.WARMUP_FACTOR
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)
