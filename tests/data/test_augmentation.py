"""Resize and flip change image, labels and evidence alike, by numbers of the generator that is passed in."""

import cv2
import numpy as np
import pytest
import torch

from weakseg.data.augmentation import ResizeFlip, build_augmentation, keep_ratio_size, resize_map
from weakseg.labels import WeakLabels


def picture(height=12, width=20):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels(*points, size=(12, 20)):
    count = len(points)
    return WeakLabels(
        image_size=size,
        classes=torch.zeros(count, dtype=torch.int64),
        is_crowd=torch.zeros(count, dtype=torch.bool),
        points=torch.tensor(points, dtype=torch.float32).reshape(-1, 2),
        point_target=torch.arange(count),
        point_positive=torch.ones(count, dtype=torch.bool),
    )


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((50, 70), (90, 140), (90, 126)),  # the short side decides: scale 1.8
        ((50, 100), (90, 140), (70, 140)),  # the long side decides: scale 1.4
        ((100, 50), (90, 140), (140, 70)),
        ((375, 500), (600, 1333), (600, 800)),
        ((333, 500), (600, 1333), (600, 901)),  # 900.9 rounds up
        ((427, 640), (480, 1333), (480, 719)),  # 719.4 rounds down
        ((2, 4), (3, 100), (3, 6)),
        ((3, 5), (5, 100), (5, 8)),  # 8.33
        ((3, 1000), (1, 100), (1, 100)),  # never below one pixel
    ],
)
def test_size_within_both_limits(size, limits, expected):
    assert keep_ratio_size(*size, *limits) == expected


def test_resize_then_flip():
    image, weak = picture(), labels((19.5, 0.5), (3.0, 11.5))
    evidence = {"edges": image[..., 0].astype(np.float32)}
    augment = ResizeFlip(short_sides=(24,), long_side=100, flip_probability=1.0)
    new, moved, maps = augment(image, weak, evidence, np.random.default_rng(0))
    expected = cv2.resize(image, (40, 24), interpolation=cv2.INTER_LINEAR)[:, ::-1]
    np.testing.assert_array_equal(new, expected)
    assert moved.image_size == (24, 40)
    torch.testing.assert_close(moved.points, torch.tensor([[1.0, 1.0], [34.0, 23.0]]))
    np.testing.assert_allclose(maps["edges"], expected[..., 0], atol=1)


def test_without_flip_and_resize_nothing_changes():
    image, weak = picture(), labels((1.5, 2.5))
    evidence = {"map": np.arange(240).reshape(12, 20)}
    new, same, maps = ResizeFlip(short_sides=(0,), long_side=5)(image, weak, evidence, np.random.default_rng(0))
    np.testing.assert_array_equal(new, image)
    np.testing.assert_array_equal(maps["map"], evidence["map"])
    assert same.points.tolist() == [[1.5, 2.5]] and same.image_size == (12, 20)


def test_flip_comes_at_its_rate_and_all_move_together():
    image, weak = picture(), labels((4.5, 3.5))
    augment = ResizeFlip(short_sides=(12,), long_side=100, flip_probability=0.5)
    generator = np.random.default_rng(7)
    flips = 0
    for _ in range(400):
        new, moved, maps = augment(image, weak, {"map": image[..., 1]}, generator)
        is_flipped = moved.points[0, 0].item() == 15.5
        flips += is_flipped
        expected = image[:, ::-1] if is_flipped else image
        np.testing.assert_array_equal(new, expected)
        np.testing.assert_array_equal(maps["map"], expected[..., 1])
    assert 160 < flips < 240


def test_the_point_stays_on_its_pixel():
    """A single bright pixel: after flip and upscaling, the point lies on the brightest pixel."""
    image = np.zeros((9, 11, 3), dtype=np.uint8)
    image[2, 7] = 255
    augment = ResizeFlip(short_sides=(27,), long_side=100, flip_probability=1.0)
    new, moved, _ = augment(image, labels((7.5, 2.5), size=(9, 11)), {}, np.random.default_rng(0))
    x, y = moved.points[0].floor().int().tolist()
    assert new[y, x, 0] == new.max() == 255


def test_sizes_are_drawn_from_the_list_or_the_range():
    generator = np.random.default_rng(0)

    def heights(**arguments):
        augment = ResizeFlip(long_side=100, **arguments)
        return {augment(picture(), labels(), {}, generator)[0].shape[0] for _ in range(80)}

    assert heights(short_sides=(8, 12, 16)) == {8, 12, 16}
    assert heights(short_sides=(8, 12), is_range=True) == {8, 9, 10, 11, 12}


def test_the_generator_decides():
    augment = ResizeFlip(short_sides=(8, 12, 16, 20), long_side=100, flip_probability=0.5)

    def run(seed):
        generator = np.random.default_rng(seed)
        return [augment(picture(), labels((1, 2)), {}, generator)[0].tobytes() for _ in range(8)]

    assert run(1) == run(1) != run(2)


def test_integer_maps_take_the_pixel_whose_centre_is_nearest():
    values = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    np.testing.assert_array_equal(resize_map(values, (2, 2)), [[2, 4], [6, 8]])
    np.testing.assert_array_equal(resize_map(values[:1, :3], (1, 5)), [[1, 1, 2, 3, 3]])
    np.testing.assert_array_equal(resize_map(values > 4, (4, 4)), np.array([[0] * 4] * 2 + [[1] * 4] * 2, dtype=bool))
    channels = np.stack([values, values * 10], axis=-1)
    np.testing.assert_array_equal(resize_map(channels, (2, 2)), [[[2, 20], [4, 40]], [[6, 60], [8, 80]]])


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (6, 8, 5)])
def test_float_maps_are_bilinear_with_pixel_centres(shape):
    values = np.random.default_rng(0).random(shape)
    tensor = torch.from_numpy(values).float().reshape(6, 8, -1).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(tensor, (9, 12), mode="bilinear")[0].permute(1, 2, 0)
    found = resize_map(values, (9, 12))
    assert found.shape == (9, 12, *shape[2:])
    np.testing.assert_allclose(found.reshape(9, 12, -1), expected, atol=1e-5)


def test_entry_from_the_config(cfg):
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    train, test = build_augmentation(cfg, True), build_augmentation(cfg, False)
    assert (train.short_sides, train.long_side, train.is_range, train.flip_probability) == ((24, 30, 36), 60, True, 0.5)
    assert (test.short_sides, test.long_side, test.flip_probability) == ((24,), 1333, 0.0)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.RANDOM_FLIP = "choice", "none"
    assert build_augmentation(cfg, True).flip_probability == 0.0
    assert not build_augmentation(cfg, True).is_range


def test_wrong_names_say_so(cfg):
    cfg.INPUT.RANDOM_FLIP = "vertical"
    with pytest.raises(ValueError, match="RANDOM_FLIP: expected one of none, horizontal; found 'vertical'"):
        build_augmentation(cfg, True)
    cfg.INPUT.AUGMENTATION = "mosaic"
    with pytest.raises(ValueError, match="AUGMENTATION: expected one of .*resize_flip.*found 'mosaic'"):
        build_augmentation(cfg, True)
