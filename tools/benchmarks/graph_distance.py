"""Graph distances of a batch, one search per instance, against one heap Dijkstra per labelled pixel (card 3.4, 8.2)."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks import add_growth, add_size_arguments, add_timing_arguments, compare, on_cpu
from benchmarks import literal_pseudo_labels as literal
from benchmarks.pseudo_labels import dense_points
from benchmarks.scenes import Scene, make_scene
from weakseg.refine.graph_distance import graph_distance

HELP = "distance maps of all instances of a batch"
LABELS = {
    "P1": {},
    "P1, points as 2 x 2 blocks": {"block": 2},
    "P10": {"points_per_target": 10},
}
REQUIRED_RATIO = 5
_ERROR = 1e-5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing_arguments(parser)
    add_size_arguments(parser, heights=(300, 450, 600))
    parser.add_argument("--images", type=int, default=2, help="images of the batch")


def run(args: argparse.Namespace) -> list[dict]:
    """One row a kind of label and size; the last of each adds by which power of the pixels either form grows."""
    rows = []
    for name, labels in LABELS.items():
        table = []
        for height in args.heights:
            scene = make_scene(
                height, height * 4 // 3, images=args.images, things=args.things, device=args.device, **labels
            )
            forms = Forms(scene)
            title = f"{name}, {height * 4 // 3}x{height} / 16"
            table.append(
                compare(title, forms.literal, forms.ours, check_distances, pairs=args.pairs, device=args.device)
            )
        rows += add_growth(table, [height**2 for height in args.heights])
        if on_cpu(args.device):
            rows[-1]["required_ratio"] = REQUIRED_RATIO
    return rows


class Forms:
    """Both forms on the graphs of a scene. Each returns the distances (B * n, h, w)."""

    def __init__(self, scene: Scene):
        probabilities = literal.class_probabilities(scene.logits, dense_points(scene))
        self.graphs = literal.graph_costs(probabilities, scene.boundary, scene.embedding).contiguous()
        self.points = scene.points
        self.instances = len(scene.classes[0])

    def literal(self) -> Tensor:
        return torch.cat(
            [literal.point_distances(g, rows, self.instances) for g, rows in zip(self.graphs, self.points)]
        )

    def ours(self) -> Tensor:
        cells = torch.cat([literal.coarse_cells(rows[:, 1:], g) for g, rows in zip(self.graphs, self.points)])
        maps = torch.cat([b * self.instances + rows[:, 0] for b, rows in enumerate(self.points)])
        return graph_distance(self.graphs, cells, maps, maps_per_cost=self.instances)


def check_distances(expected: Tensor, found: Tensor) -> None:
    error = float((expected - found).abs().max())
    if not error <= _ERROR:
        raise ValueError(f"expected distances equal to {_ERROR}; found a difference of {error:.1e}.")
