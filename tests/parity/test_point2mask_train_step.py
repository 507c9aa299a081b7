"""One training step of Point2Mask: pseudo labels, every loss term and gradients, against recordings of the release."""

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList

from parity.point2mask_model import PUBLISHED, build_model, data_set_of, filled_state, input_batch, resnet_depth
from parity.reference import Reference, reference_files
from weakseg.labels import WeakLabels
from weakseg.methods.point2mask.checkpoint import published_name
from weakseg.methods.point2mask.criterion import Criterion
from weakseg.methods.point2mask.head import Point2MaskHead
from weakseg.methods.point2mask.loss_weights import LossWeights
from weakseg.methods.point2mask.pseudo_labels import PseudoLabels, boxes_of
from weakseg.methods.point2mask.semantic_losses import NO_CLASS

STORED_ENTRIES = 64
"""Entries that are stored of a longer gradient."""


def class_counts(ref, path):
    """(T, U): things from the overridden class biases, all classes from the gradient of their scales. Where that was
    thinned, the published data set with as many things tells, or another recorded model with as many."""
    bias, scale = "bbox_head.cls_branches.0.bias", "bbox_head.semantic_proj.weight"
    if f"override/{bias}" not in ref:
        pytest.fail(f"{path.name}: expected the class biases override/{bias}, which tell the number of things")
    num_things = len(ref[f"override/{bias}"])
    if f"grad/{scale}" in ref and len(ref[f"grad/{scale}"]) < STORED_ENTRIES:
        return num_things, len(ref[f"grad/{scale}"]) - num_things
    found = {facts.classes for facts in PUBLISHED.data_sets.values()}
    for state in (Reference(file) for file in path.parent.glob("state_dict_*.json")):
        found.add((state[bias][0], state[scale][0] - state[bias][0]))
    stuff = {num_stuff for things, num_stuff in found if things == num_things}
    if len(stuff) != 1:
        pytest.fail(
            f"{path.name}: expected to know the number of stuff classes beside {num_things} things; found {stuff}"
        )
    return num_things, stuff.pop()


def recorded_labels(ref, image_sizes, num_things):
    """The labelled pixels of each image as weak labels: instances with their points, then a target for each other pixel
    of the map: stuff, and things that are no instance (crowds)."""
    batch = []
    for i, size in enumerate(image_sizes):
        classes, rows = ref.tensor(f"labels{i}"), ref.tensor(f"points{i}")
        is_other = ref.tensor("points")[i] != NO_CLASS
        is_other[rows[:, 1], rows[:, 2]] = False
        y, x = is_other.nonzero().unbind(1)
        others = ref.tensor("points")[i][y, x]
        target = torch.cat([rows[:, 0], len(classes) + torch.arange(len(others))])
        xy = torch.cat([rows[:, [2, 1]], torch.stack([x, y], 1)]) + 0.5
        weak = WeakLabels(
            image_size=size,
            classes=torch.cat([classes, others]),
            is_crowd=torch.cat([torch.zeros(len(classes), dtype=torch.bool), others < num_things]),
            points=xy.float(),
            point_target=target,
            point_positive=torch.ones(len(target), dtype=torch.bool),
        )
        batch.append({"weak": weak})
    return batch


