"""Pseudo labels of a step: transport alone and all steps, both phases, against the literal form of the card (3.4)."""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor

from benchmarks import add_growth, add_size_arguments, add_timing_arguments, compare, on_cpu
from benchmarks import literal_pseudo_labels as literal
from benchmarks.scenes import Scene, make_scene
from weakseg.methods.point2mask.pseudo_labels import PseudoLabels, make_pseudo_labels
from weakseg.methods.point2mask.transport import transport_labels

HELP = "transport and whole pseudo labels of both phases, and what a larger batch costs"
PARTS = ("transport", "whole", "batch")
REQUIRED_RATIO = {"cpu": {1: 20, 2: 4}, "cuda": {1: 10, 2: 10}}
"""By device and phase."""
LARGEST_BATCH_RATIO = 1.8
_TIES = 1e-3  # share of the pixels whose labels may differ


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing_arguments(parser)
    add_size_arguments(parser, heights=(300, 450, 600))
    parser.add_argument(
        "--certainty", type=float, default=2.0, help="of the network: 2 early in training, 7 late, which is easier"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which tables")
    parser.add_argument("--phases", type=int, nargs="+", choices=(1, 2), default=[1, 2])


def run(args: argparse.Namespace) -> list[dict]:
    """One row a part, phase and size; the last of each table adds by which power of the number of pixels it grows."""
    rows = []
    pixels = [height**2 for height in args.heights]
    for part in ("transport", "whole"):
        for phase in args.phases if part in args.parts else ():
            table = [_row(part, phase, height, args) for height in args.heights]
            rows += add_growth(table, pixels)
            if part == "transport":
                rows[-1]["required_ratio"] = REQUIRED_RATIO[torch.device(args.device).type][phase]
    if "batch" in args.parts:
        rows += [_batch_row(phase, args) for phase in args.phases]
    return rows


def _row(part: str, phase: int, height: int, args: argparse.Namespace) -> dict:
    scene = _scene(height, args)
    name = f"{part}, phase {phase}, {height * 4 // 3}x{height}"
    timing = {"pairs": args.pairs, "device": args.device}
    if part == "whole":
        return compare(name, literal_form(scene, phase), our_form(scene, phase), check_labels, **timing)
    problem = transport_problem(scene, phase)
    forms = lambda: literal.sinkhorn(problem).argmax(dim=0), partial(transport_labels, *problem)
    return compare(name, *forms, _check_same, **timing)


def _batch_row(phase: int, args: argparse.Namespace) -> dict:
    """Our time for four images over our time for the first of them."""
    height = args.heights[-1]
    scene = _scene(height, args, images=4)

    def check(four: PseudoLabels, one: PseudoLabels) -> None:
        _check_same(four.instance_map[0], one.instance_map[0])

    forms = our_form(scene, phase), our_form(scene.first(), phase)
    row = compare(f"batch of 4 to 1, phase {phase}", *forms, check, pairs=args.pairs, device=args.device)
    row["four_seconds"], row["one_seconds"] = row.pop("literal_seconds"), row.pop("our_seconds")
    # One thread of a CPU is busy with one image already.
    return row if on_cpu(args.device) else row | {"allowed_ratio": LARGEST_BATCH_RATIO}


def _scene(height: int, args: argparse.Namespace, images: int = 1) -> Scene:
    return make_scene(
        height, height * 4 // 3, images=images, things=args.things, certainty=args.certainty, device=args.device
    )


def our_form(scene: Scene, phase: int) -> partial:
    """Our pseudo labels as published."""
    return partial(
        make_pseudo_labels,
        scene.logits,
        scene.dilated(),
        scene.boundary,
        scene.embedding,
        scene.classes,
        scene.points,
        scene.image_sizes,
        num_things=scene.num_things,
        phase=phase,
        official=True,
    )


def literal_form(scene: Scene, phase: int) -> partial:
    return partial(
        literal.pseudo_labels,
        scene.logits,
        dense_points(scene),
        scene.boundary,
        scene.embedding,
        scene.classes,
        scene.points,
        num_things=scene.num_things,
        phase=phase,
    )


def dense_points(scene: Scene) -> literal.DensePoints:
    """The dilated points as one-hot maps of all classes, which both forms have from the semantic losses."""
    dilated = scene.dilated()
    squares = scene.logits.new_zeros(*dilated.present.shape, *scene.size)
    squares[dilated.image_index, dilated.class_index] = dilated.masks.float()
    return literal.DensePoints(squares, dilated.present.float())


def transport_problem(scene: Scene, phase: int) -> literal.Problem:
    """The transport of a scene's first image, set up by the literal form."""
    probabilities = literal.class_probabilities(scene.logits, dense_points(scene))
    graph = literal.graph_costs(probabilities, scene.boundary, scene.embedding)[0]
    distance = literal.point_distances(graph, scene.points[0], len(scene.classes[0]))
    cost = torch.nn.functional.interpolate(distance[None], size=scene.size, mode="bilinear", align_corners=False)[0]
    image = (probabilities[0], scene.classes[0], scene.points[0])
    return literal.transport_problem(cost, graph, *image, num_things=scene.num_things, phase=phase)


def check_labels(dense: tuple[list[Tensor], Tensor], ours: PseudoLabels) -> None:
    masks, semantic = dense
    _check_same(semantic, ours.semantic)
    for mask, owner in zip(masks, ours.instance_map):
        _check_same(torch.where(mask.any(dim=0), mask.int().argmax(dim=0), -1), owner)


def _check_same(labels: Tensor, our_labels: Tensor) -> None:
    differing = float((labels != our_labels).float().mean())
    if differing > _TIES:
        raise ValueError(
            f"expected equal labels on all but {_TIES:.1%} of the pixels; found {differing:.2%} differing."
        )
