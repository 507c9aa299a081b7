"""SPML's clustering of a batch against the literal form of the card (3.3): image by image, recorded by autograd."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import add_growth, add_timing_arguments, compare, on_cpu
from benchmarks import literal_spml as literal
from weakseg.methods.spml.local_features import position_features
from weakseg.methods.spml.segments import combine_labels, find_segments, initial_clusters, spherical_kmeans

HELP = "SPML's k-means of a batch, and its segments"
CHANNELS, ITERATIONS = 64, 10
STRIDE = {"stride-4 map": (4, 6), "full map": (1, 12)}
"""Of the map that is clustered, with the clusters along a side of the grid: those of training and of inference."""
REQUIRED_RATIO = 3
_EQUAL_SHARE = 0.999  # where two similarities are equal up to rounding, either cluster may win
_ERROR = 1e-6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing_arguments(parser)
    parser.add_argument("--heights", type=int, nargs="+", default=[192, 384], help="image heights; width is 4/3 of it")
    parser.add_argument("--images", type=int, default=4, help="images of the batch")
    parser.add_argument("--maps", nargs="+", choices=STRIDE, default=list(STRIDE), help="what is clustered")


def run(args: argparse.Namespace) -> list[dict]:
    """Rows of the k-means alone, and of the segments of training, for each kind of map and size; the last size of each
    adds by which power of the pixels either form grows."""
    rows = []
    for kind in args.maps:
        stride, cells = STRIDE[kind]
        # Segments, which need labels, are of training.
        parts = ("kmeans", "segments") if stride > 1 else ("kmeans",)
        table: dict[str, list[dict]] = {part: [] for part in parts}
        for height in args.heights:
            size = (height // stride, height * 4 // 3 // stride)
            forms = Forms(args.images, size, (cells, cells), args.device)
            for part in parts:
                comparison = getattr(forms, f"literal_{part}"), getattr(forms, f"our_{part}"), CHECKS[part]
                name = f"{part}, {kind}, {args.images} x {size[1]}x{size[0]}"
                table[part].append(compare(name, *comparison, pairs=args.pairs, device=args.device))
        for measured in table.values():
            rows += add_growth(measured, [height**2 for height in args.heights])
        if on_cpu(args.device):
            table["kmeans"][-1]["required_ratio"] = REQUIRED_RATIO
    return rows


class Forms:
    """Both forms on a batch: the k-means alone, which gives clusters (N, n), and all from the network's embedding to
    unit vectors and segments."""

    def __init__(self, images: int, size: tuple[int, int], grid: tuple[int, int], device: str):
        self.grid = grid
        embedding, semantic, region = (tensor.to(device) for tensor in make_scene(images, size))
        self.embedding = embedding.requires_grad_()
        self.semantic, self.region = semantic, region
        self.local = position_features(*size, device=device)
        self.initial = initial_clusters(*size, grid, device=device)
        self.start = self.initial.flatten().unique(return_inverse=True)[1]
        self.clusters = int(self.start.max()) + 1
        pixels = F.normalize(self.embedding.permute(0, 2, 3, 1), dim=3)
        local = self.local.expand(images, *self.local.shape)
        # As in training it has a gradient, which the published k-means records.
        self.vectors = F.normalize(torch.cat([pixels, local], 3), dim=3).flatten(1, 2)

    def literal_kmeans(self) -> Tensor:
        clusters = [literal.kmeans(vectors, self.start, self.clusters, ITERATIONS) for vectors in self.vectors]
        return torch.stack(clusters)

    def our_kmeans(self) -> Tensor:
        start = self.start.expand(len(self.vectors), -1)
        ignored = torch.zeros_like(start, dtype=torch.bool)
        options = {"num_clusters": self.clusters, "iterations": ITERATIONS}
        return spherical_kmeans(self.vectors.detach(), start, ignored=ignored, **options)

    def literal_segments(self) -> tuple[Tensor, Tensor, Tensor]:
        labels = combine_labels(self.semantic, self.region)
        ignored = torch.zeros_like(labels, dtype=torch.bool)
        return literal.segments(self.embedding, self.local, self.initial, labels, ignored, ITERATIONS)

    def our_segments(self) -> tuple[Tensor, Tensor, Tensor]:
        found = find_segments(
            self.embedding,
            local=self.local,
            grid=self.grid,
            iterations=ITERATIONS,
            semantic=self.semantic,
            region=self.region,
        )
        return found.embedding, found.located, found.segment


def make_scene(images: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Embedding (N, C, h, w), smooth but for some noise, and maps (N, h, w) of two classes and of 20 regions."""
    generator = torch.Generator().manual_seed(0)

    def smooth(channels: int, cells: int) -> Tensor:
        coarse = torch.randn(images, channels, cells, cells * 4 // 3, generator=generator)
        return F.interpolate(coarse, size=size, mode="bicubic")

    embedding = smooth(CHANNELS, 9) + 0.3 * torch.randn(images, CHANNELS, *size, generator=generator)
    return embedding, smooth(2, 3).argmax(1), smooth(20, 6).argmax(1)


def check_clusters(expected: Tensor, found: Tensor) -> None:
    share = float((expected == found).double().mean())
    if not share >= _EQUAL_SHARE:
        raise ValueError(f"expected equal clusters of {_EQUAL_SHARE:.1%} of the pixels; found {share:.2%}.")


def check_segments(expected: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> None:
    """Equal unit vectors, and equal segments for nearly all pairs of neighbours in the order of the pixels: one other
    segment shifts the numbers of all that follow."""
    for theirs, ours in zip(expected[:2], found[:2]):
        error = float((theirs - ours).detach().abs().max())
        if not error <= _ERROR:
            raise ValueError(f"expected vectors equal to {_ERROR}; found a difference of {error:.1e}.")
    theirs, ours = (segment[1:] == segment[:-1] for segment in (expected[2], found[2]))
    check_clusters(theirs, ours)


CHECKS = {"kmeans": check_clusters, "segments": check_segments}
