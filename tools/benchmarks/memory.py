"""Memory that a training step keeps for its backward pass: the sum of saved tensors, or the peak of a GPU."""

from __future__ import annotations

import argparse
import resource

import torch
from torch import Tensor, nn

from benchmarks.model import add_model_arguments, build_model, scene_of, training_batch

HELP = "memory of one training step"
GIB = 2**30
ALLOWED_GIB = {False: 12, True: 8}
"""By use of half precision; two images of 800 x 1333, R50, 133 classes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, height=800, width=1333, images=2)
    parser.set_defaults(classes="coco")
    parser.add_argument("--amp", action="store_true", help="bfloat16 by autocast")
    parser.add_argument("--gradient-checkpointing", action="store_true")


def run(args: argparse.Namespace) -> list[dict]:
    """One row: the sum of distinct saved tensors, parameters excluded. On the CPU also the resident peak of this
    process with all that it holds; on a GPU the peak of what was allocated, parameters and gradients included."""
    if args.gradient_checkpointing:
        args.opts = [*args.opts, "MODEL.POINT2MASK.GRADIENT_CHECKPOINTING", "True"]
    model = build_model(args).train()
    batch = training_batch(scene_of(args), model)
    device = torch.device(args.device)
    saved = SavedTensors(model)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=args.amp), saved:
        total = sum(model(batch).values())
    total.backward()
    size = f"{args.images} x {args.width}x{args.height}, {args.classes}"
    variant = (", AMP" if args.amp else "") + (", checkpointing" if args.gradient_checkpointing else "")
    row = {
        "name": f"step of {size}{variant}",
        "saved_gib": saved.bytes / GIB,
        "parameters_gib": sum(parameter.nbytes for parameter in model.parameters()) / GIB,
    }
    if device.type == "cuda":
        row["allocated_peak_gib"] = torch.cuda.max_memory_allocated(device) / GIB
    else:
        row["resident_peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    return [row | {"allowed_gib": ALLOWED_GIB[args.amp]}]


class SavedTensors(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes of what is saved for the backward pass while it is entered: each storage once, parameters and
    buffers of the model not at all. Layers that are recomputed in the backward pass are not seen twice."""

    def __init__(self, model: nn.Module):
        super().__init__(self._count, lambda tensor: tensor)
        self._own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
        self._storages: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        return sum(self._storages.values())

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor
