"""SPML's retrieval: the labels of the 20 nearest of a memory's prototypes, against full sorts (card 5.3)."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import add_growth, add_timing_arguments, compare, on_cpu
from benchmarks import literal_spml as literal
from weakseg.methods.spml.retrieval import nearest_labels

HELP = "SPML's nearest prototypes of the segments of an image"
CHANNELS, CLASSES, NEIGHBOURS = 64, 21, 20
REQUIRED_RATIO = 10
_EQUAL_SHARE = 0.99  # where two similarities are equal up to rounding, either prototype may be the 20th


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing_arguments(parser)
    parser.add_argument(
        "--prototypes", type=int, nargs="+", default=[50_000, 100_000, 200_000], help="prototypes of the memory"
    )
    parser.add_argument("--segments", type=int, default=144, help="segments of the image")


def run(args: argparse.Namespace) -> list[dict]:
    """One row a size of the memory; the last adds by which power of it either form grows."""
    rows = []
    for prototypes in args.prototypes:
        forms = Forms(args.segments, prototypes, args.device)
        name = f"{args.segments} segments, {prototypes} prototypes"
        timing = {"pairs": args.pairs, "device": args.device}
        rows.append(compare(name, forms.literal, forms.ours, check_labels, **timing))
    rows = add_growth(rows, args.prototypes)
    if on_cpu(args.device):
        rows[-1]["required_ratio"] = REQUIRED_RATIO
    return rows


class Forms:
    """Both forms on prototypes around random directions of their classes. Each returns labels (S, 20)."""

    def __init__(self, segments: int, prototypes: int, device: str):
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(CLASSES, (segments + prototypes,), generator=generator)
        directions = torch.randn(CLASSES, CHANNELS, generator=generator)[labels]
        noise = torch.randn(len(labels), CHANNELS, generator=generator)
        vectors = F.normalize(directions + noise, dim=1).to(device)
        self.queries, self.memory = vectors.split([segments, prototypes])
        self.labels = labels[segments:].to(device)

    def literal(self) -> Tensor:
        return literal.nearest_labels(self.queries, self.memory, self.labels, NEIGHBOURS)

    def ours(self) -> Tensor:
        return nearest_labels(self.queries, self.memory, self.labels, neighbours=NEIGHBOURS)


def check_labels(expected: Tensor, found: Tensor) -> None:
    """The same labels in nearly every row; of equally similar prototypes either may come first."""
    share = float((expected.sort(1)[0] == found.sort(1)[0]).all(1).double().mean())
    if not share >= _EQUAL_SHARE:
        raise ValueError(f"expected equal neighbours of {_EQUAL_SHARE:.0%} of the segments; found {share:.1%}.")
