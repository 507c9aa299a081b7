"""SPML's random walk of 64 steps, with the affinity that it needs, against six squarings of the matrix (card 3.11)."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import add_growth, add_timing_arguments, compare, on_cpu
from benchmarks import literal_spml as literal
from weakseg.refine.random_walk import random_walk, transition_matrix

HELP = "SPML's random walk from the embeddings of two views on"
CHANNELS, CLASSES, PRESENT = 64, 21, 3
REQUIRED_RATIO = 5
_ERROR = 5e-5  # the published float32 sums of columns, 64 times over


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing_arguments(parser)
    parser.add_argument(
        "--heights", type=int, nargs="+", default=[150, 225, 375], help="image heights; width is 4/3 of it"
    )


def run(args: argparse.Namespace) -> list[dict]:
    """One row a size; the last adds by which power of the number of cells either form grows."""
    rows, cells = [], []
    for height in args.heights:
        forms = Forms(height, height * 4 // 3, args.device)
        cells.append(forms.scores[0].numel())
        name = f"{height * 4 // 3}x{height}, {cells[-1]} cells, {PRESENT} of {CLASSES} classes"
        # Weights of cells that look different are denormal, where a CPU is slow and a GPU is not: an unfair advantage.
        torch.set_flush_denormal(True)
        try:
            timing = {"pairs": args.pairs, "device": args.device}
            rows.append(compare(name, forms.literal, forms.ours, check_scores, **timing))
        finally:
            torch.set_flush_denormal(False)
    rows = add_growth(rows, cells)
    if on_cpu(args.device):
        rows[-1]["required_ratio"] = REQUIRED_RATIO
    return rows


class Forms:
    """Both forms on embeddings of an image and its mirror image, at stride 4. Each returns scores (K, h, w)."""

    def __init__(self, height: int, width: int, device: str):
        generator = torch.Generator().manual_seed(0)

        def smooth(channels: int, size: tuple[int, int]) -> Tensor:
            coarse = torch.randn(1, channels, 6, 8, generator=generator)
            return F.interpolate(coarse, size=size, mode="bicubic")[0]

        self.size = (height // 8, width // 8)
        embedding = smooth(CHANNELS, (height // 4, width // 4)) + 0.5 * torch.randn(CHANNELS, 1, 1, generator=generator)
        noise = torch.randn(2, *embedding.shape, generator=generator)
        self.embeddings = [(embedding + 0.1 * n).to(device) for n in noise]
        self.scores = torch.zeros(CLASSES, *self.size, device=device)
        self.scores[:PRESENT] = smooth(PRESENT, self.size).softmax(0)

    def literal(self) -> Tensor:
        return literal.walk(self.scores, literal.affinity(self.embeddings, self.size))

    def ours(self) -> Tensor:
        return random_walk(self.scores, transition_matrix(self.embeddings, self.size))


def check_scores(expected: Tensor, found: Tensor) -> None:
    error = float((expected - found).abs().max())
    if not error <= _ERROR:
        raise ValueError(f"expected scores equal to {_ERROR}; found a difference of {error:.1e}.")
