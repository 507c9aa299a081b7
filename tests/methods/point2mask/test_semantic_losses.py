import math

import pytest
import torch

from weakseg.layers.position_encoding import level_paddings
from weakseg.layers.tree_filter import tree_filter
from weakseg.methods.point2mask.semantic_losses import (
    color_affinity,
    color_prior_loss,
    color_tree,
    dilate_points,
    existence_loss_sum,
    partial_cross_entropy_sum,
    pixels_inside,
    tree_loss_sum,
    unlabelled_count,
)

NONE = 255


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _point_map() -> torch.Tensor:
    """Two images of 12 x 15 with points at the border, close to each other, of one class twice; the third has none."""
    points = torch.full((3, 12, 15), NONE)
    points[0, 0, 0], points[0, 5, 6], points[0, 6, 8], points[0, 11, 14] = 2, 3, 1, 2
    points[1, 4, 4] = 0
    return points


def _dense_by_loops(points: torch.Tensor, num_classes: int, reach: int) -> torch.Tensor:
    dense = torch.zeros(len(points), num_classes, *points.shape[1:], dtype=torch.bool)
    for b, y, x in (points != NONE).nonzero().tolist():
        dense[b, points[b, y, x], max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1] = True
    return dense


@pytest.mark.parametrize("size", [1, 3, 5, 17])
def test_points_grow_to_squares_of_their_class(size):
    points = _point_map()
    dilated = dilate_points(points, 4, size)
    dense = _dense_by_loops(points, 4, size // 2)
    assert torch.equal(dilated.masks, dense[dilated.image_index, dilated.class_index])
    assert dilated.image_index.tolist() == [0, 0, 0, 1] and dilated.class_index.tolist() == [1, 2, 3, 0]
    assert dilated.present.tolist() == [[False, True, True, True], [True, False, False, False], [False] * 4]


def test_the_published_square_has_17_pixels_a_side():
    points = torch.full((1, 40, 40), NONE)
    points[0, 20, 19] = 0
    mask = dilate_points(points, 1).masks[0]
    assert mask.sum() == 17 * 17 and mask[12:29, 11:28].all()


@pytest.mark.parametrize("small", [(4, 5), (5, 7), (12, 15), (1, 1)])
def test_small_targets_take_the_nearest_pixel_and_the_lowest_class(small):
    points = _point_map()
    dense = _dense_by_loops(points, 4, 2)
    target, covering = dilate_points(points, 4, 5).labels_at(*small)
    for b, y, x in torch.ones(3, *small).nonzero().tolist():
        classes = dense[b, :, y * 12 // small[0], x * 15 // small[1]].nonzero().flatten().tolist()
        assert target[b, y, x] == min(classes, default=NONE)
        assert covering[b, y, x] == len(classes)


def test_no_point_in_the_batch():
    dilated = dilate_points(torch.full((2, 6, 8), NONE), 3)
    target, covering = dilated.labels_at(3, 4)
    assert dilated.masks.shape == (0, 6, 8) and dilated.present.shape == (2, 3)
    assert not dilated.present.any() and (target == NONE).all() and not covering.any()


def test_unlabelled_pixels_are_counted_once_and_only_inside_the_image():
    covering = torch.tensor([[[0, 1, 2], [3, 0, 0]]])
    valid = torch.tensor([[[True, True, True], [True, True, False]]])
    assert unlabelled_count(covering) == 3
    assert unlabelled_count(covering, valid) == 2
    assert unlabelled_count(covering, official=True) == 1 + 0 - 1 - 2 + 1 + 1


@pytest.mark.parametrize("size", [(64, 96), (16, 24), (8, 12), (7, 9), (1, 1)])
def test_pixels_inside_are_those_that_the_network_does_not_call_padding(size):
    image_sizes, padded = [(64, 96), (37, 90), (1, 5)], (64, 96)
    inside = pixels_inside(image_sizes, padded, size)
    (padding,) = level_paddings(image_sizes, padded, [size])
    assert torch.equal(inside, ~padding)
    expected = [len([i for i in range(size[0]) if i * 64 // size[0] < height]) for height, _ in image_sizes]
    assert inside[:, :, 0].sum(1).tolist() == expected


def test_existence_is_a_focal_loss_summed_by_layer():
    logits = _random(2, 3, 4).float()
    present = _random(3, 4, seed=1) > 0
    expected = [0.0, 0.0]
    for layer, image, kind in torch.ones(2, 3, 4).nonzero().tolist():
        p = 1 / (1 + math.exp(-float(logits[layer, image, kind])))
        if present[image, kind]:
            expected[layer] -= 0.25 * (1 - p) ** 2 * math.log(p)
        else:
            expected[layer] -= 0.75 * p**2 * math.log(1 - p)
    torch.testing.assert_close(existence_loss_sum(logits, present), torch.tensor(expected))


def test_partial_cross_entropy_sums_labelled_pixels_by_layer():
    logits = _random(2, 2, 3, 4, 5)
    target = torch.full((2, 4, 5), NONE)
    target[0, 1, 2], target[0, 3, 4], target[1, 0, 0] = 2, 0, 1
    expected = torch.zeros(2, dtype=torch.float64)
    for b, y, x in (target != NONE).nonzero().tolist():
        expected -= logits[:, b, :, y, x].softmax(1)[:, target[b, y, x]].log()
    torch.testing.assert_close(partial_cross_entropy_sum(logits, target), expected)


def test_without_labelled_pixels_the_loss_is_a_zero_in_the_graph():
    logits = _random(2, 2, 3, 4, 5).requires_grad_()
    losses = partial_cross_entropy_sum(logits, torch.full((2, 4, 5), NONE))
    losses.sum().backward()
    assert losses.tolist() == [0, 0] and not logits.grad.any()


def _lab() -> torch.Tensor:
    """Two images of grey levels that differ by 2.4 and 2.415, on both sides of the threshold 2 log(1 / 0.3) = 2.408; of
    the two levels about it one counts as nearly black."""
    level = torch.randint(0, 4, (2, 1, 6, 7), generator=torch.Generator().manual_seed(2))
    lightness = torch.tensor([0.005, 1.205, 2.405, 3.62], dtype=torch.float64)[level]
    return torch.cat([lightness, torch.zeros_like(lightness), torch.zeros_like(lightness)], dim=1)


def _color_prior_by_loops(logits, lab, valid, *, official):
    """One layer: logits (B, C, h, w). The card's text; outside neighbours are black with log-probability 0."""
    batch, _, height, width = lab.shape
    log_p = logits.log_softmax(1)
    total = logits.new_zeros(())
    for b in range(batch):
        for kernel, share in ((3, 0.35), (5, 0.65)):
            steps = [2 * (i - kernel // 2) for i in range(kernel)]
            loss, count = logits.new_zeros(()), 0
            for y, x in torch.ones(height, width).nonzero().tolist():
                for dy, dx in ((dy, dx) for dy in steps for dx in steps if (dy, dx) != (0, 0)):
                    inside = 0 <= y + dy < height and 0 <= x + dx < width
                    if not official and not (inside and valid[b, y, x] and valid[b, y + dy, x + dx]):
                        continue
                    other = lab[b, :, y + dy, x + dx] if inside else torch.zeros(3)
                    if math.exp(-0.5 * float((lab[b, :, y, x] - other).norm())) < 0.3:
                        continue
                    count += 1
                    if inside:
                        loss = loss - torch.logsumexp(log_p[b, :, y, x] + log_p[b, :, y + dy, x + dx], 0)
            total = total + share * loss / max(count, 1)
    return total / batch


@pytest.mark.parametrize("official", [False, True])
def test_color_prior_and_its_gradient_are_those_of_loops(official):
    lab, logits = _lab(), (3 * _random(2, 2, 3, 6, 7)).requires_grad_()
    valid = torch.ones(2, 6, 7, dtype=torch.bool)
    if not official:
        valid[0, :, 5:], valid[1, 4:] = False, False
    affinity = color_affinity(lab, None if official else valid, official=official)
    losses = color_prior_loss(logits, affinity)
    expected = torch.stack([_color_prior_by_loops(layer, lab, valid, official=official) for layer in logits])
    torch.testing.assert_close(losses, expected)
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    (found_gradient,) = torch.autograd.grad((losses * weights).sum(), logits)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), logits)
    torch.testing.assert_close(found_gradient, expected_gradient)


def test_color_prior_is_finite_where_neighbours_are_sure_of_different_classes():
    logits = torch.zeros(1, 1, 2, 1, 3)
    logits[0, 0, 0, 0, 0] = logits[0, 0, 1, 0, 2] = 400
    logits.requires_grad_()
    loss = color_prior_loss(logits, color_affinity(torch.zeros(1, 3, 1, 3)))
    loss.sum().backward()
    # log (p_0(i) p_0(j) + p_1(i) p_1(j)) = log (2 exp(-400)), once for each window
    torch.testing.assert_close(loss, torch.tensor([400 - math.log(2)]))
    torch.testing.assert_close(logits.grad[0, 0, :, 0, 0], torch.tensor([0.5, -0.5]))


def test_color_prior_of_an_image_without_a_close_pair_is_zero():
    lab = torch.arange(30.0).view(1, 1, 5, 6).expand(1, 3, 5, 6) * 10
    for maps in (lab, lab[..., :1, :1]):
        logits = _random(2, 1, 3, *maps.shape[2:]).float().requires_grad_()
        losses = color_prior_loss(logits, color_affinity(maps))
        losses.sum().backward()
        assert losses.tolist() == [0, 0] and not logits.grad.any()


def test_tree_loss_is_the_distance_from_the_filtered_probabilities_by_layer():
    logits, images = _random(2, 2, 3, 6, 7), 0.1 * _random(2, 3, 6, 7, seed=1)
    tree, similarity = color_tree(images)
    vertex = torch.arange(42).expand(2, 42)
    pixels = images.flatten(2)
    parents = pixels.gather(2, tree.parent[:, None].expand_as(pixels))
    expected_similarity = torch.exp(-(pixels - parents).square().sum(1) / 0.02)
    torch.testing.assert_close(similarity[vertex > 0], expected_similarity[vertex > 0])
    for layer, loss in zip(logits, tree_loss_sum(logits, tree, similarity)):
        probability = layer.softmax(1)
        torch.testing.assert_close(loss, (probability - tree_filter(probability, tree, similarity)).abs().sum())


def test_tree_loss_gradient_flows_through_both_sides():
    logits = _random(1, 1, 2, 3, 4).requires_grad_()
    tree, similarity = color_tree(0.1 * _random(1, 3, 3, 4, seed=1))
    assert torch.autograd.gradcheck(lambda z: tree_loss_sum(z, tree, similarity), (logits,))


def _present_classes() -> torch.Tensor:
    """Three images of five classes: three present, one, none."""
    present = torch.zeros(3, 5, dtype=torch.bool)
    present[0, [0, 2, 3]], present[1, 4] = True, True
    return present


def test_tree_loss_filters_the_sum_of_the_absent_classes():
    logits, present = _random(2, 3, 5, 6, 7).requires_grad_(), _present_classes()
    tree, similarity = color_tree(0.1 * _random(3, 3, 6, 7, seed=1))
    probability = logits.softmax(2)
    # Each class by itself, where it is present; absent ones make the last channel.
    channels = torch.cat([probability * present[..., None, None], probability.new_zeros(2, 3, 1, 6, 7)], dim=2)
    absent = [sum(probability[:, b, c] for c in range(5) if not present[b, c]) for b in range(3)]
    channels = channels + torch.nn.functional.pad(torch.stack(absent, 1)[:, :, None], (0, 0, 0, 0, 5, 0))
    expected = torch.stack([(layer - tree_filter(layer, tree, similarity)).abs().sum() for layer in channels])
    losses = tree_loss_sum(logits, tree, similarity, present=present)
    torch.testing.assert_close(losses, expected)
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    found, wanted = (torch.autograd.grad((loss * weights).sum(), logits)[0] for loss in (losses, expected))
    torch.testing.assert_close(found, wanted)
    assert found[:, :2].abs().amin() > 0  # of the absent classes too

    published = tree_loss_sum(logits, tree, similarity)
    own = (probability.transpose(0, 1) * ~present[:, None, :, None, None]).flatten(1, 2)
    own = (own - tree_filter(own, tree, similarity)).abs().unflatten(1, (2, 5)).sum((0, 2, 3, 4))
    assert (losses < published).all() and (losses > published - own).all()


def test_tree_loss_is_the_published_one_where_at_most_one_class_is_absent():
    logits, present = _random(2, 2, 3, 6, 7), torch.tensor([[True, False, True], [True, True, True]])
    tree, similarity = color_tree(0.1 * _random(2, 3, 6, 7, seed=1))
    losses = tree_loss_sum(logits, tree, similarity, present=present)
    torch.testing.assert_close(losses, tree_loss_sum(logits, tree, similarity))


def test_absent_classes_cost_no_filter(monkeypatch):
    filtered = []
    module = tree_loss_sum.__globals__
    original = module["tree_filter"]
    monkeypatch.setitem(module, "tree_filter", lambda values, *a: filtered.append(values.shape) or original(values, *a))
    tree_loss_sum(_random(2, 3, 5, 6, 7), *color_tree(_random(3, 3, 6, 7)), present=_present_classes())
    assert filtered == [(3, 2 * (3 + 1), 6, 7)]


def test_colour_losses_are_taken_in_full_precision():
    logits, images = _random(1, 1, 3, 6, 7).bfloat16(), 0.1 * _random(1, 3, 6, 7, seed=1).float()
    present = torch.tensor([[True, False, False]])
    tree, similarity = color_tree(images)
    affinity = color_affinity(images)
    for loss in (
        lambda z: color_prior_loss(z, affinity),
        lambda z: tree_loss_sum(z, tree, similarity),
        lambda z: tree_loss_sum(z, tree, similarity, present=present),
    ):
        torch.testing.assert_close(loss(logits), loss(logits.float()), rtol=0, atol=0)


def test_tree_loss_of_one_pixel_is_zero():
    logits = _random(2, 1, 3, 1, 1).requires_grad_()
    losses = tree_loss_sum(logits, *color_tree(torch.zeros(1, 3, 1, 1)))
    losses.sum().backward()
    assert losses.tolist() == [0, 0] and not logits.grad.any()


def test_padding_changes_nothing():
    sizes, padded = [(5, 6), (7, 4)], (7, 8)
    logits, images, lab = (
        _random(2, 2, 3, *padded),
        0.1 * _random(2, 3, *padded, seed=1),
        _random(2, 3, *padded, seed=2),
    )
    valid = torch.zeros(2, *padded, dtype=torch.bool)
    for b, (height, width) in enumerate(sizes):
        valid[b, :height, :width] = True
    images = images.masked_fill(~valid[:, None], 0)
    trees = torch.zeros(2, dtype=torch.float64)
    colors = torch.zeros(2, dtype=torch.float64)
    for b, (height, width) in enumerate(sizes):
        crop = (slice(b, b + 1), slice(None), slice(height), slice(width))
        alone = logits[(slice(None), *crop)]
        trees += tree_loss_sum(alone, *color_tree(images[crop]))
        colors += color_prior_loss(alone, color_affinity(lab[crop])) / 2
    torch.testing.assert_close(tree_loss_sum(logits, *color_tree(images, valid), valid), trees)
    present = torch.tensor([[True, True, False]] * 2)
    torch.testing.assert_close(tree_loss_sum(logits, *color_tree(images, valid), valid, present=present), trees)
    torch.testing.assert_close(color_prior_loss(logits, color_affinity(lab, valid)), colors)
