"""Matching against all assignments, location losses against plain loops."""

import itertools
import math

import pytest
import torch

from weakseg.methods.point2mask.set_losses import box_scales, generalized_iou, location_losses, match

WEIGHTS = {"class_weight": 2.0, "box_weight": 5.0, "giou_weight": 2.0}
SIZES = [(96, 128), (80, 60)]


def problem(counts, queries=5, layers=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, len(counts), queries, 3, generator=generator)
    centre, extent = (torch.rand(layers, len(counts), queries, 2, generator=generator) for _ in range(2))
    boxes = torch.cat([centre * 0.6 + 0.2, extent * 0.3 + 0.05], -1)
    pseudo_boxes, classes = [], []
    for count, (height, width) in zip(counts, SIZES):
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.5
        side = torch.rand(count, 2, generator=generator) * 25 + 5
        pseudo_boxes.append(torch.cat([corner, corner + side], 1))
        classes.append(torch.randint(0, 3, (count,), generator=generator))
    scales = box_scales(SIZES[: len(counts)])
    return logits, boxes, {"pseudo_boxes": pseudo_boxes, "classes": classes, "image_scales": scales}


def giou(a, b):
    wide = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return wide * high / union - (hull - union) / hull


def distances(box, target, size):
    """(L1 in the unit of the image, GIoU) of a cxcywh box in [0, 1] and an absolute xyxy target."""
    height, width = size
    cx, cy, w, h = box
    corners = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
    x0, y0, x1, y1 = target
    centred = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
    return sum(abs(p - t) for p, t in zip(box, centred)), giou(corners, target)


def pair_cost(logit, box, target, size):
    p = 1 / (1 + math.exp(-logit))
    l1, overlap = distances(box, target, size)
    focal = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
    return 2 * focal + 5 * l1 - 2 * overlap


def test_generalized_iou_by_hand():
    first = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 2, 2], [3, 3, 3, 3]])
    second = torch.tensor([[0.0, 0, 2, 2], [2, 0, 3, 1], [1, 1, 3, 3], [3, 3, 3, 3]])
    expected = torch.tensor([1.0, -1 / 3, 1 / 7 - 2 / 9, 0.0])
    torch.testing.assert_close(generalized_iou(first, second), expected)
    assert torch.equal(generalized_iou(first, second), generalized_iou(second, first))
    # Union 0 and hull 0 are floored at 1e-6: an empty box beside a small one.
    tiny = torch.tensor([0.0, 0.0, 5e-4, 1e-3])
    torch.testing.assert_close(generalized_iou(tiny, tiny), torch.tensor(0.5))


@pytest.mark.parametrize("seed", range(3))
def test_matching_has_the_least_cost_of_all_assignments(seed):
    logits, boxes, targets = problem([3, 2], queries=4, seed=seed)
    for layer, matches in enumerate(match(logits, boxes, **targets, **WEIGHTS)):
        for b, (queries, instances) in enumerate(matches):
            labels, pseudo = targets["classes"][b].tolist(), targets["pseudo_boxes"][b].tolist()

            def cost(assigned, layer=layer, b=b, labels=labels, pseudo=pseudo):
                terms = (
                    pair_cost(logits[layer, b, q, labels[k]].item(), boxes[layer, b, q].tolist(), pseudo[k], SIZES[b])
                    for k, q in enumerate(assigned)
                )
                return sum(terms)

            best = min(itertools.permutations(range(4), len(labels)), key=cost)
            assert dict(zip(instances.tolist(), queries.tolist())) == dict(enumerate(best))
            assert queries.tolist() == sorted(queries.tolist())


def test_layers_and_images_are_matched_independently():
    logits, boxes, targets = problem([3, 2])
    together = match(logits, boxes, **targets, **WEIGHTS)
    for layer in range(2):
        for b in range(2):
            alone = {name: values[b : b + 1] for name, values in targets.items()}
            single = match(
                logits[layer : layer + 1, b : b + 1], boxes[layer : layer + 1, b : b + 1], **alone, **WEIGHTS
            )
            assert all(torch.equal(a, c) for a, c in zip(together[layer][b], single[0][0]))


def test_nothing_and_more_instances_than_queries():
    logits, boxes, targets = problem([0, 7], queries=5, layers=1)
    (nothing, everything) = match(logits, boxes, **targets, **WEIGHTS)[0]
    assert nothing[0].shape == nothing[1].shape == (0,)
    assert everything[0].tolist() == [0, 1, 2, 3, 4] and len(set(everything[1].tolist())) == 5


def test_a_diverged_network_is_matched_somehow():
    logits, boxes, targets = problem([3, 2])
    queries, _ = match(torch.full_like(logits, torch.nan), boxes, **targets, **WEIGHTS)[0][0]
    assert len(set(queries.tolist())) == 3


@pytest.mark.parametrize("counts", [[2, 3], [0, 2], [0, 0]])
def test_losses_are_sums_over_matched_pairs(counts):
    logits, boxes, targets = problem(counts, layers=1, seed=3)
    matches = match(logits, boxes, **targets, **WEIGHTS)[0]
    logits, boxes = logits[0].requires_grad_(), boxes[0].requires_grad_()
    losses = location_losses(
        logits, boxes, matches, **targets, normalizer=4.0, class_weight=2.0, box_weight=5.0, giou_weight=3.0
    )

    positive, l1_sum, giou_sum = set(), 0.0, 0.0
    for b, (queries, instances) in enumerate(matches):
        for q, k in zip(queries.tolist(), instances.tolist()):
            positive.add((b, q, targets["classes"][b][k].item()))
            l1, overlap = distances(boxes[b, q].tolist(), targets["pseudo_boxes"][b][k].tolist(), SIZES[b])
            l1_sum, giou_sum = l1_sum + l1, giou_sum + 1 - overlap
    focal = 0.0
    for index in itertools.product(*map(range, logits.shape)):
        p = torch.sigmoid(logits[index]).item()
        if index in positive:
            focal -= 0.25 * (1 - p) ** 2 * math.log(p)
        else:
            focal -= 0.75 * p**2 * math.log(1 - p)
    expected = torch.tensor([2 * focal / 4, 5 * l1_sum / 4, 3 * giou_sum / 4])
    torch.testing.assert_close(torch.stack(losses), expected, rtol=1e-5, atol=1e-5)

    sum(losses).backward()
    assert logits.grad.abs().min() > 0
    assert torch.equal(boxes.grad.abs().sum(-1).nonzero(), torch.tensor(sorted(p[:2] for p in positive)).view(-1, 2))


def test_half_precision_boxes_are_compared_in_float():
    logits, boxes, targets = problem([2, 1], layers=1)
    logits, boxes = logits.bfloat16(), boxes.bfloat16()
    matches = match(logits, boxes, **targets, **WEIGHTS)[0]
    half = location_losses(logits[0], boxes[0], matches, **targets, normalizer=1, **WEIGHTS)
    full = location_losses(logits[0].float(), boxes[0].float(), matches, **targets, normalizer=1, **WEIGHTS)
    torch.testing.assert_close(torch.stack(half), torch.stack(full))
