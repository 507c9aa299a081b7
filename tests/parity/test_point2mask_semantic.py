"""Colours, tree filter and semantic losses against the recorded outputs of the published code."""

import numpy as np
import torch

from parity.point2mask_model import PIXEL_MEAN, PIXEL_STD
from parity.reference import Reference, reference_files
from weakseg.layers.color import denormalize, rgb_to_lab
from weakseg.layers.tree_filter import edge_similarity, minimum_spanning_tree, tree_filter
from weakseg.methods.point2mask.semantic_losses import (
    color_affinity,
    color_prior_loss,
    color_tree,
    dilate_points,
    partial_cross_entropy_sum,
    tree_loss_sum,
    unlabelled_count,
)


@reference_files("point2mask", "unit_color")
def test_normalised_images_become_rgb_and_lab(path):
    with Reference(path) as ref:
        rgb = denormalize(ref.tensor("image"), PIXEL_MEAN, PIXEL_STD)
        ref.compare("rgb", rgb, atol=1e-4)
        ref.compare("lab", rgb_to_lab(rgb / 255), atol=1e-4)


@reference_files("point2mask", "unit_tree")
def test_tree_and_filter(path):
    with Reference(path) as ref:
        for case in ref.cases("_edges"):
            _compare_tree(ref, case)


def _compare_tree(ref: Reference, case: str) -> None:
    tree = minimum_spanning_tree(ref.tensor(f"{case}_guide"))
    edges = [sorted(sorted((v, p)) for v, p in enumerate(parent) if v) for parent in tree.parent.tolist()]
    ref.compare(f"{case}_edges", np.array(edges))
    for mode, sigma in (("color", 0.02), ("feature", None)):
        guide = ref.tensor(f"{case}_guide").requires_grad_()
        features = ref.tensor(f"{case}_features").requires_grad_()
        filtered = tree_filter(features, tree, edge_similarity(guide, tree, sigma))
        ref.compare(f"{case}_{mode}_out", filtered, atol=1e-5, rtol=1e-5)
        (filtered * ref.tensor(f"{case}_{mode}_cotangent")).sum().backward()
        ref.compare(f"{case}_{mode}_grad_features", features.grad, atol=1e-4, rtol=1e-4)
        if sigma is None:
            ref.compare(f"{case}_{mode}_grad_guide", guide.grad, atol=1e-4, rtol=1e-4)
        else:
            assert guide.grad is None


@reference_files("point2mask", "unit_semantic_losses")
def test_semantic_losses(path):
    with Reference(path) as ref:
        logits = ref.tensor("logits")[None].requires_grad_()
        num_classes, num_things = ref["num_classes"].tolist()
        assert num_things <= num_classes == logits.shape[2]
        small_size = logits.shape[-2:]

        point_map = ref.tensor("points")
        points = dilate_points(point_map, num_classes)
        dense = ref.bits("E", (len(point_map), num_classes, *point_map.shape[1:]))
        np.testing.assert_array_equal(points.present.numpy(), dense.any((2, 3)))
        np.testing.assert_array_equal(points.masks.numpy(), dense[points.image_index, points.class_index])
        target, covering = points.labels_at(*small_size)
        small = torch.from_numpy(ref["E_small"].astype(bool))
        assert torch.equal(covering, small.sum(1))
        assert torch.equal(target, torch.where(small.any(1), small.int().argmax(1), 255))

        image = ((ref.tensor("image") - PIXEL_MEAN) / PIXEL_STD).permute(0, 3, 1, 2)
        ref.compare("image_small", torch.nn.functional.interpolate(image, small_size, mode="bilinear"), atol=1e-5)
        image_small = ref.tensor("image_small")
        lab = rgb_to_lab(denormalize(image_small, PIXEL_MEAN, PIXEL_STD) / 255)

        losses = {
            "partial_ce": partial_cross_entropy_sum(logits, target) / (target != 255).sum(),
            "color_prior": color_prior_loss(logits, color_affinity(lab, official=True)),
            "tree": tree_loss_sum(logits, *color_tree(image_small)) / unlabelled_count(covering, official=True),
        }
        for name, loss in losses.items():
            ref.compare(f"loss_{name}", loss[0], rtol=1e-5)
            (gradient,) = torch.autograd.grad(loss.sum(), logits)
            ref.compare(f"grad_{name}", gradient[0], atol=1e-4 * float(abs(ref[f"grad_{name}"]).max()))
