"""Shortest paths, transport and pseudo labels against the recorded outputs (card 3.4)."""

import numpy as np
import torch
import torch.nn.functional as F

from parity.point2mask_forest import low_level_edges
from parity.point2mask_model import PUBLISHED
from parity.reference import Reference, reference_files
from weakseg.methods.point2mask.graph import cells_of, centre_distance, pixel_graph, point_distance
from weakseg.methods.point2mask.pseudo_labels import (
    boxes_of,
    likely_classes,
    make_pseudo_labels,
    present_probabilities,
)
from weakseg.methods.point2mask.semantic_losses import dilate_points
from weakseg.methods.point2mask.supply import centre_cells, farthest_distance, grown_masks, mask_supply, nearest_supply
from weakseg.methods.point2mask.transport import sinkhorn_potentials, transport_labels
from weakseg.refine.graph_distance import graph_distance

TIES = 1e-3  # share of the pixels whose labels may differ


def resize(maps, size):
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


@reference_files("point2mask", "unit_dijkstra")
def test_shortest_paths(path):
    with Reference(path) as ref:
        for case in ref.cases("_cost"):
            sources = ref.tensor(f"{case}_sources")
            cost = ref.tensor(f"{case}_cost").expand(len(sources), -1, -1, -1)
            ref.compare(f"{case}_dist", graph_distance(cost, sources, torch.arange(len(sources))))


@reference_files("point2mask", "unit_sinkhorn")
def test_transport(path):
    epsilon, iterations = PUBLISHED.epsilon, PUBLISHED.iterations
    with Reference(path) as ref:
        for case in ref.cases("_cost"):
            cost, supply, demand = (ref.tensor(f"{case}_{name}") for name in ("cost", "mu", "nu"))
            before, after = (sinkhorn_potentials(cost, supply, demand, iterations=iterations - k) for k in (1, 0))
            # The pixels' potentials are updated before the instances', from the potentials of the iteration before.
            log_share = (demand.double() + 1e-8).log() - torch.logsumexp((before[:, None] - cost) / epsilon, dim=0)
            plan = torch.exp((after[:, None] - cost) / epsilon + log_share)
            recorded = ref.tensor(f"{case}_pi").double()
            is_large = recorded > 1e-3
            torch.testing.assert_close(plan[is_large], recorded[is_large], rtol=2e-2, atol=0.0)
            assert bool((plan[~is_large] <= 1.1e-3).all()), case
            ref.compare(f"{case}_total", (plan * cost).sum(), rtol=1e-3)

            label, expected = transport_labels(cost, supply, demand), ref.tensor(f"{case}_label")
            value = after[:, None] - cost
            gap = (value.gather(0, label[None]) - value.gather(0, expected[None]))[0]
            assert bool((gap < 2e-6).all()), f"{case}: labels differ beyond ties"


