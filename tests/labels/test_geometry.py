"""Points move as coordinates and stay on their pixels' content; masks, boxes and scribbles agree with them."""

import math

import pytest
import torch

from weakseg.labels import WeakLabels, crop, hflip, resize


def random_labels(seed: int = 0, height: int = 9, width: int = 13, targets: int = 4) -> WeakLabels:
    """Every target has a mask, its tight box, some of its pixels as points and a scribble."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(targets, height, width, generator=generator) < 0.3
    points, point_target, scribbles, boxes = [], [], [], []
    for target, mask in enumerate(masks):
        pixels = mask.nonzero().flip(1).float()
        boxes.append(torch.cat([pixels.amin(0), pixels.amax(0) + 1]))
        chosen = pixels[torch.randperm(len(pixels), generator=generator)[:3]]
        points.append(chosen + torch.rand(chosen.shape, generator=generator) * 0.9)
        point_target += [target] * len(chosen)
        scribbles.append(chosen + 0.5)
    points = torch.cat(points)
    return WeakLabels(
        (height, width),
        classes=torch.arange(targets),
        is_crowd=torch.zeros(targets, dtype=torch.bool),
        points=points,
        point_target=torch.tensor(point_target),
        point_positive=torch.arange(len(points)) % 2 == 0,
        scribbles=scribbles,
        scribble_target=torch.arange(targets),
        boxes=torch.stack(boxes),
        box_target=torch.arange(targets),
        masks=masks,
        mask_target=torch.arange(targets),
        expressions=["left one"],
        expression_target=torch.tensor([2]),
        tags=torch.tensor([1, 3]),
    )


def on_their_masks(weak: WeakLabels) -> bool:
    x, y = weak.points.floor().long().unbind(1)
    return bool(weak.masks[weak.point_target, y, x].all())


def inside(weak: WeakLabels) -> bool:
    x, y = weak.points.unbind(1)
    height, width = weak.image_size
    return bool(((x >= 0) & (x.floor() <= width - 1) & (y >= 0) & (y.floor() <= height - 1)).all())


def assert_same(first: WeakLabels, second: WeakLabels, atol: float = 1e-5):
    assert first.image_size == second.image_size
    for name in ("points", "boxes"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=0, atol=atol)
    for name in ("classes", "is_crowd", "point_target", "point_positive", "scribble_target", "box_target", "masks"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    for line, other in zip(first.scribbles, second.scribbles, strict=True):
        torch.testing.assert_close(line, other, rtol=0, atol=atol)
    assert torch.equal(first.mask_target, second.mask_target) and torch.equal(first.tags, second.tags)
    assert first.expressions == second.expressions


def test_flip_by_hand():
    weak = WeakLabels(
        (2, 5),
        points=torch.tensor([[0.5, 1.5], [3.25, 0.0]]),
        boxes=torch.tensor([[1.0, 0.0, 2.0, 2.0]]),
        scribbles=[torch.tensor([[4.5, 0.5], [2.5, 1.0]])],
        masks=torch.tensor([[[1, 1, 0, 0, 0], [0, 0, 0, 1, 0]]], dtype=torch.bool),
    )
    flipped = hflip(weak)
    assert flipped.points.tolist() == [[4.5, 1.5], [1.75, 0.0]]
    assert flipped.boxes.tolist() == [[3.0, 0.0, 4.0, 2.0]]
    assert flipped.scribbles[0].tolist() == [[0.5, 0.5], [2.5, 1.0]]
    assert flipped.masks.int().tolist() == [[[0, 0, 0, 1, 1], [0, 1, 0, 0, 0]]]


def test_flip_is_an_involution_and_keeps_points_on_masks():
    for seed in range(5):
        weak = random_labels(seed)
        assert on_their_masks(weak) and on_their_masks(hflip(weak))
        assert_same(hflip(hflip(weak)), weak)
        assert not torch.equal(hflip(weak).points, weak.points)


def test_whole_numbers_flip_to_the_mirrored_pixel():
    weak = WeakLabels((1, 10), points=torch.tensor([[float(x), 0.0] for x in range(10)]))
    assert hflip(weak).points[:, 0].floor().tolist() == list(range(9, -1, -1))
    assert hflip(hflip(weak)).points[:, 0].floor().tolist() == list(range(10))


def test_resize_by_hand():
    weak = WeakLabels(
        (2, 4),
        points=torch.tensor([[0.5, 1.5], [3.0, 0.25]]),
        boxes=torch.tensor([[1.0, 0.0, 3.0, 2.0]]),
        scribbles=[torch.tensor([[4.0, 0.5], [2.0, 1.0]])],
        masks=torch.tensor([[[1, 0, 0, 0], [0, 0, 1, 0]]], dtype=torch.bool),
    )
    larger = resize(weak, (4, 12))
    assert larger.image_size == (4, 12)
    assert larger.points.tolist() == [[1.5, 3.0], [9.0, 0.5]]
    assert larger.boxes.tolist() == [[3.0, 0.0, 9.0, 4.0]]
    assert larger.scribbles[0][1].tolist() == [6.0, 2.0] and 11.99 < larger.scribbles[0][0, 0] < 12
    expected = [[1] * 3 + [0] * 9, [1] * 3 + [0] * 9, [0] * 6 + [1] * 3 + [0] * 3, [0] * 6 + [1] * 3 + [0] * 3]
    assert larger.masks[0].int().tolist() == expected
    # centres of the two new columns are at old x = 1 and 3, the border of pixels 0 and 1 and of 2 and 3
    assert resize(weak, (2, 2)).masks[0].int().tolist() == [[0, 0], [0, 0]]
    assert resize(weak, (1, 4)).masks[0].int().tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_enlarging_and_back_changes_nothing(factor):
    weak = random_labels()
    larger = resize(weak, (9 * factor, 13 * factor))
    torch.testing.assert_close(larger.points, weak.points * factor)
    torch.testing.assert_close(larger.boxes, weak.boxes * factor)
    assert larger.masks.sum() == weak.masks.sum() * factor**2
    assert on_their_masks(larger)
    assert_same(resize(larger, (9, 13)), weak)


def test_masks_are_resized_by_the_nearest_pixel_centre():
    weak = random_labels(height=7, width=11)
    for new_height, new_width in ((5, 4), (3, 11), (16, 9), (7, 30)):
        masks = resize(weak, (new_height, new_width)).masks
        for i in range(new_height):
            for j in range(new_width):
                source = weak.masks[:, math.floor((i + 0.5) * 7 / new_height), math.floor((j + 0.5) * 11 / new_width)]
                assert torch.equal(masks[:, i, j], source)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 1), (1333, 800), (8, 12)])
def test_no_point_vanishes_and_none_leaves_the_image(size):
    weak = random_labels()
    corners = torch.tensor([[0.0, 0.0], [12.99999, 8.99999], [13.0 - 1e-6, 0.0]])
    weak = weak.replace(points=torch.cat([weak.points, corners]))
    resized = resize(weak, size)
    assert len(resized.points) == len(weak.points) and inside(resized)
    assert len(resized.boxes) == len(weak.boxes) and len(resized.scribbles) == len(weak.scribbles)
    assert resized.masks.shape == (len(weak), *size)


def test_resizing_and_flipping_commute():
    weak = random_labels()
    assert_same(hflip(resize(weak, (18, 26))), resize(hflip(weak), (18, 26)), atol=1e-4)


def test_crop_by_hand():
    weak = WeakLabels(
        (6, 8),
        classes=torch.tensor([4, 5, 6]),
        points=torch.tensor([[2.0, 1.0], [1.99, 1.0], [6.0, 2.0], [5.99, 3.99], [3.0, 4.0], [3.0, 0.99]]),
        point_target=torch.tensor([0, 1, 2, 0, 1, 2]),
        point_positive=torch.tensor([True, True, True, False, True, True]),
        boxes=torch.tensor([[0.0, 0.0, 8.0, 6.0], [0.0, 0.0, 2.0, 6.0], [3.0, 2.0, 4.0, 7.0], [0.0, 4.0, 8.0, 6.0]]),
        box_target=torch.tensor([0, 1, 2, 2]),
        scribbles=[
            torch.tensor([[1.0, 2.0], [3.0, 2.0], [4.0, 3.0], [7.0, 3.0], [5.0, 1.5]]),
            torch.tensor([[0.0, 2.0], [7.0, 2.0]]),
        ],
        scribble_target=torch.tensor([1, 2]),
    )
    window = crop(weak, 2, 1, 4, 3)
    assert window.image_size == (3, 4) and window.classes.tolist() == [4, 5, 6]
    torch.testing.assert_close(window.points, torch.tensor([[0.0, 0.0], [3.99, 2.99]]))
    assert window.point_target.tolist() == [0, 0] and window.point_positive.tolist() == [True, False]
    assert window.boxes.tolist() == [[0.0, 0.0, 4.0, 3.0], [1.0, 1.0, 2.0, 3.0]] and window.box_target.tolist() == [
        0,
        2,
    ]
    assert [line.tolist() for line in window.scribbles] == [[[1.0, 1.0], [2.0, 2.0]], [[3.0, 0.5]]]
    assert window.scribble_target.tolist() == [1, 1]


def test_cropped_masks_and_points_agree():
    weak = random_labels()
    empty = torch.zeros(1, 9, 13, dtype=torch.bool)
    empty[0, 0, 0] = True
    weak = weak.replace(masks=torch.cat([empty, weak.masks]), mask_target=torch.tensor([3, 0, 1, 2, 3]))
    window = crop(weak, 3, 2, 8, 6)
    assert torch.equal(window.masks, weak.masks[1:, 2:8, 3:11]) and window.mask_target.tolist() == [0, 1, 2, 3]
    assert on_their_masks(window) and inside(window) and 0 < len(window.points) < len(weak.points)
    assert torch.equal(window.tags, weak.tags) and window.expressions == weak.expressions
    whole = crop(weak, 0, 0, 13, 9)
    assert_same(whole, weak)


def test_crop_commutes_with_flip():
    weak = random_labels()
    assert_same(crop(hflip(weak), 13 - 3 - 8, 2, 8, 6), hflip(crop(weak, 3, 2, 8, 6)))


def test_nothing_in_nothing_out():
    empty = WeakLabels((5, 7))
    for result, size in ((resize(empty, (1, 1)), (1, 1)), (hflip(empty), (5, 7)), (crop(empty, 1, 1, 2, 3), (3, 2))):
        assert result.image_size == size and len(result) == 0 and result.masks is None and result.tags is None
        assert result.points.shape == (0, 2) and result.boxes.shape == (0, 4) and result.scribbles == []
        assert result.scribble_target.dtype == torch.int64


def test_the_original_is_not_changed():
    weak, copy = random_labels(), random_labels()
    for change in (hflip, lambda w: resize(w, (3, 3)), lambda w: crop(w, 2, 2, 3, 3)):
        change(weak)
        assert_same(weak, copy, atol=0)
