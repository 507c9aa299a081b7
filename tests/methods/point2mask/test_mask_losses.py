"""Dice against its definition on full-size masks; the stuff losses against plain formulas."""

import pytest
import torch
import torch.nn.functional as F

from weakseg.methods.point2mask import mask_losses
from weakseg.methods.point2mask.mask_losses import dice_losses, stuff_losses, stuff_presence
from weakseg.methods.point2mask.semantic_losses import existence_loss_sum

SIZE = (21, 30)


def literal_dice(masks, label_map, labels, image_size):
    """(L, n) from resized masks and one-hot targets."""
    height, width = image_size
    p = F.interpolate(masks, label_map.shape, mode="bilinear", align_corners=False)[..., :height, :width]
    t = (label_map == labels[:, None, None])[:, :height, :width].to(p)
    overlap, energy, area = (p * t).sum((-2, -1)), (p * p).sum((-2, -1)), t.sum((-2, -1))
    return 1 - 2 * overlap / (energy + 1e-3 + area + 1e-3)


def problem(counts, layers=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = [2 * torch.rand(layers, n, 5, 7, generator=generator) for n in counts]
    label_maps = torch.randint(-1, 4, (len(counts), *SIZE), generator=generator)
    labels = [torch.arange(n) for n in counts]
    return masks, label_maps, labels


@pytest.mark.parametrize("image_sizes", [None, [(21, 30), (17, 22)]])
def test_dice_equals_the_definition_on_full_size_masks(image_sizes):
    masks, label_maps, labels = problem([4, 2])
    masks = [mask.requires_grad_() for mask in masks]
    actual = dice_losses(masks, label_maps, labels, image_sizes=image_sizes)
    expected = torch.cat(
        [literal_dice(masks[b], label_maps[b], labels[b], (image_sizes or [SIZE] * 2)[b]) for b in range(2)], 1
    )
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    weight = torch.rand(expected.shape, generator=torch.Generator().manual_seed(1))
    for a, e in zip(*(torch.autograd.grad((losses * weight).sum(), masks) for losses in (actual, expected))):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-7)


def test_padding_does_not_count_when_image_sizes_are_given():
    masks, label_maps, labels = problem([3])
    inside = dice_losses(masks, label_maps, labels, image_sizes=[(12, 20)])
    label_maps[:, 12:], label_maps[:, :, 20:] = 1, 2
    assert torch.equal(dice_losses(masks, label_maps, labels, image_sizes=[(12, 20)]), inside)
    assert not torch.equal(dice_losses(masks, label_maps, labels), inside)


def test_dice_by_hand():
    """A full mask on half the image: 1 - 2 * 8 / (16 + 8); an empty target is 1; an empty mask on an empty target 1."""
    label_map = torch.zeros(1, 4, 4, dtype=torch.int64)
    label_map[0, :2] = 1
    masks = [torch.stack([torch.ones(2, 2), torch.ones(2, 2), torch.zeros(2, 2)])[None]]
    losses = dice_losses(masks, label_map, [torch.tensor([1, 7, 7])])
    torch.testing.assert_close(losses, torch.tensor([[1 - 16 / 24.002, 1.0, 1.0]]))


def test_no_mask_in_one_image_or_in_all():
    masks, label_maps, labels = problem([0, 2])
    assert dice_losses(masks, label_maps, labels).shape == (3, 2)
    nothing = torch.zeros(3, 0, 5, 7, requires_grad=True)
    loss = dice_losses([nothing], label_maps[:1], [torch.zeros(0)]).sum()
    loss.backward()
    assert loss == 0 and nothing.grad is not None


def test_targets_in_small_chunks_give_the_same(monkeypatch):
    masks, label_maps, labels = problem([4, 2])
    whole = dice_losses(masks, label_maps, labels)
    monkeypatch.setattr(mask_losses, "_CHUNK_PIXELS", SIZE[0] * SIZE[1] * 3)
    torch.testing.assert_close(dice_losses(masks, label_maps, labels), whole)


def test_dice_under_autocast_is_in_float():
    masks, label_maps, labels = problem([4, 2])
    whole = dice_losses(masks, label_maps, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(dice_losses(masks, label_maps, labels), whole)


def test_presence_is_per_image_and_class():
    semantic = torch.tensor([[[0, 3, 255], [3, 255, 255]], [[4, 4, 0], [2, 1, 5]]])
    expected = torch.tensor([[True, False, False], [False, True, True]])
    assert torch.equal(stuff_presence(semantic, num_things=3, num_stuff=3), expected)
    assert torch.equal(stuff_presence(semantic[:1] * 0 + 255, num_things=3, num_stuff=3), torch.zeros(1, 3).bool())


def test_existence_is_a_focal_loss():
    logits = torch.tensor([[[0.0, 1.0]], [[-2.0, 0.5]]])
    p = logits.sigmoid()
    expected = 0.25 * (1 - p[..., 0]) ** 2 * -p[..., 0].log() + 0.75 * p[..., 1] ** 2 * -(1 - p[..., 1]).log()
    torch.testing.assert_close(existence_loss_sum(logits, torch.tensor([[True, False]])), expected[:, 0])


def stuff_problem():
    generator = torch.Generator().manual_seed(4)
    masks = torch.rand(2, 2, 3, 5, 7, generator=generator).requires_grad_()
    logits = torch.randn(2, 2, 3, generator=generator).requires_grad_()
    semantic = torch.full((2, *SIZE), 255)
    semantic[0, :10], semantic[0, 10:, :5], semantic[1, 4:9] = 4, 1, 6
    return masks, logits, semantic


def test_stuff_losses_count_present_classes():
    masks, logits, semantic = stuff_problem()
    sizes = [(21, 25), (15, 30)]
    present = stuff_presence(semantic, num_things=4, num_stuff=3)
    assert present.tolist() == [[True, False, False], [False, False, True]]
    dice, focal = stuff_losses(
        masks, logits, semantic, present=present, num_things=4, normalizer=5.0, image_sizes=sizes
    )
    first = literal_dice(masks[:, 0, :1], semantic[0], torch.tensor([4]), sizes[0])
    second = literal_dice(masks[:, 1, 2:], semantic[1], torch.tensor([6]), sizes[1])
    torch.testing.assert_close(dice, (first + second)[:, 0] / 5)
    torch.testing.assert_close(focal, existence_loss_sum(logits, present) / 5)
    dice.sum().backward()
    assert torch.equal(masks.grad.abs().sum((0, 3, 4)) > 0, present)


def test_without_stuff_the_stuff_losses_are_zeros_of_the_graph():
    masks, logits, semantic = stuff_problem()
    semantic.fill_(255)
    present = stuff_presence(semantic, num_things=4, num_stuff=3)
    losses = stuff_losses(masks, logits, semantic, present=present, num_things=4, normalizer=torch.tensor(0.0))
    torch.stack(losses).sum().backward()
    assert torch.equal(torch.stack(losses), torch.zeros(2, 2))
    assert torch.equal(masks.grad, torch.zeros_like(masks)) and torch.equal(logits.grad, torch.zeros_like(logits))
