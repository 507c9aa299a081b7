"""Point2Mask's training images: labelled pixels as published (nearest resizing), and as coordinates."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from weakseg.config import add_weakseg_config
from weakseg.data.augmentation import build_augmentation
from weakseg.labels import WeakLabels
from weakseg.labels.geometry import resize
from weakseg.methods.point2mask.augmentation import resize_labelled_pixels


def labels(points, size):
    count = len(points)
    return WeakLabels(
        image_size=size,
        classes=torch.arange(count),
        is_crowd=torch.zeros(count, dtype=torch.bool),
        points=torch.tensor(points, dtype=torch.float32).reshape(-1, 2),
        point_target=torch.arange(count),
        point_positive=torch.arange(count) % 3 != 0,
    )


@pytest.mark.parametrize("seed", range(30))
def test_labelled_pixels_are_those_of_the_resized_mask(seed):
    """Truth: each point drawn into a mask of its own, which OpenCV resizes."""
    generator = np.random.default_rng(seed)
    height, width, new_height, new_width = generator.integers(1, 60, 4).tolist()
    pixels = generator.permutation(height * width)[:5]
    points = [(p % width + generator.uniform(0, 0.99), p // width + generator.uniform(0, 0.99)) for p in pixels]
    weak = labels(points, (height, width))
    found = resize_labelled_pixels(weak, (new_height, new_width))
    expected = []
    for target, pixel in enumerate(pixels):
        mask = np.zeros((height, width), dtype=np.uint8)
        mask.flat[pixel] = 1
        resized = cv2.resize(mask, (new_width, new_height), interpolation=cv2.INTER_NEAREST)
        expected += [(x + 0.5, y + 0.5, target, target % 3 != 0) for y, x in zip(*np.nonzero(resized))]
    values = (found.points.tolist(), found.point_target.tolist(), found.point_positive.tolist())
    rows = [(*point, target, is_positive) for point, target, is_positive in zip(*values)]
    assert sorted(rows) == sorted(expected)
    assert found.image_size == (new_height, new_width)
    torch.testing.assert_close(found.classes, weak.classes)


def test_upscaling_makes_blocks_and_downscaling_loses_points():
    weak = labels([(1.2, 0.7), (2.0, 1.9)], (2, 4))
    doubled = resize_labelled_pixels(weak, (4, 8))
    assert doubled.points[doubled.point_target == 0].tolist() == [[2.5, 0.5], [3.5, 0.5], [2.5, 1.5], [3.5, 1.5]]
    assert doubled.points[doubled.point_target == 1].tolist() == [[4.5, 2.5], [5.5, 2.5], [4.5, 3.5], [5.5, 3.5]]
    # Nearest resizing to half the size keeps pixels of even row and column.
    assert len(resize_labelled_pixels(weak, (1, 2)).points) == 0
    assert resize_labelled_pixels(labels([(2.9, 0.1)], (2, 4)), (1, 2)).points.tolist() == [[1.5, 0.5]]


def test_no_point_stays_no_point():
    found = resize_labelled_pixels(labels([], (4, 6)), (8, 12))
    assert found.points.shape == (0, 2) and found.point_target.shape == (0,) and found.image_size == (8, 12)


def test_other_labels_are_resized_as_ever():
    weak = labels([(1.0, 1.0)], (4, 6)).replace(
        boxes=torch.tensor([[1.0, 1.0, 3.0, 2.0]]), box_target=torch.zeros(1, dtype=torch.int64)
    )
    found = resize_labelled_pixels(weak, (8, 12))
    torch.testing.assert_close(found.boxes, resize(weak, (8, 12)).boxes)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_weakseg_config(cfg)
    cfg.INPUT.AUGMENTATION = "point2mask"
    cfg.INPUT.MIN_SIZE_TRAIN = (20,)
    cfg.INPUT.MAX_SIZE_TRAIN = 100
    cfg.INPUT.RANDOM_FLIP = "none"
    return cfg


@pytest.mark.parametrize("official", [False, True])
def test_the_compatibility_key_chooses(cfg, official):
    cfg.MODEL.POINT2MASK.OFFICIAL_COMPAT = official
    augment = build_augmentation(cfg, True)
    image = np.zeros((10, 16, 3), dtype=np.uint8)
    new, weak, _ = augment(image, labels([(3.25, 4.5)], (10, 16)), {}, np.random.default_rng(0))
    assert new.shape == (20, 32, 3) and weak.image_size == (20, 32)
    if official:
        assert weak.points.tolist() == [[6.5, 8.5], [7.5, 8.5], [6.5, 9.5], [7.5, 9.5]]
        assert weak.point_target.tolist() == [0, 0, 0, 0]
    else:
        assert weak.points.tolist() == [[6.5, 9.0]] and weak.point_target.tolist() == [0]


def test_no_point_vanishes_by_default(cfg):
    cfg.INPUT.MIN_SIZE_TRAIN = (3,)
    points = [(x + 0.5, y + 0.5) for x in range(16) for y in range(10)]
    image = np.zeros((10, 16, 3), dtype=np.uint8)
    arguments = image, labels(points, (10, 16)), {}, np.random.default_rng(0)
    _, weak, _ = build_augmentation(cfg, True)(*arguments)
    assert weak.point_target.tolist() == list(range(160))
    assert (weak.points >= 0).all() and (weak.points < torch.tensor([5.0, 3.0])).all()
    cfg.MODEL.POINT2MASK.OFFICIAL_COMPAT = True
    _, weak, _ = build_augmentation(cfg, True)(*arguments)
    assert len(weak.points) == 3 * 5


def test_training_flips_half_of_the_images(cfg):
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    augment, generator = build_augmentation(cfg, True), np.random.default_rng(0)
    image = np.zeros((10, 16, 3), dtype=np.uint8)
    weak = labels([(1.25, 1.25)], (10, 16))
    x = [augment(image, weak, {}, generator)[1].points[0, 0].item() for _ in range(200)]
    assert set(x) == {2.5, 29.5} and 70 < x.count(29.5) < 130
    test_view = build_augmentation(cfg, False)
    assert (test_view.flip_probability, test_view.short_sides) == (0.0, (cfg.INPUT.MIN_SIZE_TEST,))
