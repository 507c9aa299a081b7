"""Pseudo labels by walks and of every size: images whose embedding and scores are their colours, against slow ones."""

import numpy as np
import pytest
import torch
from methods.spml.pseudo_label_stubs import (
    SIZE,
    WALKING,
    ColourClassifier,
    by_peak,
    close,
    colours,
    halves,
    labeller,
    random_image,
    slanted,
    slow_resize,
    slow_softmax,
    slow_views,
    slow_walk,
    unlabelled,
    without_crf,
)


@pytest.fixture
def seen(monkeypatch):
    return without_crf(monkeypatch)


def test_cams_are_walked_with_the_background(seen):
    image, cams = random_image(*SIZE), torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(1))
    result = labeller(alpha=2.5, crf={"iterations": 7}, **WALKING).cam_walk(image, slanted, cams)
    maps = cams.double().numpy()
    maps = np.concatenate([(1 - maps.max(0, keepdims=True)) ** 2.5, maps])
    # Every 8 pixels, between the fourth and the fifth; 33 and 47 leave some over.
    cells = np.array(
        [[m[8 * i + 3 : 8 * i + 5, 8 * j + 3 : 8 * j + 5].mean() for i in range(4) for j in range(5)] for m in maps]
    )
    walked = slow_walk(cells.reshape(3, 4, 5), slow_views(image, [1.0], 50), power=2, steps=3)
    expected = slow_resize(walked, SIZE)
    [(scores, _, arguments)] = seen
    close(scores, expected)
    assert arguments == {"iterations": 7}
    assert result.dtype == torch.int64 and torch.equal(result, torch.from_numpy(expected.argmax(0)))


def test_a_cam_fills_what_looks_alike():
    # On 4 of the 12 red cells the class has 1/3 everywhere, the background 2/3; on 8 of 12 it is the reverse.
    image = halves()
    cams = torch.zeros(2, 32, 48)
    cams[1, :, :8] = 1
    assert (labeller().cam_walk(image, colours, cams) == 0).all()
    cams[1, :, :16] = 1
    found = labeller().cam_walk(image, colours, cams)
    # From 2/3 to 0 between the middles of cells at 19.5 and 27.5: less than 1/2 from 21.5 on.
    assert (found[:, :22] == 2).all() and (found[:, 22:] == 0).all()


def test_the_power_of_the_background_decides():
    cams = torch.full((2, 16, 24), 0.3)
    cams[0] = 0.2
    assert (labeller(alpha=3.0).cam_walk(halves(16, 24), colours, cams) == 0).all()  # 0.343 against 0.3
    assert (labeller(alpha=4.0).cam_walk(halves(16, 24), colours, cams) == 2).all()  # 0.240 against 0.3


def test_no_cam_is_background_everywhere():
    assert (labeller(crf={}).cam_walk(random_image(*SIZE), colours, torch.zeros(2, *SIZE)) == 0).all()


def test_cams_of_all_classes_have_no_background():
    cams = torch.zeros(3, 16, 24)
    cams[1] = 0.01
    assert (labeller().cam_walk(halves(16, 24), colours, cams) == 1).all()


def test_cams_in_half_precision():
    cams = torch.full((2, 16, 24), 0.9, dtype=torch.float16)
    assert (labeller().cam_walk(halves(16, 24), lambda images: images.half(), cams) == 1).all()


def test_classifier_is_walked(seen):
    image, labels = random_image(*SIZE), unlabelled(*SIZE)
    labels[0, 0], labels[-1, -1] = 0, 2
    labeller(crf={}, **WALKING).classifier_walk(image, slanted, ColourClassifier(), labels)
    views = slow_views(image, [1.0], 50)
    cells = by_peak(np.mean([slow_softmax(view, 0) for view in views], 0), {0, 2})
    close(seen[0][0], slow_resize(slow_walk(cells, views, power=2, steps=3), SIZE))


def test_classifier_only_has_one_step_and_no_crf(seen):
    image, labels = random_image(*SIZE), unlabelled(*SIZE)
    labels[5, 7], labels[8, 2] = 0, 1
    ways = labeller(crf={}, **WALKING)
    result = ways.classifier_only(image, slanted, ColourClassifier(), labels)
    views = slow_views(image, [0.75, 1.0], 50)
    walked = slow_walk(by_peak(slow_softmax(np.mean(views, 0), 0), {0, 1}), views, power=2, steps=1)
    expected = slow_resize(walked, SIZE).argmax(0)
    assert not seen and 0 < expected.sum() < expected.size
    assert torch.equal(result, torch.from_numpy(expected))


