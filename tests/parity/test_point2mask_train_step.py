"""One training step of Point2Mask: pseudo labels, every loss term and gradients, against recordings of the release."""

import re

import numpy as np
import torch
from detectron2.structures import ImageList

from parity.point2mask_model import build_model, filled_state, input_batch
from parity.reference import Reference, reference_files
from weakseg.labels import WeakLabels
from weakseg.methods.point2mask.checkpoint import published_name
from weakseg.methods.point2mask.criterion import Criterion
from weakseg.methods.point2mask.head import Point2MaskHead
from weakseg.methods.point2mask.loss_weights import LossWeights
from weakseg.methods.point2mask.pseudo_labels import PseudoLabels

# Published constants of card sections 3 and 4.
RAMP_ITERS = 14659
TRANSPORT_WARMUP = {"voc": 12000, "coco": 60000}


def class_counts(ref, path):
    """(T, U): things from the overridden class biases, all classes from the gradient of their scales. Of that only 64
    entries are stored, so more classes are looked up in the state_dict_<config>.json that the file's name tells."""
    num_things = len(ref["override/bbox_head.cls_branches.0.bias"])
    scale = "bbox_head.semantic_proj.weight"
    num_classes = len(ref[f"grad/{scale}"])
    if num_classes >= 64:
        known = {p.stem.removeprefix("state_dict_"): p for p in path.parent.glob("state_dict_*.json")}
        config = max((name for name in known if name in path.name), key=len)
        num_classes = Reference(known[config])[scale][0]
    return num_things, num_classes - num_things


def recorded_labels(ref, image_sizes, num_things):
    """The labelled pixels of each image as weak labels: instances with their points, then stuff points of the map."""
    batch = []
    for i, size in enumerate(image_sizes):
        classes, rows = ref.tensor(f"labels{i}"), ref.tensor(f"points{i}")
        point_map = ref.tensor("points")[i]
        stuff_y, stuff_x = ((point_map >= num_things) & (point_map < 255)).nonzero().unbind(1)
        stuff = point_map[stuff_y, stuff_x]
        target = torch.cat([rows[:, 0], len(classes) + torch.arange(len(stuff))])
        xy = torch.cat([rows[:, [2, 1]], torch.stack([stuff_x, stuff_y], 1)]) + 0.5
        weak = WeakLabels(
            image_size=size,
            classes=torch.cat([classes, stuff]),
            is_crowd=torch.zeros(len(classes) + len(stuff), dtype=torch.bool),
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
        depth = int(re.search(r"_r(\d+)", path.name)[1])
        warmup = TRANSPORT_WARMUP[re.search("|".join(TRANSPORT_WARMUP), path.name)[0]]
        images, image_sizes = input_batch(ref)
        height, width = images.shape[-2:]
        model = build_model(depth, num_things=num_things, num_stuff=num_stuff, dropout=0.0)
        state = filled_state(model, ref)
        criterion = Criterion(
            num_things=num_things,
            num_stuff=num_stuff,
            pixel_mean=[123.675, 116.28, 103.53],
            pixel_std=[58.395, 57.12, 57.375],
            channel_order="RGB",
            temperature=0.07,
            ramp_iters=RAMP_ITERS,
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

        recorded = PseudoLabels(
            instance_map=[],
            boxes=[ref.tensor(f"pseudo_boxes{i}") for i in range(len(batch))],
            semantic=ref.tensor("pl_sem"),
        )
        for i in range(len(batch)):
            masks = ref.bits(f"pseudo_masks{i}", (len(ref[f"labels{i}"]), height, width))
            owner = np.where(masks.any(0), masks.argmax(0), -1) if len(masks) else np.full((height, width), -1)
            recorded.instance_map.append(torch.from_numpy(owner))

        _, ours = model.head.grow_points(model.backbone(images), image_list, batch)
        for i in range(len(batch)):
            ref.compare_fraction(f"pseudo_masks{i}", ours.instance_map[i], recorded.instance_map[i])
            np.testing.assert_allclose(ours.boxes[i], recorded.boxes[i], atol=1)
        ref.compare_fraction("pl_sem", ours.semantic)

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


def compare_gradients(ref, gradients):
    frozen = set(ref["no_grad_params"].tolist())
    assert all(name.startswith("backbone.") for name in frozen)
    trained = {name: grad for name, grad in gradients.items() if name not in frozen}
    missing = [name for name, grad in trained.items() if grad is None]
    assert not missing, f"no gradient for {missing}"
    norm = torch.stack([grad.norm() for grad in trained.values()]).norm()
    ref.compare("gradnorm_all", norm, rtol=1e-3)
    for name in (key.removeprefix("grad/") for key in ref.keys() if key.startswith("grad/")):
        gradient = trained[name].flatten()
        ref.compare(f"gradnorm/{name}", gradient.norm(), rtol=1e-3)
        step = max(1, len(gradient) // 64)
        stored = ref[f"grad/{name}"]
        ref.compare(f"grad/{name}", gradient[::step][: len(stored)], atol=1e-2 * float(np.linalg.norm(stored)))
