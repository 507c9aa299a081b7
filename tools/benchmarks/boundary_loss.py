"""Boundary loss, forward and backward, against the literal form of the card (3.9) with one-hot instance masks."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks import add_growth, add_size_arguments, add_timing_arguments, compare, on_cpu
from benchmarks import literal_boundary_loss as literal
from benchmarks.scenes import Scene, make_scene
from weakseg.methods.point2mask.embedding_losses import boundary_loss

HELP = "boundary loss, forward and backward"
REQUIRED_RATIO = 10
_RELATIVE_ERROR = 1e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing_arguments(parser)
    add_size_arguments(parser, heights=(300, 450, 600))


def run(args: argparse.Namespace) -> list[dict]:
    """One row a size; the last adds by which power of the number of pixels either form grows."""
    rows = []
    for height in args.heights:
        forms = Forms(make_scene(height, height * 4 // 3, things=args.things, device=args.device))
        name = f"boundary loss, {height * 4 // 3}x{height}"
        rows.append(compare(name, forms.literal, forms.ours, check_results, pairs=args.pairs, device=args.device))
    rows = add_growth(rows, [height**2 for height in args.heights])
    if on_cpu(args.device):
        rows[-1]["required_ratio"] = REQUIRED_RATIO
    return rows


class Forms:
    """Both forms on the true segments of a scene. Each returns the loss and its gradient."""

    def __init__(self, scene: Scene):
        self.scene = scene
        # The release's pseudo labels are masks, ours a map of owners: each form gets its own.
        self.masks = [
            (owner == torch.arange(len(labels), device=owner.device)[:, None, None]).float()
            for owner, labels in zip(scene.owner, scene.classes)
        ]
        self.owners = list(scene.owner)

    def literal(self) -> tuple[Tensor, Tensor]:
        logits = self.scene.boundary.detach().requires_grad_()
        loss = literal.boundary_loss(logits, self.masks, self.scene.semantic, num_things=self.scene.num_things)
        return loss.detach(), *torch.autograd.grad(loss, logits)

    def ours(self) -> tuple[Tensor, Tensor]:
        logits = self.scene.boundary.detach().requires_grad_()
        loss = boundary_loss(
            logits,
            self.owners,
            self.scene.semantic,
            num_things=self.scene.num_things,
            image_sizes=self.scene.image_sizes,
            official=True,
        )
        return loss.detach(), *torch.autograd.grad(loss, logits)


def check_results(literal_result: tuple[Tensor, Tensor], our_result: tuple[Tensor, Tensor]) -> None:
    """Equal loss and gradient, up to rounding."""
    for expected, found in zip(literal_result, our_result):
        error = float((expected - found).norm() / expected.norm())
        if not error <= _RELATIVE_ERROR:
            raise ValueError(
                f"expected loss and gradient equal to {_RELATIVE_ERROR}; found relative error {error:.1e}."
            )