@reference_files("point2mask", "unit_pseudo")
def test_pseudo_labels(path, tmp_path):
    with Reference(path) as ref:
        size, *image_sizes = (tuple(row) for row in ref["shapes"].tolist())
        num_things, num_stuff = ref["T_U"].tolist()
        logits, boundary, embedding = (ref.tensor(name) for name in ("Z_small", "boundary", "embedding"))
        assert logits.shape[1] == num_things + num_stuff
        dilated = dilate_points(ref.tensor("points"), num_things + num_stuff)
        classes, points = ([ref.tensor(f"{name}{i}") for i in range(len(image_sizes))] for name in ("labels", "points"))
        phase = 2 if any(name.startswith("centres") for name in ref.keys()) else 1
        edges = low_level_edges(ref, tmp_path) if "image" in ref else None

        result = make_pseudo_labels(
            logits,
            dilated,
            boundary,
            embedding,
            classes,
            points,
            image_sizes,
            num_things=num_things,
            phase=phase,
            edges=edges,
            stride=PUBLISHED.stride,
            official=True,
        )
        ref.compare_fraction("pl_sem", result.semantic, fraction=TIES)
        present = present_probabilities(logits, dilated)
        graph_options = {"stride": PUBLISHED.stride, "edges": edges, "official": True, **PUBLISHED.graph}
        graphs = pixel_graph(present.probabilities, boundary, embedding, **graph_options)
        for i, label in enumerate(classes):
            if f"masks{i}_count" in ref:
                assert ref[f"masks{i}_count"] == len(label) and result.boxes[i].shape == (len(label), 4)
                continue
            expected = ref.bits(f"masks{i}", (len(label), *size))
            actual = result.instance_map[i] == torch.arange(len(label))[:, None, None]
            ref.compare_fraction(f"masks{i}", actual, expected, fraction=TIES)
            owner = torch.from_numpy(np.where(expected.any(axis=0), expected.argmax(axis=0), -1))
            ref.compare(f"boxes{i}", boxes_of(owner, len(label), image_sizes[i]))
            if torch.equal(owner, result.instance_map[i]):  # one differing pixel can move a side
                ref.compare(f"boxes{i}", result.boxes[i])
            image_present = present.probabilities[:, i : i + 1], present.classes[:, i : i + 1]
            compare_steps(ref, i, graphs[i : i + 1], *image_present, label, points[i], num_things)


def compare_steps(ref, i, graph, probabilities, present, classes, points, num_things):
    """Graph (1, h, w, 8), distances, cost, centres, supply and demand of image `i` alone."""
    size, instances = tuple(probabilities.shape[2:]), len(classes)
    ref.compare(f"graph{i}", graph[0], rtol=1e-5, atol=1e-5)

    sources = cells_of(points[:, 1:], graph.shape[1:3], PUBLISHED.stride)
    ref.compare(f"sources{i}", sources)
    each = graph_distance(graph, sources, torch.arange(len(sources)), maps_per_cost=len(sources))
    ref.compare(f"dist{i}", each, rtol=1e-5, atol=1e-5)
    rows = F.pad(points, (1, 0))  # of the one image of this batch
    distance = point_distance(graph, rows, instances, stride=PUBLISHED.stride)
    for k in points[:, 0].unique().tolist():
        torch.testing.assert_close(distance[k, 0], each[points[:, 0] == k].amin(dim=0), rtol=0.0, atol=0.0)

    cost = resize(distance, size)
    ref.compare(f"cost{i}", cost[:, 0, ::4, ::4], rtol=1e-5, atol=1e-5)
    taking_part = torch.ones(instances, 1, dtype=torch.bool)
    if f"centres{i}" in ref:
        is_stuff = dense_argmax(probabilities[:, 0], present[:, 0]) >= num_things
        counts = likely_classes(classes[:, None], present, num_things)
        likely = (probabilities, counts, taking_part, is_stuff[None])
        owner = grown_masks(cost, farthest_distance(cost, taking_part, [size]), *likely)
        centres = centre_cells(owner, rows, instances, graph.shape[1:3], stride=PUBLISHED.stride, official=True)
        ref.compare(f"centres{i}", centres[0])
        centre = centre_distance(graph, centres)
        ref.compare(f"centre_dist{i}", centre[:, 0].clamp(max=1e30), rtol=1e-5, atol=1e-5)
        distance = resize(centre / (centre.max() + 1e-5), size)
        supply, demand = mask_supply(grown_masks(distance, torch.ones(1), *likely), instances)
    else:
        supply, demand = nearest_supply(cost, taking_part, torch.ones(1, *size, dtype=torch.bool))
    ref.compare(f"mu{i}", supply[:, 0], atol=TIES * demand.numel())
    ref.compare_fraction(f"nu{i}", demand[0], ref.bits(f"nu{i}", size), fraction=TIES)


def dense_argmax(probability, present):
    """Argmax over all classes, absent ones being 0; class 255 is no class."""
    dense = torch.zeros(256, *probability.shape[1:])
    dense[present] = probability
    return dense[:255].argmax(dim=0)
