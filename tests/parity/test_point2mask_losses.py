"""Point2Mask's location, mask, embedding and boundary losses and their scaling against recorded ones."""

import numpy as np
import pytest
import torch

from parity.point2mask_model import PUBLISHED
from parity.reference import Reference, reference_files
from weakseg.methods.point2mask.embedding_losses import boundary_loss, contrastive_loss
from weakseg.methods.point2mask.loss_weights import SCALING, loss_ramp, scale_losses
from weakseg.methods.point2mask.mask_losses import dice_losses
from weakseg.methods.point2mask.semantic_losses import existence_loss_sum
from weakseg.methods.point2mask.set_losses import box_scales, location_losses, match


def numbered(ref, prefix):
    """The arrays prefix0, prefix1, ... as tensors."""
    names = [f"{prefix}{i}" for i in range(len(ref.keys()))]
    return [ref.tensor(name) for name in names if name in ref]


def compare_gradient(ref, name, actual):
    """To 1e-5 of the largest entry."""
    ref.compare(name, actual, rtol=1e-5, atol=1e-5 * np.abs(ref[name]).max())


def instance_maps(ref):
    return [torch.where(image == 255, -1, image) for image in numbered(ref, "inst")]


@reference_files("point2mask", "unit_set_losses")
def test_matching_and_location_losses(path):
    with Reference(path) as ref:
        sizes = [tuple(size) for size in ref["shapes"].tolist()]
        for case in ref.cases("_losses"):
            logits, boxes = ref.tensor("scores").requires_grad_(), ref.tensor("boxes").requires_grad_()
            targets = {
                "pseudo_boxes": numbered(ref, f"{case}_boxes"),
                "classes": numbered(ref, f"{case}_labels"),
                "image_scales": box_scales(sizes),
            }
            matches = match(logits[None], boxes[None], **targets, **PUBLISHED.location_weights)[0]
            for b, (queries, instances) in enumerate(matches):
                ref.compare(f"{case}_query{b}", queries)
                ref.compare(f"{case}_inst{b}", instances)
            normalizer = max(1, sum(len(queries) for queries, _ in matches))
            losses = torch.stack(
                location_losses(logits, boxes, matches, **targets, normalizer=normalizer, **PUBLISHED.location_weights)
            )
            losses.sum().backward()
            ref.compare(f"{case}_losses", losses, rtol=1e-5, atol=1e-6)
            compare_gradient(ref, f"{case}_grad_scores", logits.grad)
            compare_gradient(ref, f"{case}_grad_boxes", boxes.grad)


@reference_files("point2mask", "unit_mask_losses")
def test_dice_and_existence(path):
    with Reference(path) as ref:
        masks, weight = ref.tensor("pred").requires_grad_(), ref.tensor("weight")
        dice = dice_losses(
            [mask[None, None] for mask in masks], ref.tensor("target"), [torch.tensor([1])] * len(masks)
        )[0]
        weighted, everything = 2 * (weight * dice).sum() / weight.sum(), 2 * dice.sum() / 5
        (weighted + everything).backward()
        ref.compare("dice_weighted", weighted, rtol=1e-5)
        ref.compare("dice_all", everything, rtol=1e-5)
        compare_gradient(ref, "grad_pred", masks.grad)

        logits = ref.tensor("exist_logit").requires_grad_()
        existence = 4 * existence_loss_sum(logits.T[None], weight[None] == 1).sum() / weight.sum()
        existence.backward()
        ref.compare("exist_loss", existence, rtol=1e-5)
        compare_gradient(ref, "grad_exist", logits.grad)


@reference_files("point2mask", "unit_metric_loss")
def test_contrastive_loss(path):
    with Reference(path) as ref:
        num_things, num_stuff = ref["T_U"].tolist()
        embedding, maps, points = ref.tensor("embedding").requires_grad_(), instance_maps(ref), numbered(ref, "points")
        assert list(maps[0].shape) == ref["HW"].tolist()
        labels = {"semantic": ref.tensor("pl_sem"), "point_map": ref.tensor("points"), "num_things": num_things}
        counts = [int(torch.cat([rows[:, 0], image.flatten()]).max()) + 1 for rows, image in zip(points, maps)]
        loss = contrastive_loss(embedding, maps, points=points, num_instances=counts, num_stuff=num_stuff, **labels)
        loss.backward()
        ref.compare("loss", loss, rtol=1e-5)
        compare_gradient(ref, "grad", embedding.grad)

        alone = [rows[rows[:, 0] == 0] for rows in points]
        first = [min(count, 1) for count in counts]
        single = contrastive_loss(embedding, maps, points=alone, num_instances=first, num_stuff=0, **labels)
        ref.compare("loss_single_reference", single, atol=1e-7)


@reference_files("point2mask", "unit_boundary_loss")
def test_boundary_loss(path):
    with Reference(path) as ref:
        num_things, _ = ref["T_U"].tolist()
        logits, semantic = ref.tensor("boundary").requires_grad_(), ref.tensor("pl_sem")
        assert ref.tensor("points").shape == semantic.shape
        loss = boundary_loss(
            logits,
            instance_maps(ref),
            semantic,
            num_things=num_things,
            image_sizes=[tuple(ref["HW"].tolist())] * len(semantic),
            official=True,
        )
        loss.backward()
        ref.compare("loss", loss, rtol=1e-5)
        compare_gradient(ref, "grad", logits.grad)


@reference_files("point2mask", "unit_loss_weights")
@pytest.mark.parametrize("official", [False, True])
def test_every_term_is_ramped_as_published(path, official):
    with Reference(path) as ref:
        keys, steps, values = ref["keys"].tolist(), ref["k"].tolist(), ref["values"]
        assert {key.rsplit(".", 1)[-1] for key in keys} == set(SCALING)
        last = int(np.argmax(steps))
        ramped = [
            scale_losses(
                {key: torch.tensor(1.0) for key in keys},
                thing_count=1.0,
                stuff_count=1.0,
                ramp=loss_ramp(step, PUBLISHED.ramp_iters),
                official=official,
            )
            for step in steps
        ]
        for key, row in zip(keys, values):
            ratios = [float(losses[key] / ramped[last][key]) for losses in ramped]
            np.testing.assert_allclose(row, row[last] * np.array(ratios), rtol=1e-6, err_msg=key)
