"""Batch normalisation whose statistics are those of the whole batch, however it is spread over processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed
from detectron2.utils import comm
from fvcore.nn.distributed import differentiable_all_gather
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as _SyncBatchNormOnGPU


def batch_norm(kind: str, *, momentum: float = 0.1) -> Callable[[int], nn.Module]:
    """Function of the number of channels that makes a norm. kind: "BN", each process on its own, or "SyncBN"."""
    kinds = {"BN": nn.BatchNorm2d, "SyncBN": SyncBatchNorm}
    if kind not in kinds:
        raise ValueError(f"norm: expected {' or '.join(kinds)}; found {kind!r}. Set MODEL.RESNETS.NORM to one of them.")
    return partial(kinds[kind], momentum=momentum)


class SyncBatchNorm(nn.BatchNorm2d):
    """`nn.SyncBatchNorm` for every device, with the same keys.

    On a GPU several processes use torch's kernels. On the CPU torch has none (and its DDP refuses the class), and
    Detectron2's NaiveSyncBatchNorm weighs processes alike and keeps the biased variance; so this one has its own form.
    A rank may have no pixel. A channel of one single value, as a batch of one pooled to 1 x 1 has, becomes the bias and
    leaves the running variance, which one value says nothing about, as it is.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1, official: bool = False):
        """official: several processes clamp the variance at eps instead of adding eps (SPML card, fault z)."""
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.official = official

    def forward(self, input: Tensor) -> Tensor:
        """input (B, C, H, W) of any floating type; statistics in fp32. Returns the same shape and type."""
        together = comm.get_world_size() > 1
        if not self.training or (not together and input.numel() > input.shape[1]):
            return super().forward(input)
        if together and input.is_cuda and not self.official:
            return self._on_gpu(input)
        mean, variance = self._update(input.float())
        scale = (variance.clamp(min=self.eps) if together and self.official else variance + self.eps).rsqrt()
        centred = input.float() - _per_channel(mean)
        return (centred * _per_channel(scale * self.weight) + _per_channel(self.bias)).to(input.dtype)

    def _on_gpu(self, input: Tensor) -> Tensor:
        self.num_batches_tracked += 1
        return _SyncBatchNormOnGPU.apply(
            input,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.eps,
            self.momentum,
            torch.distributed.group.WORLD,
            comm.get_world_size(),
        )

    def _update(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (C,) over all processes, with gradient; moves the running statistics."""
        here = values.numel() // values.shape[1]
        if here:
            variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        else:
            # Still a function of the input: a rank without it would not join the collective of the backward pass.
            variance = mean = values.sum((0, 2, 3))
        local = torch.stack([mean, variance, torch.full_like(mean, here)])
        means, variances, counts = torch.stack(differentiable_all_gather(local)).unbind(1)
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count.clamp(min=1)
        variance = (counts * (variances + (means - mean).square())).sum(0) / count.clamp(min=1)
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean, self.momentum * (count > 0))
            self.running_var.lerp_(unbiased, self.momentum * (count > 1))
        return mean, variance


def _per_channel(vector: Tensor) -> Tensor:
    return vector[:, None, None]