@reference_files("point2mask", "train_step")
def test_losses_gradients_and_pseudo_labels(path, monkeypatch):
    with Reference(path) as ref:
        num_things, num_stuff = class_counts(ref, path)
        parameters = [*ref["no_grad_params"].tolist(), *(name.removeprefix("grad/") for name in ref.keys())]
        warmup = data_set_of(path.name, (num_things, num_stuff)).transport_warmup
        images, image_sizes = input_batch(ref)
        model = build_model(resnet_depth(path, parameters), num_things=num_things, num_stuff=num_stuff, dropout=0.0)
        state = filled_state(model, ref)
        criterion = Criterion(
            num_things=num_things,
            num_stuff=num_stuff,
            pixel_mean=list(PUBLISHED.pixel_mean),
            pixel_std=list(PUBLISHED.pixel_std),
            channel_order=PUBLISHED.channel_order,
            temperature=PUBLISHED.temperature,
            ramp_iters=PUBLISHED.ramp_iters,
            weights=LossWeights(),
            official=True,
        )
        # The release counts ramp and transport phase apart (fault d); ours has one counter, so the phase is moved.
        steps, before = int(ref["k"][0]), int(ref["iter_before"][0])
        model.head = Point2MaskHead(
            network=model.head.network,
            criterion=criterion,
            in_features=("res3", "res4", "res5"),
            num_things=num_things,
            num_stuff=num_stuff,
            transport_warmup=warmup - before + steps,
            official=True,
        )
        state["head.iteration"] = torch.tensor([steps])
        model.load_state_dict(state)
        batch = recorded_labels(ref, image_sizes, num_things)
        image_list = ImageList(images, image_sizes)

        recorded = recorded_pseudo_labels(ref, image_sizes, images.shape[-2:])
        _, ours, _ = model.head.grow_points(model.backbone(images), image_list, batch)
        compare_pseudo_labels(ref, ours, recorded, image_sizes)

        monkeypatch.setattr(Point2MaskHead, "_transport", lambda *_: recorded)
        losses = model.head.losses(model.backbone(images), image_list, batch)
        names = [name.removeprefix("loss/") for name in ref.keys() if name.startswith("loss/")]
        assert sorted(losses) == sorted(names)
        for name in names:
            ref.compare(f"loss/{name}", losses[name], rtol=1e-4, atol=1e-6)
        total = sum(losses.values())
        ref.compare("total", total, rtol=1e-4)

        total.backward()
        gradients = {published_name(name): p.grad for name, p in model.named_parameters() if p.requires_grad}
        compare_gradients(ref, gradients)


def recorded_pseudo_labels(ref, image_sizes, padded_size):
    """The stored pseudo labels. Without an instance there may be no mask and no box."""
    maps, boxes = [], []
    for i in range(len(image_sizes)):
        count = len(ref[f"labels{i}"])
        for name in (f"pseudo_masks{i}_count", f"pseudo_boxes{i}_count"):
            assert name not in ref or int(ref[name]) == count
        owner = np.full(padded_size, -1)
        if count:
            masks = ref.bits(f"pseudo_masks{i}", (count, *padded_size))
            owner = np.where(masks.any(0), masks.argmax(0), -1)
        elif f"pseudo_masks{i}" in ref:
            assert ref[f"pseudo_masks{i}"].size == 0
        maps.append(torch.from_numpy(owner))
        boxes.append(ref.tensor(f"pseudo_boxes{i}").reshape(-1, 4) if f"pseudo_boxes{i}" in ref else torch.zeros(0, 4))
        assert len(boxes[i]) == count
    return PseudoLabels(instance_map=maps, boxes=boxes, semantic=ref.tensor("pl_sem"))


def compare_pseudo_labels(ref, ours, recorded, image_sizes):
    for i, owner in enumerate(recorded.instance_map):
        count = len(recorded.boxes[i])
        if count:
            ref.compare_fraction(f"pseudo_masks{i}", ours.instance_map[i], owner)
        np.testing.assert_array_equal(boxes_of(owner, count, image_sizes[i]), recorded.boxes[i])
        for k in range(count):
            if torch.equal(ours.instance_map[i] == k, owner == k):  # one differing pixel can move a side
                np.testing.assert_array_equal(ours.boxes[i][k], recorded.boxes[i][k])
    ref.compare_fraction("pl_sem", ours.semantic)


def compare_gradients(ref, gradients):
    """Where the release has no gradient at all, outside the frozen backbone, ours may be a gradient of zeros."""
    frozen = set(ref["no_grad_params"].tolist())
    for name in frozen:
        if not name.startswith("backbone.") and gradients[name] is not None:
            assert not gradients[name].any(), f"{name}: expected no gradient"
    trained = {name: grad for name, grad in gradients.items() if name not in frozen}
    missing = [name for name, grad in trained.items() if grad is None]
    assert not missing, f"no gradient for {missing}"
    norm = torch.stack([grad.norm() for grad in trained.values()]).norm()
    ref.compare("gradnorm_all", norm, rtol=1e-3)
    for name in (key.removeprefix("grad/") for key in ref.keys() if key.startswith("grad/")):
        gradient = trained[name].flatten()
        ref.compare(f"gradnorm/{name}", gradient.norm(), rtol=1e-3, atol=1e-6 * float(norm))
        step = max(1, len(gradient) // 64)
        stored = ref[f"grad/{name}"]
        ref.compare(f"grad/{name}", gradient[::step][: len(stored)], atol=1e-2 * float(np.linalg.norm(stored)) + 1e-8)
