"""Colour prior and tree loss of six decoder layers, forward and backward, against the card's literal form (3.2)."""

from __future__ import annotations

import argparse
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import add_growth, add_size_arguments, add_timing_arguments, compare, on_cpu
from benchmarks import literal_color_losses as literal
from benchmarks.scenes import Scene, make_scene
from weakseg.layers.color import denormalize, rgb_to_lab
from weakseg.methods.point2mask.semantic_losses import color_affinity, color_prior_loss, color_tree, tree_loss_sum

HELP = "colour prior and tree loss of six layers, forward and backward"
LAYERS = 6
CLASSES = {
    "21 classes": {"num_things": 20, "num_stuff": 1, "thing_classes": 5, "stuff_classes": 1},
    "133 classes, 6 present": {"num_things": 80, "num_stuff": 53, "thing_classes": 4, "stuff_classes": 2},
}
REQUIRED_RATIO = 4
_LOSS_ERROR = 1e-3  # relative, of each layer's loss
_GRADIENT_ERROR = 1e-2  # relative to its norm: where a pixel equals its filtered value, rounding decides the sign


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing_arguments(parser)
    add_size_arguments(parser, heights=(300, 450, 600))


def run(args: argparse.Namespace) -> list[dict]:
    """One row a number of classes, form and size; the last of each adds by which power of the pixels either grows."""
    rows = []
    for (name, counts), present_only in product(CLASSES.items(), (False, True)):
        table = []
        for height in args.heights:
            scene = make_scene(height, height * 4 // 3, things=args.things, device=args.device, **counts)
            forms = Forms(scene, present_only=present_only)
            variant = "present classes and the sum of all others" if present_only else "all classes"
            title = f"{name}, {variant} filtered by both, {height * 4 // 3}x{height} / 8"
            timing = {"pairs": args.pairs, "device": args.device}
            table.append(compare(title, forms.literal, forms.ours, check_results, **timing))
        rows += add_growth(table, [height**2 for height in args.heights])
        if on_cpu(args.device) and not present_only:
            rows[-1]["required_ratio"] = REQUIRED_RATIO
    return rows


class Forms:
    """Both forms on one scene. Each returns the losses (2, L), colour prior and tree, and the gradient of their sum.

    The published loss filters every class. With `present_only` both are the corrected one, which filters the classes
    present in an image and the sum of all others.
    """

    def __init__(self, scene: Scene, *, present_only: bool):
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(LAYERS, *scene.logits.shape, generator=generator).to(scene.logits.device)
        self.logits = (scene.logits + 0.3 * noise).clamp(min=0)
        self.images = scene.image
        self.present = scene.dilated().present if present_only else None

    def literal(self) -> tuple[Tensor, Tensor]:
        # Layer by layer backwards too: what one layer stored is gone before the next, which is kinder than the release.
        losses, gradients = [], []
        for logits in self.logits:
            logits = logits.detach().requires_grad_()
            small = F.interpolate(self.images, logits.shape[-2:], mode="bilinear", align_corners=False)
            layer = literal.color_prior(logits, small), self._literal_tree_loss(logits.softmax(dim=1), small)
            gradients += torch.autograd.grad(sum(layer), logits)
            losses.append(torch.stack(layer).detach())
        return torch.stack(losses, dim=1), torch.stack(gradients)

    def _literal_tree_loss(self, probability: Tensor, small: Tensor) -> Tensor:
        if self.present is None:
            return literal.tree_loss(probability, small)
        known = [values[is_present] for values, is_present in zip(probability, self.present)]
        channels = [torch.cat([values, 1 - values.sum(dim=0, keepdim=True)])[None] for values in known]
        return sum(map(literal.tree_loss, channels, small.split(1)))

    def ours(self) -> tuple[Tensor, Tensor]:
        logits = self.logits.detach().requires_grad_()
        small = F.interpolate(self.images, logits.shape[-2:], mode="bilinear", align_corners=False)
        mean, std = (small.new_tensor(values) for values in (literal.PIXEL_MEAN, literal.PIXEL_STD))
        lab = rgb_to_lab(denormalize(small, mean, std) / 255)
        color = color_prior_loss(logits, color_affinity(lab, official=True))
        tree = tree_loss_sum(logits, *color_tree(small), present=self.present)
        (gradient,) = torch.autograd.grad(color.sum() + tree.sum(), logits)
        return torch.stack([color, tree]).detach(), gradient


def check_results(literal_result: tuple[Tensor, Tensor], our_result: tuple[Tensor, Tensor]) -> None:
    """Equal losses of each layer and equal gradients, up to rounding."""
    (losses, gradient), (our_losses, our_gradient) = literal_result, our_result
    loss_error = float(((losses - our_losses).abs() / losses.abs().clamp(min=1e-12)).max())
    gradient_error = float((gradient - our_gradient).norm() / gradient.norm())
    if not (loss_error <= _LOSS_ERROR and gradient_error <= _GRADIENT_ERROR):
        raise ValueError(
            f"expected losses equal to {_LOSS_ERROR} and gradients to {_GRADIENT_ERROR}; found relative errors "
            f"{loss_error:.1e} and {gradient_error:.1e}."
        )