@pytest.mark.parametrize("way", ["classifier_walk", "classifier_only"])
def test_labels_without_a_class_rule_out_none(way):
    # The red half is of class 0, the green one of class 1; class 2 has the same small probability everywhere.
    image, classifier = 4 * halves(), ColourClassifier()
    for value in (3, 254, 255):
        found = getattr(labeller(), way)(image, colours, classifier, unlabelled(32, 48, value))
        assert (found[:, :20] == 0).all() and (found[:, 28:] == 1).all()
        published = getattr(labeller(official=True), way)(image, colours, classifier, unlabelled(32, 48, value))
        assert (published == 0).all()


def test_labels_without_a_class_leave_probabilities(seen):
    labeller(crf={}).classifier_walk(random_image(*SIZE), colours, ColourClassifier(), unlabelled(*SIZE))
    labeller(crf={}, walk_steps=0).classifier_walk(random_image(*SIZE), colours, ColourClassifier(), unlabelled(*SIZE))
    close(seen[1][0].sum(0), torch.ones(SIZE))


@pytest.mark.parametrize("way", ["classifier_walk", "classifier_only"])
def test_a_single_class_is_everywhere(way):
    labels = unlabelled(*SIZE, 255)
    labels[3, 3] = 1
    assert (getattr(labeller(), way)(random_image(*SIZE), colours, ColourClassifier(), labels.byte()) == 1).all()


def test_classifier_may_work_at_its_stride(seen):
    for at_stride_4 in (False, True):
        ways = labeller(crf={}, walk_steps=0, at_stride_4=at_stride_4)
        ways.classifier_walk(halves(), colours, ColourClassifier(), unlabelled(32, 48))
    # The first cell is red: logits (1, 0, 0), doubled at the stride.
    close(seen[0][0][:, 0, 0], slow_softmax(np.array([1.0, 0, 0]), 0))
    close(seen[1][0][:, 0, 0], slow_softmax(np.array([2.0, 0, 0]), 0))


def test_the_crf_sees_the_image_rounded(seen):
    picture = torch.randint(0, 256, (3, 16, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    image = (picture / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    for official in (False, True):
        ways = labeller(crf={}, mean=mean, std=std, official=official)
        ways.cam_walk(image, colours, torch.zeros(2, 16, 24))
    assert torch.equal(seen[0][1].permute(2, 0, 1), picture)
    off = picture.int() - seen[1][1].permute(2, 0, 1).int()
    assert set(off.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("size", [SIZE, (5, 7), (1, 1), (9, 3), (8, 16)])
@pytest.mark.parametrize("crop_size", [20, 60])
def test_every_size(size, crop_size):
    inputs = []

    def embed(images):
        inputs.append(images.shape[-2:])
        return images[..., ::4, ::4]

    image = random_image(*size)
    labels = unlabelled(*size)
    labels[0, 0] = 1
    memory = torch.eye(3), torch.arange(3)
    ways = labeller(crop_size=crop_size, divisor=4, crf={"iterations": 1})
    cams = torch.zeros(2, *size)
    cams[0] = 1
    results = [
        ways.cam_walk(image, embed, cams),
        ways.classifier_walk(image, embed, ColourClassifier(), labels),
        ways.classifier_only(image, embed, ColourClassifier(), labels),
        ways.nearest_segments(image, embed, memory, labels),
        ways.densepose_walk(image, embed, labels, torch.zeros_like(labels)),
    ]
    for result in results:
        assert result.shape == size and (result == 1).all()
    assert all(side % 4 == 0 and side >= crop_size for shape in inputs for side in shape)


def test_a_data_set_of_one_class():
    ways, image, labels = labeller(num_classes=1), random_image(*SIZE), unlabelled(*SIZE)
    labels[2:6, 2:6] = 0
    assert (ways.nearest_segments(image, colours, (torch.eye(3), torch.zeros(3, dtype=torch.long)), labels) == 0).all()
    assert (ways.densepose_walk(image, colours, labels, torch.zeros_like(labels)) == 0).all()
