"""SPML's majority label and map of votes, against a loop over segments with a mask of each (card 5.2, 5.3)."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import add_growth, add_timing_arguments, compare, on_cpu
from benchmarks import literal_spml as literal
from weakseg.methods.spml.retrieval import majority_labels, paint, vote_shares
from weakseg.methods.spml.segments import initial_clusters

HELP = "SPML's majority label of segments, and the map of their votes"
CLASSES, NEIGHBOURS = 21, 20
GRID = (12, 12)
REQUIRED_RATIO = 10
_ERROR = 1e-6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing_arguments(parser)
    parser.add_argument(
        "--heights", type=int, nargs="+", default=[96, 192, 384], help="image heights; width is 4/3 of it"
    )


def run(args: argparse.Namespace) -> list[dict]:
    """Rows of the majority label, then of the votes, one a size; the last of each adds by which power of the pixels
    either form grows."""
    rows = []
    for part in ("majority", "votes"):
        table = []
        for height in args.heights:
            forms = Forms(height, height * 4 // 3, args.device)
            comparison = getattr(forms, f"literal_{part}"), getattr(forms, f"our_{part}"), check_results
            name = f"{part}, {forms.count} segments, {height * 4 // 3}x{height}"
            table.append(compare(name, *comparison, pairs=args.pairs, device=args.device))
        rows += add_growth(table, [height**2 for height in args.heights])
        if on_cpu(args.device):
            rows[-1]["required_ratio"] = REQUIRED_RATIO
    return rows


class Forms:
    """Both forms on an image cut into segments. Majority labels are (S,), maps of votes (K, n)."""

    def __init__(self, height: int, width: int, device: str):
        generator = torch.Generator().manual_seed(0)
        self.segment = initial_clusters(height, width, GRID, device=device).flatten()
        self.count = int(self.segment.max()) + 1
        self.everywhere = torch.ones(height, width, dtype=torch.bool, device=device)
        coarse = torch.randn(1, CLASSES, 9, 12, generator=generator)
        noise = torch.randn(1, CLASSES, height, width, generator=generator)
        self.labels = (F.interpolate(coarse, size=(height, width)) + 0.3 * noise)[0].argmax(0).flatten().to(device)
        self.neighbours = torch.randint(CLASSES, (self.count, NEIGHBOURS), generator=generator).to(device)

    def literal_majority(self) -> Tensor:
        return literal.majority_labels(self.labels, self.segment, self.count)

    def our_majority(self) -> Tensor:
        return majority_labels(self.labels, self.segment, self.count)

    def literal_votes(self) -> Tensor:
        return literal.vote_map(self.neighbours, self.segment, CLASSES)

    def our_votes(self) -> Tensor:
        return paint(vote_shares(self.neighbours, CLASSES), self.segment, self.everywhere).flatten(1)


def check_results(expected: Tensor, found: Tensor) -> None:
    error = float((expected - found).abs().max())
    if not error <= _ERROR:
        raise ValueError(f"expected equal labels and shares; found a difference of {error:.1e}.")
