"""Every literal form that a benchmark compares with gives what the published code gave, and no other result passes."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.point2mask_forest import low_level_edges
from parity.point2mask_model import PIXEL_MEAN, PIXEL_STD
from parity.reference import Reference, reference_files
from weakseg.methods.point2mask.semantic_losses import dilate_points

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def module(monkeypatch):
    """A module of tools/benchmarks by name."""
    monkeypatch.syspath_prepend(TOOLS)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@reference_files("point2mask", "unit_sinkhorn")
def test_literal_transport_is_the_published_one(path, module):
    literal, ref = module("literal_pseudo_labels"), Reference(path)
    for case in ref.cases("_cost"):
        problem = literal.Problem(*(ref.tensor(f"{case}_{name}") for name in ("cost", "mu", "nu")))
        plan, recorded = literal.sinkhorn(problem), ref.tensor(f"{case}_pi")
        is_large = recorded > 1e-3
        torch.testing.assert_close(plan[is_large], recorded[is_large], rtol=2e-2, atol=0.0)
        assert bool((plan[~is_large] <= 1.1e-3).all())


@reference_files("point2mask", "unit_dijkstra")
def test_literal_distances_are_the_published_ones(path, module):
    literal, ref = module("literal_pseudo_labels"), Reference(path)
    for case in ref.cases("_cost"):
        distance = literal.source_distances(ref.tensor(f"{case}_cost"), ref.tensor(f"{case}_sources"))
        ref.compare(f"{case}_dist", distance, rtol=1e-6, atol=1e-6)


@reference_files("point2mask", "unit_pseudo")
def test_literal_pseudo_labels_are_the_published_ones(path, module, tmp_path, monkeypatch):
    literal, ref = module("literal_pseudo_labels"), Reference(path)
    num_things, num_stuff = ref["T_U"].tolist()
    size, *image_sizes = (tuple(row) for row in ref["shapes"].tolist())
    dilated = dilate_points(ref.tensor("points"), num_things + num_stuff)
    squares = torch.zeros(*dilated.present.shape, *size)
    squares[dilated.image_index, dilated.class_index] = dilated.masks.float()
    images = range(len(image_sizes))
    graphs, graph_costs = [], literal.graph_costs
    monkeypatch.setattr(literal, "graph_costs", lambda *maps: graphs.append(graph_costs(*maps)) or graphs[-1])
    masks, semantic = literal.pseudo_labels(
        ref.tensor("Z_small"),
        literal.DensePoints(squares, dilated.present.float()),
        ref.tensor("boundary"),
        ref.tensor("embedding"),
        [ref.tensor(f"labels{i}") for i in images],
        [ref.tensor(f"points{i}") for i in images],
        num_things=num_things,
        phase=2 if any(name.startswith("centres") for name in ref.keys()) else 1,
        edges=low_level_edges(ref, tmp_path) if "image" in ref else None,
    )
    ref.compare_fraction("pl_sem", semantic)
    for i, mask in enumerate(masks):
        if f"graph{i}" in ref:
            ref.compare(f"graph{i}", graphs[0][i], rtol=1e-5, atol=1e-5)
        if f"masks{i}" in ref:
            ref.compare_fraction(f"masks{i}", mask, ref.bits(f"masks{i}", tuple(mask.shape)))


@reference_files("point2mask", "unit_tree")
def test_literal_tree_filter_is_the_published_one(path, module):
    literal, ref = module("literal_color_losses"), Reference(path)
    for case in ref.cases("_edges"):
        features = ref.tensor(f"{case}_features").requires_grad_()
        trees = [literal.spanning_tree(guide) for guide in ref.tensor(f"{case}_guide")]
        for tree, edges in zip(trees, ref[f"{case}_edges"]):
            pairs = zip(tree.order.tolist(), tree.order[tree.parent].tolist())
            assert sorted(sorted(pair) for pair in pairs if pair[0]) == edges.tolist()
        filtered = torch.stack([literal.tree_filter(f, tree) for f, tree in zip(features, trees)])
        ref.compare(f"{case}_color_out", filtered, rtol=1e-5, atol=1e-5)
        (filtered * ref.tensor(f"{case}_color_cotangent")).sum().backward()
        ref.compare(f"{case}_color_grad_features", features.grad, rtol=1e-4, atol=1e-4)


@reference_files("point2mask", "unit_semantic_losses")
def test_literal_color_losses_are_the_published_ones(path, module):
    literal, ref = module("literal_color_losses"), Reference(path)
    np.testing.assert_allclose([literal.PIXEL_MEAN, literal.PIXEL_STD], torch.stack([PIXEL_MEAN, PIXEL_STD]))
    logits, image = ref.tensor("logits").requires_grad_(), ref.tensor("image_small")
    unlabelled = (1 - ref.tensor("E_small").sum(1)).sum()
    losses = {
        "color_prior": literal.color_prior(logits, image),
        "tree": literal.tree_loss(logits.softmax(1), image) / unlabelled,
    }
    for name, loss in losses.items():
        ref.compare(f"loss_{name}", loss, rtol=1e-5)
        (gradient,) = torch.autograd.grad(loss, logits)
        ref.compare(f"grad_{name}", gradient, atol=1e-4 * float(abs(ref[f"grad_{name}"]).max()))


@reference_files("point2mask", "unit_boundary_loss")
def test_literal_boundary_loss_is_the_published_one(path, module):
    literal, ref = module("literal_boundary_loss"), Reference(path)
    logits, semantic = ref.tensor("boundary").requires_grad_(), ref.tensor("pl_sem")
    owners = [ref.tensor(f"inst{i}") for i in range(len(semantic))]
    masks = [torch.stack([(owner == k).float() for k in range(int(owner[owner < 255].max()) + 1)]) for owner in owners]
    loss = literal.boundary_loss(logits, masks, semantic, num_things=int(ref["T_U"][0]))
    loss.backward()
    ref.compare("loss", loss, rtol=1e-5)
    ref.compare("grad", logits.grad, rtol=1e-5, atol=1e-5 * np.abs(ref["grad"]).max())


def test_absent_classes_are_not_filtered_by_the_corrected_literal_form(module, monkeypatch):
    benchmark = module("color_losses")
    counts = {"num_things": 20, "num_stuff": 1, "thing_classes": 3}
    scene = module("scenes").make_scene(48, 64, images=2, things=4, **counts)
    channels, tree_loss = [], benchmark.literal.tree_loss
    monkeypatch.setattr(benchmark.literal, "tree_loss", lambda p, i: channels.append(p.shape[:2]) or tree_loss(p, i))
    forms = benchmark.Forms(scene, present_only=True)
    benchmark.check_results(forms.literal(), forms.ours())
    present = scene.dilated().present.sum(dim=1).tolist()
    assert channels == [(1, count + 1) for count in present] * benchmark.LAYERS and max(present) <= 4


def test_disagreeing_results_are_errors(module):
    ones, zeros = torch.ones(4), torch.zeros(4)
    for name in ("color_losses", "boundary_loss"):
        check = module(name).check_results
        check((ones, ones), (ones, ones))
        with pytest.raises(ValueError, match="expected"):
            check((ones, ones), (ones, 1.02 * ones))
        with pytest.raises(ValueError, match="expected"):
            check((ones, ones), (1.01 * ones, ones))
    with pytest.raises(ValueError, match="expected"):
        module("graph_distance").check_distances(zeros, zeros + 2e-5)
